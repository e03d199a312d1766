"""`voxelopt report` without a browser: what the page holds, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imsave
from nibabel.nifti1 import Nifti1Image
from scipy.ndimage import map_coordinates

from command_line import LABELS, QUICK, contents, names, strict_json, volume
from reports import Page
from voxelopt_train import commands, outputs
from voxelopt_train.cli import main
from voxelopt_train.html_report.page import most_voxels
from voxelopt_train.images import Image
from voxelopt_train.phantom import ORGANS, Pair

REGISTER = ["register", "fixed.nii.gz", "moving.nii.gz", *QUICK]
ALL = [*LABELS, "--entropy", "--jacobian", "--initial", "center-of-mass"]


def small_picture(path: Path, *_, **__) -> None:
    imsave(path, np.random.default_rng(0).random((20, 40, 3)))


@pytest.fixture(scope="module")
def registered(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a pair of images, and in `out` their registration with all that there is."""
    folder = tmp_path_factory.mktemp("registered")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(outputs, "registration_picture", small_picture)
        for name in ("fixed", "moving", "fixed_labels", "moving_labels"):
            image: Image = getattr(pair, name)
            Nifti1Image(image.data.numpy(), image.grid.affine).to_filename(f"{name}.nii.gz")
        assert main([*REGISTER, *ALL, "-o", "out/"]) == 0
    yield folder


@pytest.fixture
def out(registered: Path, folder: Path) -> Path:
    """A copy of the registration in the current folder, its inputs beside it."""
    shutil.copytree(registered / "out", folder / "out")
    report = json.loads((folder / "out/Report.json").read_text())
    paths = {name: str(folder / Path(path).name) for name, path in report["inputs"].items()}
    change_report(folder / "out", inputs=paths)
    return folder / "out"


def change_report(out: Path, **changes) -> None:
    path = out / "Report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


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


# Cohorts


def test_a_cohort_is_found_in_sub_folders_or_by_prefixes(run, monkeypatch, out):
    monkeypatch.setattr(outputs, "registration_picture", small_picture)
    for case in ("b", "a10", "a9"):
        shutil.copytree(out, f"cohort/{case}")
    Path("cohort/notes").mkdir()
    assert run(*REGISTER, "-o", "cohort/more_")[0] == 0
    assert run("report", "cohort", "out", "-o", "new/page.html")[0] == 0
    cases = Page("new/page.html").data["cases"]
    assert [case["name"] for case in cases] == ["more", "a10", "a9", "b", "out"]
    assert names("new") == {"page.html"}
    assert cases[0]["volumes"]["layers"].keys() < cases[1]["volumes"]["layers"].keys()


def test_cases_that_failed_at_last_are_left_out_and_told(run, out):
    for case in ("a", "b"):
        shutil.copytree(out, f"cohort/{case}")
    rows = [{"case": "a", "status": "done"}, {"case": "b", "status": "failed"}]
    rows[1] |= {"fixed": "/a disk/b.nii", "error": "fixed image /a disk/b.nii: damaged & <cut>"}
    Path("cohort/results.json").write_text(json.dumps({"cases": rows}))
    code, told, _ = run("report", "cohort")
    assert code == 0 and "note: case b failed and is left out: fixed image" in told
    assert [case["name"] for case in Page("report.html").data["cases"]] == ["a"]
    text = Path("report.html").read_text()
    assert '<h1 id="title">a, 1 failed</h1>' in text
    assert "case b failed and is left out: fixed image b.nii: damaged &amp; &lt;cut&gt;</p>" in text


def test_cases_of_one_name_are_told_by_their_paths(run, out):
    for group in ("x", "y"):
        shutil.copytree(out, f"{group}/case")
    assert run("report", "x", "y/case", "x")[0] == 0
    cases = Page("report.html").data["cases"]
    assert [case["name"] for case in cases] == ["x/case", "y/case"]


def test_many_cases_have_fewer_voxels_each():
    assert [most_voxels(n) for n in (1, 4, 12, 96, 10_000)] == [192, 184, 128, 64, 48]
    for cases in (12, 50, 200):  # three images of a byte each, in base64
        assert cases * most_voxels(cases) ** 3 * 3 * 4 / 3 < 110e6


# Nothing from outside, nothing out of place


def test_the_page_asks_for_no_other_file(run, out):
    run("report", "out/")
    page = Page("report.html")
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "action", "data"):
            assert name not in attributes, (tag, attributes)
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style and "@import" not in style
    own = "".join(text for text in page.scripts.values() if "NVImage=" not in text)
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|import\(|sendBeacon", own)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", own)


def test_the_browser_may_run_these_scripts_alone(run, out):
    run("report", "out/")
    page = Page("report.html")
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy and "connect-src" not in policy
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
    code = [text for name, text in page.scripts.items() if name.isdecimal()]
    assert len(code) == 7
    for text in code:
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy


def test_names_from_files_stay_text(run, out):
    evil = "</script><script>alert(1)</script>"
    out.rename("a&b <img src=x onerror=alert(1)>")
    Path("names.json").write_text(json.dumps({"6": evil}))
    change_report(Path("a&b <img src=x onerror=alert(1)>"), settings={"features": evil})
    run("report", "a&b <img src=x onerror=alert(1)>", "--label-names", "names.json")
    page = Page("report.html")
    assert "alert(1)</script>" not in page.source and "<img src=x" not in page.source
    assert page.title == "Registration: a&b <img src=x onerror=alert(1)>"
    (case,) = page.data["cases"]
    assert case["name"] == "a&b <img src=x onerror=alert(1)>"
    assert case["labels"]["6"] == evil == case["report"]["settings"]["features"]


def test_the_viewer_is_the_one_that_its_licence_names():
    assets = files("voxelopt_train.html_report") / "assets"
    licence = (assets / "niivue.LICENSE").read_text()
    script = (assets / "niivue.umd.js").read_bytes()
    assert hashlib.sha256(script).hexdigest() in licence and "BSD 2-Clause" in licence
    assert len(script) < 4e6 and b"</script" not in script.lower()


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


# What cannot be used


def test_no_registration(refused):
    Path("empty").mkdir()
    for place in ("empty", "missing/", "missing/a_", "."):
        message = refused("report", place)
        assert message.startswith(f"{place}: no registration here, expected what voxelopt register")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "this is no JSON file that can be read"),
        ("[1, 2]", "this is no report of a registration"),
        ('{"subjects": []}', "this is no report of a registration"),
        ('{"labels": {}, "folds": 0}', "damaged, no number sd_log_jacobian"),
        (
            '{"labels": {"registered": 3}, "folds": 0, "sd_log_jacobian": 0, "seconds": 1}',
            "damaged",
        ),
    ],
)
def test_a_damaged_report(refused, out, content, expected):
    (out / "Report.json").write_text(content)
    message = refused("report", "out")
    assert message.startswith("out/Report.json: ") and expected in message


@pytest.mark.parametrize("name", ["Warped.nii.gz", "Entropy.nii.gz", "1Warp.nii.gz", "Report.png"])
def test_a_damaged_result(refused, out, name):
    whole = (out / name).read_bytes()
    (out / name).write_bytes(whole[: len(whole) // 2])
    assert f"out/{name}" in refused("report", "out")


def test_files_that_do_not_belong_together(refused, out):
    Nifti1Image(np.random.default_rng(0).random((9, 8, 7)), np.eye(4)).to_filename("other.nii.gz")
    message = refused("report", "out", "--fixed", "other.nii.gz")
    assert message.startswith("other.nii.gz does not lie on the grid of out/Warped.nii.gz")
    message = refused("report", "out", "--moving", "other.nii.gz")
    assert "moving_labels.nii.gz does not lie on the grid of other.nii.gz" in message
    assert "there is no such file" in refused("report", "out", "--fixed", "missing.nii.gz")
    shutil.copy("other.nii.gz", out / "Entropy.nii.gz")
    assert "Entropy.nii.gz does not lie on the grid of" in refused("report", "out")


def test_wrong_options(refused, out):
    shutil.copytree(out, "cohort/a")
    shutil.copytree(out, "cohort/b")
    message = refused("report", "cohort", "--fixed", "fixed.nii.gz")
    assert message == "--fixed and --moving are for one registration, there are 2 here"
    assert refused("report", "out", "-o", "page.txt").endswith("expected a name ending in .html")
    Path("names.json").write_text('{"liver": "red"}')
    message = refused("report", "out", "--label-names", "names.json")
    assert message.startswith("names.json: expected the names of labels")
    Path("file").write_text("mine")
    assert "file is a file" in refused("report", "out", "-o", "file/page.html")


def test_the_page_is_whole_or_as_it_was(run, out):
    shutil.copytree(out, "cohort/a")
    assert run("report", "cohort", "-o", "page.html")[0] == 0
    shutil.copytree(out, "cohort/b")
    Path("cohort/b/Warped.nii.gz").write_bytes(b"damaged")
    before = contents(Path())
    code, said, err = run("report", "cohort", "-o", "page.html")
    assert code == 2 and said == "" and "cohort/b/Warped.nii.gz" in err
    assert contents(Path()) == before
