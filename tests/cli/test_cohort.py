"""Many pairs by one command: what is done, what is recorded, what is kept."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

import cohorts
from cohorts import COHORT, pairs, write_table
from command_line import AFFINE, ALWAYS, LABELS, contents, names, sentence, strict_json, volume
from voxelopt_train import register_cohort
from voxelopt_train.cohort import read_cases, registration, workers
from voxelopt_train.transforms import AffineTransform, write_affine


@pytest.fixture(autouse=True)
def _plain_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "register_case", cohorts.register_case)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "in_workers", cohorts.in_this_process)


def rows_of(table: str) -> dict[str, dict[str, str]]:
    with Path(table).open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def times(folder: str) -> dict[str, int]:
    """When each file of the cases was written."""
    return {str(path): path.stat().st_mtime_ns for path in Path(folder).glob("*/*")}


def written(now: dict[str, int], before: dict[str, int] | None = None) -> set[str]:
    """The cases of files that are new since then."""
    return {
        Path(path).parent.name for path, time in now.items() if (before or {}).get(path) != time
    }


def twelve_pairs() -> str:
    """Ten good pairs, a truncated file and a missing one."""
    whole = Path("moving.nii.gz").read_bytes()
    Path("cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    rows = [
        {"case": f"case{n:02}", "fixed": "fixed.nii.gz", "moving": "moving.nii.gz"}
        | {f"{side}_labels": f"{side}_labels.nii.gz" for side in ("fixed", "moving")}
        for n in range(12)
    ]
    rows[3]["moving"], rows[7]["fixed"] = "cut.nii.gz", "missing.nii.gz"
    return write_table("pairs.csv", rows)


def test_twelve_pairs_of_which_two_are_broken(run, request, no_picture):
    command = [*COHORT, "--pairs", twelve_pairs(), "--workers", "2"]
    code, out, err = run(*command)
    assert code == 2 and sentence(err) == "2 of 12 cases failed, see out/results.csv"
    done = {f"case{n:02}" for n in range(12)} - {"case03", "case07"}
    assert names("out") == done | {"results.csv", "results.json", "results.md"}
    assert all(names(f"out/{case}") == ALWAYS | {"WarpedLabels.nii.gz"} for case in done)
    assert "case03 failed: cut.nii.gz: the file is truncated or damaged\n" in out
    assert "case07 failed: fixed image missing.nii.gz: there is no such file\n" in out
    rows = rows_of("out/results.csv")
    assert [case for case, row in rows.items() if row["status"] == "done"] == sorted(done)
    assert rows["case03"]["error"] == "cut.nii.gz: the file is truncated or damaged"
    assert rows["case03"]["dice"] == rows["case03"]["seconds"] == rows["case02"]["error"] == ""
    report = strict_json("out/case02/Report.json")
    assert float(rows["case02"]["dice"]) == report["labels"]["registered"]["mean_dice"]
    assert float(rows["case02"]["inverse_error_voxels"]) == report["inverse_error_voxels"]
    table = strict_json("out/results.json")
    assert [case["case"] for case in table["cases"]] == list(rows)
    assert table["cases"][3]["dice"] is None
    mean = np.mean([float(rows[case]["dice_before"]) for case in done])
    assert table["summary"]["dice_before"]["mean"] == pytest.approx(mean)
    assert f"{mean:.3f}" in out and "10 of 12 cases are done" in out

    before = times("out")
    request.getfixturevalue("in_this_process")
    code, out, _ = run(*command)
    assert code == 2 and "10 of 12 cases were complete already" in out
    assert "case03 failed" in out and "case07 failed" in out
    assert times("out") == before and rows_of("out/results.csv") == rows

    # Two processes at once do what one pair alone does here.
    assert run("register", *COHORT[1:-1], "one/", "fixed.nii.gz", "moving.nii.gz", *LABELS)[0] == 0
    for name in ALWAYS | {"WarpedLabels.nii.gz"}:
        if name.endswith(".nii.gz"):
            assert np.array_equal(volume(f"out/case11/{name}"), volume(f"one/{name}")), name


@pytest.mark.usefixtures("in_this_process")
def test_what_is_complete_stays_and_all_else_is_made_anew(run):
    command = [*COHORT, "--pairs", write_table("pairs.csv", pairs("a", "b", "c"))]
    Path("b.nii.gz").unlink()
    assert run(*command)[0] == 2
    first = times("out")
    assert written(first) == {"a", "c"}
    shutil.copy("moving.nii.gz", "b.nii.gz")
    assert run(*command)[0] == 0
    second = times("out")
    assert first.items() < second.items() and written(second, first) == {"b"}
    os.utime("b.nii.gz")  # a changed input
    assert run(*command)[0] == 0
    third = times("out")
    assert written(third, second) == {"b"}
    Path("out/a/notes.txt").touch()
    assert run(*command, "--layer.alpha", "1", "--inverse")[0] == 0  # changed settings
    report = strict_json("out/a/Report.json")  # what `voxelopt report` shows
    assert report["inputs"]["moving"] == str(Path("a.nii.gz").resolve())
    assert report["settings"]["preset"] == "intensity"
    assert report["settings"]["layer"] == {"alpha": 1.0, "levels": 1}
    fourth = times("out")
    assert not third.items() & fourth.items()
    assert names("out/a") == {*ALWAYS, "notes.txt", "1InverseWarp.nii.gz"}
    assert run(*command, "--layer.alpha", "1", "--inverse", "--device", "cpu:0")[0] == 0
    assert times("out") == fourth
    assert run(*command, "--layer.alpha", "1")[0] == 0
    assert names("out/a") == {*ALWAYS, "notes.txt"}
    Path("out/c/Report.json").write_text("{")  # as of a registration that was broken off
    fifth = times("out")
    assert run(*command, "--layer.alpha", "1")[0] == 0
    assert written(times("out"), fifth) == {"c"}


def test_a_process_that_dies_costs_its_case_alone(run):
    command = [*COHORT, "--pairs", write_table("pairs.csv", pairs("a", "killed", "b"))]
    code, _, err = run(*command, "--workers", "2")
    assert code == 2 and sentence(err).startswith("1 of 3 cases failed")
    errors = {case: row["error"] for case, row in rows_of("out/results.csv").items()}
    died = "its process was ended by signal 9 (Killed), as where memory runs out"
    assert errors == {"a": "", "killed": died, "b": ""}
    assert str(workers.Died(3)) == "its process ended with code 3"
    # Nothing is left of files that were not complete.
    assert names("out") == {"a", "b", "results.csv", "results.json", "results.md"}


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("bug", "a defect of this program, TypeError: 'NoneType' object is not callable"),
        ("memory", "not enough memory for this grid; a coarser one takes less (--spacing MM)"),
        ("full", "the results cannot be written to out/full: No space left"),
    ],
)
def test_whatever_fails_is_one_line_and_the_others_are_done(run, case, expected):
    assert run(*COHORT, "--pairs", write_table("pairs.csv", pairs(case, "a")))[0] == 2
    assert {c: row["error"] for c, row in rows_of("out/results.csv").items()} == {
        case: expected, "a": ""
    }  # fmt: skip
    assert names("out/a") == ALWAYS and not Path("out", case).exists()


@pytest.mark.usefixtures("in_this_process")
def test_every_image_of_a_folder_to_an_atlas(run, no_picture):
    for folder in ("images", "labels"):
        Path(folder, "more").mkdir(parents=True)
    for n in (10, 2):
        shutil.copy("moving.nii.gz", f"images/s{n}.nii.gz")
        shutil.copy("moving_labels.nii.gz", f"labels/s{n}.nii.gz")
    Path("labels/s2.nii.gz").rename("labels/other.nii.gz")
    shutil.copy("fixed.nii.gz", "images/atlas.nii.gz")
    for name in ("notes.txt", "._s2.nii.gz"):
        Path("images", name).touch()
    labels = ["--fixed-labels", "fixed_labels.nii.gz", "--moving-labels", "labels"]
    code, out, err = run(*COHORT, "images/atlas.nii.gz", "images", *labels)
    assert code == 0
    printed = {line.split()[0]: line.split()[-2:] for line in out.splitlines() if line.split()}
    assert printed["Dice"] == printed["HD95"] == ["-", "1"]
    assert float(printed["s"][0]) >= 0 and printed["s"][1] == "2"
    assert err == "voxelopt: warning: labels: no label map for s2.nii.gz, so no Dice there\n"
    rows = rows_of("out/results.csv")
    assert list(rows) == ["s2", "s10"]  # the atlas has nothing to be registered to
    assert rows["s2"]["moving"] == "images/s2.nii.gz" and rows["s2"]["dice"] == ""
    assert float(rows["s10"]["dice"]) > 0
    assert 1 < float(rows["s2"]["nmi_before"]) < float(rows["s2"]["nmi"]) < 2
    assert run("register", *COHORT[1:-1], "one/", "fixed.nii.gz", "moving.nii.gz", *LABELS)[0] == 0
    warped = volume("one/WarpedLabels.nii.gz")
    assert np.array_equal(volume("out/s10/WarpedLabels.nii.gz"), warped)


@pytest.mark.usefixtures("in_this_process")
def test_masks_and_landmarks_are_columns_too(run, no_picture):
    pair = {"fixed": "fixed.nii.gz", "moving": "moving.nii.gz"}
    Path("p.csv").write_text("x,y,z\n-20,30,10\n40,-10,-30\n")
    ones = np.ones(volume("fixed.nii.gz").shape, np.uint8)
    Nifti1Image(ones, AFFINE + 0.3 * np.eye(4, k=1)).to_filename("sheared.nii.gz")
    ones[:20] = 0
    Nifti1Image(ones, Nifti1Image.from_filename("fixed.nii.gz").affine).to_filename("mask.nii.gz")
    rows = [
        {"case": "plain", **pair, "fixed_points": "p.csv", "moving_points": "p.csv"},
        {"case": "masked", **pair, "fixed_mask": "mask.nii.gz"},
        {"case": "halved", **pair, "fixed_points": "p.csv"},
        {"case": "sheared", **pair, "fixed": "sheared.nii.gz"},
    ]
    assert run(*COHORT, "--pairs", write_table("pairs.csv", rows))[0] == 2
    results = rows_of("out/results.csv")
    assert float(results["plain"]["tre_mm"]) > 0 and results["masked"]["tre_mm"] == ""
    assert "both the fixed and the moving ones" in results["halved"]["error"]
    assert "sheared.nii.gz: its grid is sheared" in results["sheared"]["error"]
    fields = [volume(f"out/{case}/1Warp.nii.gz") for case in ("plain", "masked")]
    assert not np.array_equal(fields[0], fields[1])


def test_a_table_tells_paths_names_and_alignments(tmp_path):
    Path("lists").mkdir()
    here = Path.cwd()
    rows = [
        {"fixed": "../a/t1.nii.gz", "moving": f"{here}/b/t1.nii.gz", "initial": "affine"},
        {"fixed": "../a/t1.nii.gz", "moving": "c d:1.nii", "initial": "../rigid.mat"},
        {"fixed": "../f.nii", "moving": "m.nii", "case": "mine", "initial": "[../rigid.mat,1]"},
    ]
    rows[1]["fixed_labels"] = "../a/seg.nii.gz"
    write_table("lists/pairs.csv", rows)
    Path("lists/pairs.json").write_text(json.dumps(rows))
    cases = read_cases("lists/pairs.csv")
    assert read_cases(Path("lists/pairs.json")) == cases
    assert [case.name for case in cases] == ["a_t1_b_t1", "a_t1_lists_c d_1", "mine"]
    assert [str(case.moving) for case in cases] == [
        f"{here}/b/t1.nii.gz", "lists/c d:1.nii", "lists/m.nii"
    ]  # fmt: skip
    assert [case.initial for case in cases] == ["affine", "rigid.mat", "[rigid.mat,1]"]
    assert [case.fixed_labels for case in cases] == [None, "a/seg.nii.gz", None]


@pytest.mark.usefixtures("in_this_process")
def test_from_python_with_a_file_to_start_from():
    affine = AffineTransform(np.eye(4))
    affine.matrix[:3, 3] = [8, 0, 0]
    write_affine("shift.tfm", affine)
    rows = [{"fixed": "fixed.nii.gz", "moving": "moving.nii.gz", "initial": "shift.tfm"}]
    table, told = write_table("pairs.csv", rows), []
    options = {"layer": {"levels": 1}, "spacing_mm": 24.0, "progress": told.append}
    results = register_cohort(table, "out", **options)
    assert not results.failed and results.kept == 0 and results.cases[0].seconds > 0
    case = results.cases[0]
    assert np.isnan(case.dice) and np.isnan(case.nmi_before) and 1 < case.nmi_aligned < case.nmi
    assert Path("out/fixed_moving/0GenericAffine.mat").exists()
    assert told == ["1 done, 0 failed, 0 left"]
    assert register_cohort(read_cases(table), "out", **options).kept == 1
    affine.matrix[0, 3] = 16
    write_affine("shift.tfm", affine)
    before = contents(Path("out"))
    assert register_cohort(table, "out", **options).kept == 0
    assert contents(Path("out")) != before
    assert register_cohort(table, "out", **options, device="cpu:0", workers=3).kept == 1


def test_a_script_without_a_main_guard_is_told_so():
    write_table("pairs.csv", [{"fixed": "fixed.nii.gz", "moving": "moving.nii.gz"}])
    script = "from voxelopt_train import register_cohort\nregister_cohort('pairs.csv', 'out')\n"
    Path("script.py").write_text(script)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and 'below if __name__ == "__main__":' in last
    assert done.stderr.count("Traceback") == 1
    assert names("out") == set()
