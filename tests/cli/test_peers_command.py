"""``voxelopt peers``: its sets of pairs, its tables, what it keeps, and bad input."""

from __future__ import annotations

import csv
import json
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jsonargparse import Namespace
from nibabel.nifti1 import Nifti1Image

from command_line import AFFINE, sentence, strict_json
from voxelopt_layers import warp
from voxelopt_train.benchmark import peer_pairs, peers
from voxelopt_train.benchmark.peer_tools import TOOLS
from voxelopt_train.images import read_image
from voxelopt_train.phantom import CT_WINDOW, abdomen, deformed_pair, phantom_pair

SMALL = {"shape": (28, 22, 24), "spacing_mm": 12.0}
# Made once for all tests here: a phantom takes a second.
small_pair, small_deformed_pair = (
    cache(partial(make, **SMALL)) for make in (phantom_pair, deformed_pair)
)
SCAN = ["--known-warp", "fixed.nii.gz", "fixed_labels.nii.gz"]
# What stands in for two tools: one finds a shift of a voxel, the other fails when it is told to.
SCRIPT = """
import json, os, sys
import numpy as np
from nibabel.nifti1 import Nifti1Image
spec = json.loads(sys.argv[1])
images = [Nifti1Image.from_filename(spec[name]) for name in ("fixed", "moving")]
with open("log", "a") as log:
    print(json.dumps([spec["tool"], *(image.affine.tolist() for image in images)]), file=log)
if spec["tool"] == "unsteady" and os.path.exists("fail"):
    os.remove("fail")
    raise RuntimeError("no [luck]")
u = np.zeros((1, 3, *images[0].shape), np.float32)
u[:, 0] = 1
np.savez(spec["output"], displacement=u, seconds=1.5, peak_mb=200.0)
"""


@pytest.fixture
def tools(monkeypatch, folder) -> dict:
    """Two tools that take no time, and phantoms of few voxels."""
    Path("tool.py").write_text(SCRIPT)
    tool = next(iter(TOOLS.values()))
    tools = {
        name: tool._replace(settings=f"as {name}", preset=None)
        for name in ("Shift, one", "unsteady")
    }
    monkeypatch.setattr(peers, "peer_tools", SimpleNamespace(__file__=str(folder / "tool.py")))
    monkeypatch.setattr(peers, "TOOLS", tools)
    monkeypatch.setattr(peer_pairs, "phantom_pair", small_pair)
    monkeypatch.setattr(peer_pairs, "deformed_pair", small_deformed_pair)
    return tools


def log() -> list[list]:
    """The runs since it was asked last: tool, and the affines of both images."""
    lines = Path("log").read_text().splitlines() if Path("log").exists() else []
    Path("log").unlink(missing_ok=True)
    return [json.loads(line) for line in lines]


def lines(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cells(text: str, row: str) -> list[list[str]]:
    """The cells of each row of this name in Markdown tables."""
    return [
        [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.splitlines()
        if line.startswith(f"| {row} |")
    ]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def options(**given) -> Namespace:
    names = ("phantom", "deformed", "known_warp", "data", "magnitude", "window")
    return Namespace({**dict.fromkeys(names), "count": 2, **given})


def test_the_tables_say_what_tools_found(run, tools, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    code, out, err = run("peers", "-o", "out", "--count", "2", "--magnitude", "20", "30")
    assert (code, err) == (0, "") and "wrote" in out
    found = strict_json("out/peers.json")
    assert found["tools"]["unsteady"]["settings"] == "as unsteady" and found["threads"] > 0
    assert list(found["sets"]) == ["phantom", "deformed"]
    measured = []
    for n, magnitude in enumerate((20.0, 30.0)):
        described = found["sets"]["deformed"]["pairs"][n]
        pair = small_deformed_pair(n, magnitude)
        assert described["fixed"] == f"phantom {n} deformed by {magnitude:g} mm"
        fixed, moving = pair.fixed_labels.data.numpy(), pair.moving_labels.data.numpy()
        assert pair.displacement is not None
        truth = pair.displacement.numpy()[0]
        shifted = np.concatenate([moving[1:], moving[-1:]])
        inside = fixed > 0
        u = np.array([1, 0, 0]).reshape(3, 1, 1, 1)
        error = np.linalg.norm(12 * (u - truth), axis=0)[inside].mean()
        dice = {str(k): overlap(fixed == k, shifted == k) for k in range(1, 14)}
        row = described["rows"]["Shift, one"]
        assert row["dice_per_label"] == pytest.approx(dice)
        assert row["error_mm"] == pytest.approx(error, rel=1e-4)
        assert (row["sd_log_jacobian"], row["folds"]) == (pytest.approx(0, abs=1e-6), 0)
        before = described["rows"]["before"]["error_mm"]
        assert before == pytest.approx(np.linalg.norm(12 * truth, axis=0)[inside].mean(), rel=1e-4)
        measured.append((np.mean(list(dice.values())), row["hd95"], error))

    def shown(values, digits: int) -> str:
        return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"

    dice, hd95, error = zip(*measured, strict=True)
    expected = [shown(dice, 3), shown(hd95, 2), "0.000 ± 0.000", shown(error, 2), "0.0000"]
    text = Path("out/peers.md").read_text(encoding="utf-8")
    _, deformed = cells(text, "Shift, one")
    assert deformed == [*expected, "1.50", "200"]
    assert len(cells(text, "before")[0]) == 6 and "-" in cells(text, "before")[0]  # no error known
    assert "as Shift, one" in text and "as Shift, one" in out
    assert expected[0] in out
    table = lines("out/peers.csv")
    assert [(row["set"], row["pair"], row["tool"]) for row in table] == [
        (name, n, tool)
        for name in ("phantom", "deformed")
        for n in "01"
        for tool in ("before", *tools)
    ]
    assert float(table[7]["dice"]) == dice[0] and table[6]["seconds"] == ""


def test_what_was_found_is_not_computed_again(run, tools):
    command = ["peers", "-o", "out", "--phantom", "--tools"]
    assert run(*command, "SHIFT, ONE", "--count", "1")[0] == 0
    assert [line[0] for line in log()] == ["Shift, one"]
    first = strict_json("out/peers.json")["sets"]["phantom"]["pairs"][0]["rows"]
    assert run(*command, "Shift, one", "unsteady", "--count", "2")[0] == 0
    assert sorted(line[0] for line in log()) == ["Shift, one", "unsteady", "unsteady"]
    rows = [pair["rows"] for pair in strict_json("out/peers.json")["sets"]["phantom"]["pairs"]]
    assert rows[0].items() >= first.items() and list(rows[0]) == ["before", *tools]
    written = Path("out/peers.md").read_bytes()
    assert run(*command, "Shift, one", "unsteady", "--count", "2")[0] == 0
    assert log() == [] and Path("out/peers.md").read_bytes() == written
    # Other settings, or a file that is no record.
    tools["unsteady"] = tools["unsteady"]._replace(settings="other")
    Path("out/results/phantom/1/shift_one.json").write_text("[]")
    assert run(*command, "Shift, one", "unsteady", "--count", "2")[0] == 0
    assert sorted(line[0] for line in log()) == ["Shift, one", "unsteady", "unsteady"]


def test_other_pairs_of_the_same_name_are_computed(run, tools):
    command = ["peers", "-o", "out", "--deformed", "--count", "1", "--magnitude"]
    for magnitude in ("20", "25"):
        assert run(*command, magnitude)[0] == 0
        assert len(log()) == 2


def test_a_tool_that_fails_on_one_pair(run, tools):
    Path("fail").touch()
    command = ["peers", "-o", "out", "--phantom", "--count", "3"]
    code, out, _ = run(*command)
    assert code == 0
    failure = "unsteady failed on phantom 1 and phantom 0: RuntimeError: no [luck]"
    text = Path("out/peers.md").read_text(encoding="utf-8")
    assert failure in " ".join(out.split()) and failure in text
    (unsteady,), (shift,) = cells(text, "unsteady"), cells(text, "Shift, one")
    table = lines("out/peers.csv")
    rest = [float(row["dice"]) for row in table if row["tool"] == "unsteady" and not row["failed"]]
    assert unsteady[0] == f"{np.mean(rest):.3f} ± {np.std(rest):.3f} (2 of 3)" and len(rest) == 2
    assert "of" not in shift[0]
    assert table[2]["failed"] == "RuntimeError: no [luck]" and table[2]["dice"] == ""
    log()
    assert run(*command)[0] == 0
    assert [line[0] for line in log()] == ["unsteady"]  # tried again
    assert "failed" not in Path("out/peers.md").read_text(encoding="utf-8")


def test_the_layer_itself_brings_a_known_warp_back(run, monkeypatch):
    monkeypatch.setattr(peers, "_found", lambda module: False)
    command = ["peers", "-o", "out", *SCAN, "--window", "-800", "500", "--magnitude", "30"]
    code, out, _ = run(*command, "--count", "1", "--tools", "voxelopt, raw")
    assert code == 0 and "pip install convexadam" in " ".join(out.split())
    (pair,) = strict_json("out/peers.json")["sets"]["known-warp"]["pairs"]
    before, after = pair["rows"]["before"], pair["rows"]["voxelopt, raw"]
    assert after["error_mm"] < 0.7 * before["error_mm"] and after["dice"] > before["dice"] + 0.1
    assert after["seconds"] > 0 and after["peak_mb"] > 50


def test_rows_with_one_setting_changed(run, tools, monkeypatch):
    tools["voxelopt, raw"] = TOOLS["voxelopt, raw"]
    changes = ["refinements=0", "theta=[5, 1]", "preset=paper", "preset=null"]
    command = ["peers", "-o", "out", "--phantom", "--count", "1", "--tools", "unsteady", "--vary"]
    seen = []

    def spy(tool, options, threads, images):
        seen.append((tool, options))
        return "not run"

    monkeypatch.setattr(peers, "_in_process", spy)
    assert run(*command, *changes)[0] == 0
    assert seen[1:] == [
        ("voxelopt, raw", {"preset": "intensity", "settings": {"refinements": 0}}),
        ("voxelopt, raw", {"preset": "intensity", "settings": {"theta": [5, 1]}}),
        ("voxelopt, raw", {"preset": "paper", "settings": {}}),
        ("voxelopt, raw", {"preset": None, "settings": {}}),
    ]
    found = strict_json("out/peers.json")["tools"]
    assert list(found) == ["unsteady", *(f"voxelopt, raw, {change}" for change in changes)]
    assert found["voxelopt, raw, refinements=0"]["settings"] == (
        "raw intensities, preset intensity, refinements 0"
    )


def test_a_changed_setting_changes_the_field(pair):
    with peers.pair_files(pair) as images:
        rows = [
            peers.measure_tool(pair, peers.Entry("voxelopt, raw", "intensity", settings), images, 1)
            for settings in ({}, {"refinements": 0})
        ]
    assert rows[0]["dice"] != rows[1]["dice"]


def test_a_known_warp_is_one_in_mm_on_any_voxels(pair):
    grid = pair.fixed.grid
    for name, image in (("a", pair.fixed), ("b", pair.fixed_labels)):
        flat = Nifti1Image(image.data.numpy()[..., ::2], grid.affine @ np.diag([1, 1, 2, 1]))
        flat.to_filename(f"{name}.nii")
    (known,) = peer_pairs.pair_sets(options(known_warp=["a.nii", "b.nii"], window=[-800, 500]))
    assert "from -800 to 500" in known.title
    for made, magnitude in zip((make() for make in known.pairs), (15, 25), strict=True):
        u = made.displacement
        assert u is not None and u.shape == (1, 3, 40, 32, 18)
        length = (u * torch.tensor([8.0, 8.0, 16.0]).view(1, 3, 1, 1, 1)).norm(dim=1)
        assert 0.85 * magnitude < length.max() < 1.05 * magnitude
        scan = read_image("a.nii", "scan").data.clamp(-800, 500)
        assert torch.equal(made.moving.data, scan)
        noise = made.fixed.data - warp(scan[None, None], u, boundary="border")[0, 0]
        low, high = np.percentile(scan, (0.5, 99.5))
        assert float(noise.std()) == pytest.approx(0.01 * (high - low), rel=0.05)
        labels = warp(made.moving_labels.data[None, None], u, "nearest", "border")[0, 0]
        assert torch.equal(made.fixed_labels.data, labels)


def test_phantoms_are_cut_off_as_ct(tools):
    phantom, deformed = peer_pairs.pair_sets(options())
    for make in (*phantom.pairs, *deformed.pairs):
        made = make()
        assert made.moving.data.min() == made.fixed.data.min() == CT_WINDOW[0]


def test_pairs_of_a_prepared_folder(run, tools):
    for n in range(3):
        for name, image in zip(("image", "label"), abdomen(n, **SMALL), strict=True):
            affine = image.grid.affine.copy()
            affine[:3, 3] += 30 * n  # each scan has a place of its own
            Nifti1Image(image.data.numpy(), affine).to_filename(f"{name}_{n}.nii.gz")
    prepare = ["prepare", ".", "-o", "made", "--images", "image_*.nii.gz", "--test", "0-2"]
    grid = ["--labels", "label_*.nii.gz", "--spacing", "12", "--shape", "28", "22", "24"]
    assert run(*prepare, *grid)[0] == 0
    code, out, _ = run("peers", "-o", "out", "--data", "made", "--count", "2")
    assert code == 0 and "test pairs of made" in out
    runs = log()
    assert len(runs) == 4 and all(fixed == moving for _, fixed, moving in runs)
    found = strict_json("out/peers.json")["sets"]["data"]["pairs"]
    names = [(pair["fixed"], pair["moving"]) for pair in found]
    fixed, moving = (
        read_image(f"made/labels/{name}.nii.gz", "labels", labels=True).data.numpy()
        for name in names[0]
    )
    dice = [overlap(fixed == k, moving == k) for k in range(1, 14)]
    assert found[0]["rows"]["before"]["dice"] == pytest.approx(np.mean(dice))
    assert "error_mm" not in found[0]["rows"]["before"]
    (more,) = peer_pairs.pair_sets(options(data="made", count=10))
    made = [make() for make in more.pairs]
    assert len(made) == 6 and [(p.fixed.name, p.moving.name) for p in made[:2]] == names
    # Without labels, or test pairs.
    manifest = json.loads(Path("made/manifest.json").read_text())
    del manifest["subjects"][1]["labels"]
    Path("made/manifest.json").write_text(json.dumps(manifest))
    code, _, err = run("peers", "-o", "new", "--data", "made", "--count", "9")
    assert code == 2 and "subject 1 has no labels" in sentence(err) and not Path("new").exists()
    manifest["splits"]["test"] = []
    Path("made/manifest.json").write_text(json.dumps(manifest))
    _, _, err = run("peers", "-o", "new", "--data", "made")
    assert "made: there are no test pairs" in sentence(err)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--tools", "sift"], '"sift": no tool that is installed; there are "Shift, one", "uns'),
        (["--count", "0"], "--count must be at least 1"),
        (["--magnitude", "20", "-1"], "--magnitude must be above 0 mm"),
        (["--deformed", "--magnitude", "400"], "400 mm folds"),
        (["--phantom", "--window", "0", "1"], "--window is for --known-warp, which is not given"),
        ([*SCAN, "--window", "5", "-5"], "from low to high, got 5 -5"),
        ([*SCAN, "--window", "6000", "8000"], "all voxels are equal within the window"),
        (["--known-warp", "fixed.nii.gz"], "--known-warp: expected 2 arguments"),
        (["--known-warp", "none.nii", "fixed_labels.nii.gz"], "none.nii: there is no such file"),
        ([*SCAN[:2], "none.nii"], "none.nii: there is no such file"),
        ([*SCAN[:2], "far.nii"], "far.nii does not lie on the grid of fixed.nii.gz"),
        (["--known-warp", "flat.nii", "flat.nii"], "flat.nii: shape (40, 32, 1) leaves no room"),
        (["--known-warp", "fixed.nii.gz", "zero.nii.gz"], "the labels are 0 everywhere"),
        (["--vary", "refinements"], '--vary "refinements": expected KEY=VALUE'),
        (["--vary", "speed=2"], '--vary "speed=2": the layer has no setting of this name'),
        (["--vary", "preset=best"], "expected null or one of intensity, paper, released"),
        (["--vary", "preset=no"], "expected null or one of intensity, paper, released"),
        (["--vary", "refinements=-1"], "--vary: refinements must be a whole number of at least 0"),
        (["--vary", "refinements=two"], "--vary.refinements: expected a whole number, got two"),
        (["--vary", "upsampling_scale=2020-01-01"], "--vary.upsampling_scale: expected a number"),
        (["--vary", "filter_radius=2.5"], "--vary.filter_radius: expected a whole number"),
        (["--vary", "sigma_smoothing=1000"], "sigma_smoothing must be from 0 to 100 voxels"),
        (["--vary", "alpha=4", "alpha=4"], '--vary "alpha=4" is given twice'),
        (["--vary", "theta=[1"], '--vary "theta=[1": [1 is no value, as YAML goes'),
        (["--data", "nowhere"], "nowhere: no such file; voxelopt prepare makes it"),
    ],
)
def test_bad_input(refused, tools, options, expected, pair):
    tools["voxelopt, raw"] = TOOLS["voxelopt, raw"]
    far = AFFINE.copy()
    far[0, 3] = 100.0
    labels = pair.fixed_labels.data.numpy()
    Nifti1Image(labels, far).to_filename("far.nii")
    Nifti1Image(labels[..., 15:16], far).to_filename("flat.nii")
    Nifti1Image(0 * labels, pair.fixed.grid.affine).to_filename("zero.nii.gz")
    assert expected in refused("peers", "-o", "out", *options)


def test_a_file_in_the_place_of_the_folder(refused, tools):
    assert "fixed.nii.gz is a file" in refused("peers", "-o", "fixed.nii.gz")
