"""What is wrong with a cohort is one sentence before the first case begins."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cohorts import pairs, write_table
from voxelopt_layers import VoxelOptLayer
from voxelopt_train import InputError, register_cohort
from voxelopt_train.cohort import Case, registration


@pytest.fixture(autouse=True)
def _nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "in_workers", None)


@pytest.fixture(autouse=True)
def tables(folder: Path) -> None:
    """Tables with one thing wrong each, and a good one."""
    (good,) = pairs("a")
    write_table("good.csv", [good])
    write_table("more.csv", [good | {"age": "70"}])
    write_table("half.csv", [good, good | {"moving": ""}])
    write_table("empty.csv", [good])
    Path("empty.csv").write_text("fixed,moving\n")
    write_table("twice.csv", [good, pairs("b")[0], good | {"case": "A"}])
    write_table("same.csv", [{"fixed": "fixed.nii.gz", "moving": "a.nii.gz"}] * 2)
    for name, case in (("up", "../up"), ("dot", ".hidden"), ("long", "x" * 201)):
        write_table(f"{name}.csv", [good | {"case": case}])
    write_table("table.csv", [good | {"case": "results.csv"}])
    Path("object.json").write_text('{"fixed": "fixed.nii.gz"}')
    Path("results").mkdir()
    shutil.copy("good.csv", "results/results.csv")
    Path("scans").mkdir()
    Path("nothing").mkdir()
    shutil.copy("moving.nii.gz", "scans/m.nii.gz")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("-o out", "expected FIXED and MOVING, or --pairs TABLE"),
        ("fixed.nii.gz -o out", "expected FIXED and MOVING, or --pairs TABLE"),
        ("fixed.nii.gz moving.nii.gz --pairs good.csv -o out", "or --pairs TABLE, not both"),
        ("fixed.nii.gz scans --pairs good.csv -o out", "or --pairs TABLE, not both"),
        ("--pairs good.csv", "arguments are required: -o/--output"),
        ("fixed.nii.gz moving.nii.gz -o out --workers 2", "--workers: this is for many pairs, and"),
        (
            "fixed.nii.gz moving.nii.gz -o out --time-limit 9",
            "--time-limit: this is for many pairs",
        ),
        (
            "--pairs good.csv -o out --time-limit 0",
            "time limit must be a number above 0 s, got 0",
        ),
        (
            "--pairs good.csv -o out --workers 0",
            "workers must be whole, 1 or more, got 0",
        ),
        ("--pairs good.csv -o out --workers two", "--workers: expected a whole number, got two"),
        ("--pairs good.csv -o out --fixed-labels fixed_labels.nii.gz", "are columns of the table"),
        ("--pairs good.csv -o out --moving-mask m.nii.gz", "--moving-mask: with --pairs"),
        ("--pairs missing.csv -o out", "missing.csv: there is no such file"),
        ("--pairs fixed.nii.gz -o out", "fixed.nii.gz: this is no text file that can be read"),
        ("--pairs missing.json -o out", "missing.json: there is no such file"),
        ("--pairs object.json -o out", "expected a list of pairs, each with the keys fixed and"),
        ("--pairs more.csv -o out", "unknown column age, expected fixed, moving, fixed_labels"),
        ("--pairs half.csv -o out", "half.csv, pair 2: no moving image is given"),
        ("--pairs empty.csv -o out", "empty.csv: no pairs are listed here"),
        ("--pairs twice.csv -o out", "pairs 1 and 3 would both be case A: give each a name of"),
        ("--pairs same.csv -o out", "pairs 1 and 2 would both be case fixed_a"),
        ("--pairs up.csv -o out", 'case "../up": expected a name for a folder'),
        ("--pairs dot.csv -o out", 'case ".hidden": expected a name for a folder'),
        ("--pairs long.csv -o out", "of 1 to 200 characters"),
        ("--pairs table.csv -o out", "case results.csv: a table of results has this name"),
        ("--pairs good.csv -o out.nii.gz", "not the name of an image"),
        ("--pairs good.csv -o good.csv", "--output good.csv: expected a folder (out/) or"),
        ("--pairs results/results.csv -o results", "results/results.csv would be overwritten"),
        ("--pairs good.csv -o out --window 5 -5", "from low to high, got 5 -5"),
        ("--pairs good.csv -o out --spacing 0", "the working spacing must be a number above 0 mm"),
        ("--pairs good.csv -o out --initial centre", "initial alignment centre: expected none"),
        ("--pairs good.csv -o out --device warp9", "device warp9: no such device here"),
        ("--pairs good.csv -o out --layer.levels few", "--layer.levels: expected a whole number"),
        ("--pairs good.csv -o out --layer.search_radius 9", "search_radius must be from 1 to 5"),
        ("missing.nii.gz scans -o out", "fixed image missing.nii.gz: there is no such file"),
        ("fixed.nii.gz nothing -o out", "nothing: this is a folder without NIfTI files"),
        (
            "fixed.nii.gz scans -o out --fixed-labels fixed_labels.nii.gz",
            "both the fixed and the moving ones are needed",
        ),
        (
            "fixed.nii.gz scans -o out --fixed-points p.csv --moving-points q.csv",
            "--fixed-points, --moving-points: of many pairs they belong in a table",
        ),
        (
            "fixed.nii.gz scans -o out --fixed-labels none.nii --moving-labels scans",
            "fixed labels none.nii: there is no such file",
        ),
        (
            "fixed.nii.gz scans -o out --fixed-labels fixed_labels.nii.gz --moving-labels nothing",
            "moving labels nothing: no file has the name of an image in",
        ),
        (
            "fixed.nii.gz scans -o out --fixed-labels fixed_labels.nii.gz --moving-labels a.nii.gz",
            "moving labels a.nii.gz: expected a folder",
        ),
    ],
)
def test_bad_cohort(refused, arguments, expected):
    assert expected in refused("register", *arguments.split())


def test_a_case_never_overwrites_an_input(refused):
    """Of any case, through a link, and from any other place."""
    Path("out/a").mkdir(parents=True)
    shutil.copy("moving.nii.gz", "out/a/Warped.nii.gz")
    Path("link.nii.gz").symlink_to("out/a/Warped.nii.gz")
    rows = pairs("a", "b")
    rows[1]["fixed"] = "link.nii.gz"
    message = refused("register", "--pairs", write_table("pairs.csv", rows), "-o", "out")
    assert message.startswith("link.nii.gz would be overwritten by a result")
    rows[1] |= {"fixed": "fixed.nii.gz", "initial": "out/a/0GenericAffine.mat"}
    message = refused("register", "--pairs", write_table("pairs.csv", rows), "-o", "out")
    assert message.startswith("out/a/0GenericAffine.mat would be overwritten")


def test_a_folder_in_the_place_of_a_file(refused):
    for folder, name in (("out/a", "Warped.nii.gz"), ("out", "results.json")):
        Path(folder, name).mkdir(parents=True)
        message = refused("register", "--pairs", "good.csv", "-o", "out")
        assert f"{folder}/{name} cannot be written: there is a folder of this name" in message
        shutil.rmtree("out")
    Path("out").mkdir()
    Path("out/a").touch()
    message = refused("register", "--pairs", "good.csv", "-o", "out")
    assert message == "the output folder out/a cannot be made: out/a is a file"


ARRAY: Any = np.eye(4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"encoder": "sift"}, "features must be one of raw, mind, got sift"),
        ({"layer": {"speed": 3}}, "layer: .*unexpected keyword argument 'speed'"),
        ({"layer": {"search_radius": 9}}, "layer: search_radius must be from 1 to 5"),
        ({"layer": VoxelOptLayer()}, "layer: expected keywords, .* got VoxelOptLayer"),
        ({"spacing_mm": "10"}, "spacing must be a number above 0 mm .*, got '10'"),
        ({"initial": ARRAY}, "initial alignment: expected none, .* got ndarray"),
        ({"device": "gpu"}, "device gpu: no such device here"),
        ({"protocol": "dice"}, "protocol must be one of .* got 'dice'"),
        ({"workers": 2.5}, "number of workers must be whole, 1 or more, got 2.5"),
        ({"time_limit": "60"}, "time limit must be a number above 0 s, got '60'"),
        ({"cases": [{"fixed": "fixed.nii.gz"}]}, "list of .*Case, got a list with dict"),
        ({"cases": Case("a", "fixed.nii.gz", "moving.nii.gz")}, "list of .*Case, got Case"),
        (
            {"cases": [Case("a", "fixed.nii.gz", ARRAY)]},
            "case a: moving must be the name",
        ),
        ({"cases": []}, "a cohort needs at least one case"),
        ({"cases": [Case("", "fixed.nii.gz", "moving.nii.gz")]}, 'case "": expected a name'),
    ],
)
def test_bad_cohort_in_python(options, expected):
    with pytest.raises(InputError, match=expected):
        register_cohort(**{"cases": "good.csv", "output": "out", **options})
    assert not Path("out").exists()
