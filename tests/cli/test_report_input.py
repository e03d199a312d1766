"""`voxelopt report`: how it finds registrations, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from command_line import contents, names
from reports import REGISTER, Page, small_picture
from voxelopt_train import outputs

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
