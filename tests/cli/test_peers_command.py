"""``voxelopt peers``: its tables, what it keeps, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from command_line import AFFINE, strict_json
from peer_sets import cells, lines, log, overlap, small_deformed_pair
from voxelopt_train.benchmark import peers
from voxelopt_train.benchmark.peer_tools import TOOLS

SCAN = ["--known-warp", "fixed.nii.gz", "fixed_labels.nii.gz"]


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
