"""`voxelopt report` without a browser: what the page holds."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from scipy.ndimage import map_coordinates

from command_line import QUICK, strict_json, volume
from reports import REGISTER, Page, change_report, small_picture
from voxelopt_train import commands, outputs
from voxelopt_train.html_report.page import most_voxels
from voxelopt_train.phantom import ORGANS


def affine_of(path: str | Path) -> np.ndarray:
    return np.asarray(Nifti1Image.from_filename(path).affine)


# What register records


def test_register_names_its_inputs(registered):
    report = strict_json(registered / "out/Report.json")
    expected = ("fixed", "moving", "fixed_labels", "moving_labels")
    assert report["inputs"] == {n: str(registered.resolve() / f"{n}.nii.gz") for n in expected}
    assert report["settings"]["initial"] == "center-of-mass"
    assert report["settings"]["layer"] == {"levels": 2}
    assert report["settings"]["preset"] == "intensity"


def test_inputs_that_lie_with_the_results_move_with_them(run, no_picture):
    assert run(*REGISTER, "-o", "here_")[0] == 0
    assert strict_json("here_Report.json")["inputs"] == {
        "fixed": "fixed.nii.gz",
        "moving": "moving.nii.gz",
        "fixed_labels": None,
        "moving_labels": None,
    }


def test_the_demo_and_its_report(run, monkeypatch, pair):
    monkeypatch.setattr(commands, "phantom_pair", lambda seed: pair)
    monkeypatch.setattr(outputs, "registration_picture", small_picture)
    assert run("demo", *QUICK)[0] == 0
    Path("voxelopt_demo").rename("moved")
    code, said, err = run("report", "moved/", "-o", "report.html")
    assert (code, err) == (0, "") and "note" not in said
    case = Page("report.html").data["cases"][0]
    assert {"fixed", "moving", "warped", "fixed_labels"} <= set(case["volumes"]["layers"])
    assert case["labels"]["6"] == ORGANS[6] == "liver"


# The page


def test_the_page_holds_all_there_is(run, out):
    code, said, err = run("report", "out/")
    assert (code, err) == (0, "")
    size = Path("report.html").stat().st_size
    assert said == f"wrote report.html ({size / 1e6:.1f} MB)\n"
    page = Page("report.html")
    (case,) = page.data["cases"]
    layers = case["volumes"]["layers"]
    assert set(layers) == {
        "fixed", "moving", "warped", "fixed_labels", "moving_labels", "warped_labels",
        "entropy", "jacobian", "displacement",
    }  # fmt: skip
    for name in layers:
        assert page.layer(name).any()
    assert layers["moving"]["aligned"] and not layers["warped"]["aligned"]
    report = strict_json("out/Report.json")
    assert case["report"]["labels"] == report["labels"]
    assert case["report"]["inputs"]["fixed"] == "fixed.nii.gz"
    assert str(out.parent) not in page.source  # what is mailed around tells no paths
    assert case["notes"] == []
    jpeg = base64.b64decode(page.scripts["case0-picture"])
    assert jpeg.startswith(b"\xff\xd8") and page.title == "Registration: out"


def test_volumes_are_what_the_files_hold(run, out):
    """Against SciPy, at the page's voxels that lie inside the fixed grid."""
    run("report", "out/")
    page = Page("report.html")
    volumes = page.data["cases"][0]["volumes"]
    to_fixed = np.linalg.inv(affine_of("fixed.nii.gz"))
    indices = np.indices(volumes["shape"]).reshape(3, -1)
    matrix = to_fixed @ np.array(volumes["affine"])
    at = matrix[:3, :3] @ indices + matrix[:3, 3:]

    def expected(name: str, order: int) -> np.ndarray:
        values = map_coordinates(volume(name).astype(float), at, order=order, mode="nearest")
        return values.reshape(volumes["shape"])

    for layer, file in (("fixed", "fixed"), ("warped", "out/Warped")):
        meaning = volumes["layers"][layer]
        grey = (expected(f"{file}.nii.gz", 1) - meaning["low"]) / (meaning["high"] - meaning["low"])
        assert np.abs(page.layer(layer) - 255 * grey.clip(0, 1)).max() <= 0.51
    labels = expected("out/WarpedLabels.nii.gz", 0)
    np.testing.assert_array_equal(page.layer("warped_labels"), labels)
    meaning = volumes["layers"]["jacobian"]
    share = (np.log(expected("out/Jacobian.nii.gz", 1)) - meaning["low"]) / 2 / meaning["high"]
    assert np.abs(page.layer("jacobian") - (1 + 248 * share.clip(0, 1))).max() < 2
    u = page.layer("displacement") * volumes["layers"]["displacement"]["step"]
    lps = volume("out/1Warp.nii.gz")[:, :, :, 0] * [-1, -1, 1]
    u_mm = np.stack([map_coordinates(lps[..., n], at, order=1) for n in range(3)], axis=-1)
    u_mm = u_mm.reshape(*volumes["shape"], 3)
    assert np.abs(u @ np.array(volumes["affine"])[:3, :3].T - u_mm).max() < 0.2


@pytest.mark.parametrize("turn", [np.diag([-1, 1, -1, 1]), np.eye(4)[[2, 0, 1, 3]]])
def test_the_page_has_axes_close_to_ras_whatever_the_files_have(run, out, turn):
    """Every image turned in the world alike: the page's axes stay along R, A and S."""
    for path in (*Path().glob("*.nii.gz"), out / "Warped.nii.gz", out / "WarpedLabels.nii.gz"):
        image = Nifti1Image.from_filename(path)
        Nifti1Image(np.asarray(image.dataobj), turn @ affine_of(path)).to_filename(path)
    for name in ("1Warp.nii.gz", "0GenericAffine.mat", "Entropy.nii.gz"):
        (out / name).unlink()
    assert run("report", "out/")[0] == 0
    page = Page("report.html")
    steps = np.array(page.data["cases"][0]["volumes"]["affine"])[:3, :3]
    assert np.array_equal(np.abs(steps).argmax(axis=0), [0, 1, 2]) and (np.diag(steps) > 0).all()
    # The same voxels, wherever they have gone.
    assert np.array_equal(
        np.unique(page.layer("fixed_labels")), np.unique(volume("fixed_labels.nii.gz"))
    )


def test_folds_are_marked_in_voxels_of_any_size(run, out):
    warp = Nifti1Image.from_filename(out / "1Warp.nii.gz")
    field = np.asarray(warp.dataobj).copy()
    field[20, 16, 18, 0] += [40, 0, 0]  # past its neighbour, 8 mm away
    Nifti1Image(field, warp.affine, warp.header).to_filename(out / "1Warp.nii.gz")
    run("report", "out/")
    page = Page("report.html")
    affine = np.array(page.data["cases"][0]["volumes"]["affine"])
    place = np.linalg.inv(affine) @ affine_of("fixed.nii.gz") @ [20, 16, 18, 1]
    folds = np.argwhere(page.layer("jacobian") == page.data["bytes"]["fold"])
    assert len(folds) and np.abs(folds - place[:3]).max() <= 2


def test_missing_pieces_are_left_out(run, out):
    for name in ("Entropy", "Jacobian", "WarpedLabels", "1Warp"):
        (out / f"{name}.nii.gz").unlink()
    (out / "Report.png").unlink()
    change_report(out, labels={}, inputs={}, settings=None)
    code, said, err = run("report", "out")
    assert (code, err) == (0, "")
    assert "note: out: the fixed image came as an array, give --fixed FILE" in said
    page = Page("report.html")
    assert set(page.data["cases"][0]["volumes"]["layers"]) == {"warped"}
    assert "case0-picture" not in page.scripts


def test_inputs_that_have_moved_can_be_given(run, out):
    Path("elsewhere").mkdir()
    for name in ("fixed", "moving"):
        Path(f"{name}.nii.gz").rename(f"elsewhere/{name}.nii.gz")
    _, said, _ = run("report", "out")
    assert f"the fixed image is not at {out.parent / 'fixed.nii.gz'} any more" in said
    layers = Page("report.html").data["cases"][0]["volumes"]["layers"]
    assert "fixed" not in layers and "moving" not in layers and "warped" in layers
    given = ["--fixed", "elsewhere/fixed.nii.gz", "--moving", "elsewhere/moving.nii.gz"]
    code, said, _ = run("report", "out", *given)
    assert code == 0 and "note" not in said
    layers = Page("report.html").data["cases"][0]["volumes"]["layers"]
    assert {"fixed", "moving", "fixed_labels", "moving_labels"} <= set(layers)


def test_many_cases_have_fewer_voxels_each():
    assert [most_voxels(n) for n in (1, 4, 12, 96, 10_000)] == [192, 184, 128, 64, 48]
    for cases in (12, 50, 200):  # three images of a byte each, in base64
        assert cases * most_voxels(cases) ** 3 * 3 * 4 / 3 < 110e6


# Names of labels


@pytest.mark.parametrize(
    "content",
    [{"6": "liver", "1": "spleen"}, {"labels": {"background": 0, "liver": 6, "spleen": 1}}],
)
def test_names_of_labels(run, out, content):
    Path("names.json").write_text(json.dumps(content))
    assert run("report", "out", "--label-names", "names.json")[0] == 0
    labels = Page("report.html").data["cases"][0]["labels"]
    assert labels["6"] == "liver" and labels["1"] == "spleen"
