"""`voxelopt points`, `jacobian`, `apply --interpolation`, and landmarks of `register`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from command_line import LABELS, QUICK, strict_json, volume
from voxelopt_train.grids import Grid
from voxelopt_train.phantom import Pair
from voxelopt_train.points import read_points
from voxelopt_train.transforms import AffineTransform, write_affine

LPS = np.array([-1.0, -1.0, 1.0])
REGISTER = ["register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/"]
FORWARD = ["-t", "out/1Warp.nii.gz", "-t", "out/0GenericAffine.mat"]
BACK = ["-t", "[out/0GenericAffine.mat,1]", "-t", "out/1InverseWarp.nii.gz"]


def write_csv(name: str, positions_mm: np.ndarray, labels: list[str]) -> None:
    rows = zip((positions_mm * LPS).tolist(), labels, strict=True)
    lines = [f"{x!r},{y!r},{z!r},{label}" for (x, y, z), label in rows]
    Path(name).write_text("\n".join(["x,y,z,label", *lines]) + "\n")


def centroids(labels: np.ndarray, grid: Grid, organs: list[int]) -> np.ndarray:
    voxels = np.array([np.argwhere(labels == organ).mean(axis=0) for organ in organs])
    return voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]


@pytest.fixture
def landmarks(pair: Pair) -> list[str]:
    """Centroids of the organs that both phantoms have, in two orders."""
    maps = [image.data.numpy() for image in (pair.fixed_labels, pair.moving_labels)]
    organs = sorted(({*np.unique(maps[0])} & {*np.unique(maps[1])}) - {0})
    names = [f"organ {organ}" for organ in organs]
    write_csv("f.csv", centroids(maps[0], pair.fixed.grid, organs), names)
    write_csv("m.csv", centroids(maps[1], pair.moving.grid, organs)[::-1], names[::-1])
    return names


def shift(name: str, offset_mm: list[float]) -> None:
    matrix = np.eye(4)
    matrix[:3, 3] = offset_mm
    write_affine(name, AffineTransform(matrix))


def test_points_of_the_fixed_image_go_to_the_moving_one_and_return(run, no_picture, pair):
    """Where `apply` takes the grey value from, there `points` puts the point."""
    shift("initial.tfm", [12, -7, 5])
    assert run(*REGISTER, "--initial", "initial.tfm", "--inverse", "--spacing", "8")[0] == 0
    inner = np.random.default_rng(0).uniform(0.25, 0.75, (200, 3)) * pair.fixed.grid.shape
    grid = pair.fixed.grid
    fixed_mm = inner @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    write_csv("f.csv", fixed_mm, ["p"] * 200)
    code, out, err = run("points", "f.csv", *FORWARD, "-o", "new/m.csv")
    assert (code, out, err) == (0, "wrote new/m.csv\n", "")
    moving_mm = read_points("new/m.csv").positions_mm
    assert np.linalg.norm(moving_mm - fixed_mm, axis=1).mean() > 10

    # A ramp in the moving image, warped to the fixed grid, holds the coordinate of each point.
    voxels = np.stack(np.meshgrid(*map(np.arange, pair.moving.grid.shape), indexing="ij"), -1)
    ramp = (voxels @ pair.moving.grid.affine[:3, :3].T + pair.moving.grid.affine[:3, 3])[..., 1]
    Nifti1Image(ramp.astype(np.float32), pair.moving.grid.affine).to_filename("ramp.nii.gz")
    apply = ["apply", "ramp.nii.gz", "-r", "fixed.nii.gz", *FORWARD, "-o", "warped.nii.gz"]
    assert run(*apply)[0] == 0
    at = tuple(inner.round().astype(int).T)
    on_grid = np.stack(at, 1) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    write_csv("grid.csv", on_grid, ["p"] * 200)
    assert run("points", "grid.csv", *FORWARD, "-o", "there.csv")[0] == 0
    there = read_points("there.csv").positions_mm
    np.testing.assert_allclose(there[:, 1], volume("warped.nii.gz")[at], atol=0.01)

    assert run("points", "new/m.csv", *BACK, "-o", "back.csv")[0] == 0
    error = np.linalg.norm(read_points("back.csv").positions_mm - fixed_mm, axis=1)
    assert error.mean() < 0.1 * 8  # a tenth of a voxel
    report = strict_json("out/Report.json")
    assert 0 < report["mean_inverse_error_mm"] < 0.8
    assert report["mean_inverse_error_mm"] <= report["max_inverse_error_mm"]
    voxel_error = report["inverse_error_voxels"]
    assert report["mean_inverse_error_mm"] == pytest.approx(8 * voxel_error, rel=1e-3)


def test_register_and_points_report_the_same_tre(run, no_picture, landmarks):
    points = ["--fixed-points", "f.csv", "--moving-points", "m.csv"]
    code, out, _ = run(*REGISTER, *points, *LABELS, "--initial", "center-of-mass")
    assert code == 0 and "TRE (mm)" in out and "Dice" in out
    tre = strict_json("out/Report.json")["tre_mm"]
    assert list(tre) == ["before", "aligned", "registered"]
    for stage in tre.values():
        assert list(stage["per_point"]) == landmarks
        assert stage["mean"] == pytest.approx(np.mean(list(stage["per_point"].values())))
        assert f"{stage['mean']:.2f}" in out
    assert tre["registered"]["mean"] < 0.8 * tre["aligned"]["mean"]

    code, out, err = run("points", "f.csv", *FORWARD, "--moving-points", "m.csv")
    assert (code, err) == (0, "")
    assert f"TRE (mm) of {len(landmarks)} points, paired by label" in out
    rows = [line.split() for line in out.splitlines()]
    before, after = (row for row in rows if row[:1] in (["before"], ["after"]))
    for row, stage in ((before, "before"), (after, "registered")):
        errors = list(tre[stage]["per_point"].values())
        expected = [np.mean(errors), np.std(errors), *np.percentile(errors, [50, 95]), max(errors)]
        np.testing.assert_allclose([float(cell) for cell in row[1:]], expected, atol=0.0051)


def test_tre_without_labels(run, no_picture, landmarks):
    points = ["--fixed-points", "f.csv", "--moving-points", "m.csv"]
    code, out, _ = run(*REGISTER, *QUICK, *points)
    assert code == 0 and "TRE (mm)" in out and "Dice" not in out and "aligned" not in out
    assert list(strict_json("out/Report.json")["tre_mm"]) == ["before", "registered"]


def test_points_outside_their_image_are_told(run, no_picture, landmarks):
    """As where a file's frame is not what it says."""
    header, first, *others = Path("m.csv").read_text().splitlines()
    first = f"5000,{first.partition(',')[2]}"
    Path("far.csv").write_text("\n".join([header, first, *others]))
    points = ["--fixed-points", "f.csv", "--moving-points", "far.csv"]
    code, out, err = run(*REGISTER, *QUICK, *points)
    assert code == 0 and "note" not in out
    told = f"far.csv: 1 of {len(landmarks)} points lie outside the moving image moving.nii.gz, as "
    assert err.startswith(f"voxelopt: warning: {told}") and err.count("\n") == 1


def test_csv_to_slicer_in_ras(run):
    shift("shift.tfm", [1, 2, 3])
    Path("f.csv").write_text("x,y,z,label\n10,20,30,tip\n")
    convert = ["points", "f.csv", "--frame", "ras", "-t", "shift.tfm", "-o", "m.mrk.json"]
    assert run(*convert)[0] == 0
    (markup,) = json.loads(Path("m.mrk.json").read_text())["markups"]
    assert markup["coordinateSystem"] == "LPS"
    assert markup["controlPoints"][0]["position"] == [-11.0, -22.0, 33.0]
    back = ["points", "m.mrk.json", "--frame", "ras", "-t", "[shift.tfm,1]", "-o", "b.csv"]
    assert run(*back)[0] == 0
    assert Path("b.csv").read_text() == "x,y,z,t,label,comment\n10.0,20.0,30.0,0,tip,\n"


def test_points_that_a_field_does_not_reach_are_told(run, no_picture):
    assert run(*REGISTER, *QUICK)[0] == 0
    Path("f.csv").write_text("x,y,z\n0,0,0\n5000,0,0\n")
    _, out, _ = run("points", "f.csv", "-t", "out/1Warp.nii.gz", "-o", "m.csv")
    assert "note: 1 of 2 points lie outside the grid of a displacement field" in out
    assert read_points("m.csv").positions_mm[1].tolist() == [-5000, 0, 0]
    assert run("convert", "-t", "out/1Warp.nii.gz", "-o", "c.h5")[0] == 0
    for spec in ("c.h5", "[out/1Warp.nii.gz,1]"):
        assert "note: 1 of 2 points" in run("points", "f.csv", "-t", spec, "-o", "m.csv")[1]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("points", "arguments are required: points"),
        ("points a.csv", "nothing to do: give --output, --moving-points or both"),
        ("points absent.csv -o out/b.csv", "absent.csv: there is no such file"),
        ("points a.csv -o out/b.txt", "expected a file of points, .csv, .mrk.json or .fcsv"),
        ("points a.csv -o a.csv", "a.csv would be overwritten"),
        ("points b.csv --moving-points a.csv -o a.csv", "a.csv would be overwritten"),
        ("points a.csv -t absent.mat -o out/b.csv", "absent.mat"),
        ("points a.csv --frame mni -o out/b.csv", "invalid choice: 'mni'"),
        ("points a.csv --moving-points b.csv", "has 2 points and b.csv 1"),
        ("points flat.csv -o out/b.csv", "no column z"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --fixed-points a.csv", "both the fixed and"),
        (
            "register fixed.nii.gz moving.nii.gz -o out/ --fixed-points a.csv --moving-points "
            "b.csv",
            "has 2 points and b.csv 1",
        ),
        ("jacobian -r fixed.nii.gz -o out/j.nii", "arguments are required: -t/--transform"),
        ("jacobian -r fixed.nii.gz -t a.mat -o out/j.mha", "name ending in .nii or .nii.gz"),
        ("jacobian -r fixed.nii.gz -t a.mat -o fixed.nii.gz", "would be overwritten"),
        ("jacobian -r absent.nii -t a.mat -o out/j.nii", "no such file"),
        ("jacobian -r fixed.nii.gz -t a.mat -o out/j.nii", "a.mat"),
        (
            "apply moving.nii.gz -r fixed.nii.gz -o out/a.nii --interpolation gaussian",
            "gaussian is for --labels",
        ),
        (
            "apply moving_labels.nii.gz --labels -r fixed.nii.gz -o out/a.nii "
            "--interpolation linear",
            "linear would mix --labels",
        ),
        (
            "apply moving_labels.nii.gz --labels -r fixed.nii.gz -o out/a.nii "
            "--interpolation gaussian --sigma -1",
            "from 0 to 40 voxels, their longest axis, got -1",
        ),
        (
            "apply moving_labels.nii.gz --labels -r fixed.nii.gz -o out/a.nii --sigma 2",
            "--sigma is for --interpolation gaussian, not for nearest",
        ),
    ],
)
def test_bad_command(refused, command, expected):
    Path("a.csv").write_text("x,y,z\n1,2,3\n4,5,6\n")
    Path("b.csv").write_text("x,y,z\n1,2,3\n")
    Path("flat.csv").write_text("x,y\n1,2\n")
    assert expected in refused(*command.split())


def test_points_leave_nothing_where_they_cannot_be_written(refused):
    Path("a.csv").write_text("x,y,z\n1,2,3\n")
    Path("file").write_text("mine")
    assert "cannot be made: file is a file" in refused("points", "a.csv", "-o", "file/b.csv")


def test_jacobian_of_the_whole_map_and_of_the_deformable_part(run, no_picture):
    matrix = np.diag([1.1, 1.1, 1.1, 1.0])
    write_affine("scale.mat", AffineTransform(matrix))
    assert run(*REGISTER, *QUICK, "--initial", "scale.mat", "--jacobian")[0] == 0
    jacobian = ["jacobian", "-r", "fixed.nii.gz", "-t", "out/1Warp.nii.gz"]
    code, out, err = run(*jacobian, "-o", "new/field.nii.gz")
    assert (code, err) == (0, "")
    alone = volume("new/field.nii.gz")
    np.testing.assert_allclose(alone, volume("out/Jacobian.nii.gz"), atol=1e-3)
    assert f"J from {alone.min():.4g} to {alone.max():.4g}; J <= 0 in 0.0000 % of voxels" in out
    report = strict_json("out/Report.json")
    assert f"SD of log J {report['sd_log_jacobian_strict']:.4f}" in out
    assert f"of log(J + 3), {report['sd_log_jacobian']:.4f};" in out
    whole = [*jacobian, "-t", "out/0GenericAffine.mat"]
    assert run(*whole, "-o", "whole.nii.gz")[0] == 0
    np.testing.assert_allclose(volume("whole.nii.gz"), 1.331 * alone, atol=1e-3)
    assert run(*whole, "--log", "-o", "log.nii.gz")[0] == 0
    np.testing.assert_allclose(volume("log.nii.gz"), np.log(volume("whole.nii.gz")), atol=1e-5)


def test_apply_interpolates_as_asked(run):
    shift("shift.tfm", [3, 2, 1])
    apply = ["-r", "fixed.nii.gz", "-t", "shift.tfm", "--interpolation"]
    for how in ("linear", "nearest"):
        assert run("apply", "moving.nii.gz", *apply, how, "-o", f"{how}.nii.gz")[0] == 0
    assert {*np.unique(volume("nearest.nii.gz"))} <= {*np.unique(volume("moving.nii.gz"))}
    assert len(np.unique(volume("linear.nii.gz"))) > len(np.unique(volume("nearest.nii.gz")))
    labels = ["apply", "moving_labels.nii.gz", "--labels", *apply]
    for name, options in (
        ("n", ["nearest"]),
        ("g", ["gaussian"]),
        ("w", ["gaussian", "--sigma=3"]),
    ):
        code, out, err = run(*labels, *options, "-o", f"{name}.nii.gz")
        assert (code, err) == (0, "") and volume(f"{name}.nii.gz").dtype == np.uint8
    assert "note: labels that lie outside the result, or are too thin for it:" in out
    present = {*np.unique(volume("moving_labels.nii.gz"))}
    assert {*np.unique(volume("w.nii.gz"))} < {*np.unique(volume("g.nii.gz"))} <= present
    assert 0.8 < (volume("g.nii.gz") == volume("n.nii.gz")).mean() < 1
