"""Files of points, and their way through transforms: as ITK and ANTs take it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from voxelopt_train.errors import InputError
from voxelopt_train.points import landmark_pair, map_positions, read_points, write_points
from voxelopt_train.transforms import read_transform, write_affine, write_displacement_field
from worlds import PAIRS, some_affine, some_field

LPS = np.array([-1.0, -1.0, 1.0])
CSV = """x,y,z,t,label,comment
10.5,-20.25,30,0,7,"the first, and best"
1,2,3,0,3,
-4,5.125,-6,0,9,last
"""
RAS = np.array([[-10.5, 20.25, 30], [-1, -2, 3], [4, -5.125, -6]])
MARKUPS = {
    "@schema": "https://example.org/markups-schema-v1.0.3.json#",
    "markups": [
        {
            "type": "Fiducial",
            "coordinateSystem": "LPS",
            "coordinateUnits": ["mm", "UCUM", "millimeter"],
            "locked": False,
            "controlPoints": [
                {"id": "1", "label": "F-1", "position": [10.5, -20.25, 30.0], "selected": True},
                {"id": "2", "label": "F-2", "position": None, "positionStatus": "undefined"},
                {"id": "3", "label": "F-3", "description": "ä", "position": [1, 2, 3]},
            ],
            "display": {"opacity": 0.5},
        },
        {
            "type": "Curve",
            "coordinateSystem": "0",
            "controlPoints": [{"label": "C-1", "position": [4, -5.125, -6]}],
        },
    ],
}
FCSV = """# Markups fiducial file version = 4.11
# CoordinateSystem = {frame}
# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID
vtk_0,10.5,-20.25,30,0,0,0,1,1,1,0,F-1,"a, b",node
vtk_1,1,2,3,0,0,0,1,1,0,0,F-2,,
"""


def write(path: Path, content: str | dict) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def moved(path: Path, output: Path, frame: str = "lps") -> None:
    """The points a millimetre to the right, to the front and up."""
    points = read_points(path, frame)
    write_points(output, replace(points, positions_mm=points.positions_mm + 1), frame)


@pytest.mark.parametrize("frame", ["lps", "ras"])
def test_csv(tmp_path, frame):
    path = write(tmp_path / "a.csv", CSV)
    points = read_points(path, frame)
    np.testing.assert_array_equal(points.positions_mm, RAS if frame == "lps" else RAS * LPS)
    assert points.labels == ("7", "3", "9")
    assert points.comments == ("the first, and best", "", "last")
    moved(path, tmp_path / "b.csv", frame)
    step = -1 if frame == "lps" else 1
    with (tmp_path / "b.csv").open() as file:
        rows = list(csv.DictReader(file))
    with path.open() as file:
        for before, after in zip(csv.DictReader(file), rows, strict=True):
            assert list(after) == ["x", "y", "z", "t", "label", "comment"]
            for axis, by in (("x", step), ("y", step), ("z", 1)):
                assert float(after.pop(axis)) == float(before.pop(axis)) + by
            assert after == before


def test_csv_with_columns_in_another_order_and_case(tmp_path):
    path = write(tmp_path / "a.csv", "\ufeffName, Z ,weight,X,y\n\nliver,3,0.5,1,2\n")
    points = read_points(path)
    np.testing.assert_array_equal(points.positions_mm, [[-1, -2, 3]])
    assert points.labels == ("liver",)
    moved(path, tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text() == "Name, Z ,weight,X,y\nliver,4.0,0.5,0.0,1.0\n"


def test_markups(tmp_path):
    path = write(tmp_path / "a.mrk.json", MARKUPS)
    points = read_points(path)
    np.testing.assert_array_equal(points.positions_mm, RAS)
    assert points.labels == ("F-1", "F-3", "C-1") and points.comments == ("", "ä", "")
    moved(path, tmp_path / "b.mrk.json")
    expected = json.loads(path.read_text())
    first, second = (markup["controlPoints"] for markup in expected["markups"])
    first[0]["position"] = [9.5, -21.25, 31.0]
    first[2]["position"] = [0.0, 1.0, 4.0]
    second[0]["position"] = [5.0, -4.125, -5.0]
    assert json.loads((tmp_path / "b.mrk.json").read_text()) == expected


@pytest.mark.parametrize(("frame", "sign"), [("LPS", LPS), ("1", LPS), ("RAS", 1), ("0", 1)])
def test_fcsv(tmp_path, frame, sign):
    path = write(tmp_path / "a.fcsv", FCSV.format(frame=frame))
    points = read_points(path)
    np.testing.assert_array_equal(points.positions_mm, [[10.5, -20.25, 30], [1, 2, 3]] * sign)
    assert points.labels == ("F-1", "F-2") and points.comments == ("a, b", "")
    moved(path, tmp_path / "b.fcsv")
    x, y, z = np.array([1.0, 2, 3]) + sign
    before, after = path.read_text().splitlines(), (tmp_path / "b.fcsv").read_text().splitlines()
    assert after[:3] == before[:3] and after[3].endswith(',0,0,0,1,1,1,0,F-1,"a, b",node')
    assert after[4] == f"vtk_1,{x},{y},{z},0,0,0,1,1,0,0,F-2,,"


def test_fcsv_of_slicer_3_has_other_columns(tmp_path):
    text = "# Fiducial List file a\n# CoordinateSystem = 0\n# columns = label,x,y,z,sel,vis\n"
    path = write(tmp_path / "a.fcsv", text + "tip,1,2,3,1,1\n")
    moved(path, tmp_path / "b.fcsv")
    assert (tmp_path / "b.fcsv").read_text() == text + "tip,2.0,3.0,4.0,1,1\n"


@pytest.mark.parametrize("frame", ["lps", "ras"])
@pytest.mark.parametrize("suffix", [".mrk.json", ".fcsv"])
def test_from_csv_to_slicer_and_back(tmp_path, suffix, frame):
    points = read_points(write(tmp_path / "a.csv", CSV), frame)
    write_points(tmp_path / f"a{suffix}", points, frame)
    between = read_points(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(between.positions_mm, points.positions_mm)
    write_points(tmp_path / "b.csv", between, frame)
    back = read_points(tmp_path / "b.csv", frame)
    np.testing.assert_allclose(back.positions_mm, points.positions_mm)
    assert (back.labels, back.comments) == (points.labels, points.comments)
    assert (tmp_path / "b.csv").read_text().startswith("x,y,z,t,label,comment\n")


@pytest.mark.parametrize("pair", PAIRS)
def test_points_go_where_itk_takes_them(tmp_path, pair):
    """Through the files; points outside the grid of a field pass it unmoved."""
    sitk = pytest.importorskip("SimpleITK")
    grid = PAIRS[pair][0]
    write_displacement_field(tmp_path / "1Warp.nii.gz", some_field(grid))
    write_affine(tmp_path / "0GenericAffine.mat", some_affine())
    field = sitk.ReadImage(str(tmp_path / "1Warp.nii.gz"), sitk.sitkVectorFloat64)
    # A composite applies its last transform first.
    composite = sitk.CompositeTransform(
        [
            sitk.ReadTransform(str(tmp_path / "0GenericAffine.mat")),
            sitk.DisplacementFieldTransform(field),
        ]
    )
    voxels = np.random.default_rng(0).uniform(-3, np.array(grid.shape) + 2, (200, 3))
    world = voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    names = ("1Warp.nii.gz", "0GenericAffine.mat")
    mapped = map_positions(world, [read_transform(tmp_path / name) for name in names])
    expected = np.array([composite.TransformPoint(p) for p in (world * LPS).tolist()]) * LPS
    np.testing.assert_allclose(mapped, expected, atol=1e-4)
    outside = ((voxels < -0.5) | (voxels >= np.array(grid.shape) - 0.5)).any(axis=1)
    assert 20 < outside.sum() < 180
    assert np.abs(map_positions(world, [read_transform(tmp_path / names[0])]) - world)[
        outside
    ].max() == pytest.approx(0, abs=1e-9)


def test_points_go_where_ants_takes_them(tmp_path):
    ants, pandas = pytest.importorskip("ants"), pytest.importorskip("pandas")
    grid = PAIRS["all together"][0]
    names = ("1Warp.nii.gz", "0GenericAffine.mat")
    write_displacement_field(tmp_path / names[0], some_field(grid))
    write_affine(tmp_path / names[1], some_affine())
    voxels = np.random.default_rng(0).uniform(0, np.array(grid.shape) - 1, (50, 3))
    world = voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    frame = pandas.DataFrame(world * LPS, columns=["x", "y", "z"])
    frame.to_csv(tmp_path / "points.csv", index=False)
    points = read_points(tmp_path / "points.csv")
    files = [str(tmp_path / name) for name in names]
    for specs, order, invert in (
        (files, files, (False, False)),
        ((f"[{files[1]},1]", files[0]), files[::-1], (True, False)),
    ):
        theirs = ants.apply_transforms_to_points(3, frame, order, whichtoinvert=invert)
        ours = map_positions(points.positions_mm, [read_transform(spec) for spec in specs])
        np.testing.assert_allclose(ours * LPS, theirs[["x", "y", "z"]], atol=1e-3)


# Landmarks


def landmarks(tmp_path: Path, name: str, text: str):
    return read_points(write(tmp_path / name, "x,y,z,label\n" + text))


def test_landmarks_pair_by_label_or_in_order(tmp_path):
    fixed = landmarks(tmp_path, "f.csv", "0,0,0,a\n10,0,0,b\n20,0,0,c\n")
    shuffled = landmarks(tmp_path, "m.csv", "20,0,3,c\n0,1,0,a\n12,0,0,b\n")
    by_label = landmark_pair(fixed, shuffled)
    assert by_label.by_label and by_label.names == ("a", "b", "c")
    np.testing.assert_allclose(by_label.errors_mm(), [1, 2, 3])
    for text in ("0,0,4,x\n10,0,5,y\n20,0,6,z\n", "0,0,4,a\n10,0,5,b\n20,0,6,b\n"):
        in_order = landmark_pair(fixed, landmarks(tmp_path, "m.csv", text))
        assert not in_order.by_label and in_order.names == ("1", "2", "3")
        np.testing.assert_allclose(in_order.errors_mm(), [4, 5, 6])


def test_errors_are_those_of_the_mapped_fixed_points(tmp_path):
    points = read_points(write(tmp_path / "f.csv", CSV))
    there = map_positions(points.positions_mm, [some_affine()])
    pair = landmark_pair(points, replace(points, positions_mm=there))
    expected = np.linalg.norm(points.positions_mm - there, axis=1)
    np.testing.assert_allclose(pair.errors_mm(), expected)
    np.testing.assert_allclose(pair.errors_mm([some_affine()]), 0, atol=1e-9)
    report = pair.as_dict(expected)
    assert report["mean"] == pytest.approx(expected.mean())
    assert report["per_point"] == pytest.approx(dict(zip("739", expected, strict=True)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0,0,0,a\n", "f.csv has 2 points and .*m.csv 1, expected as many"),
        ("0,0,0,a\n1,1,1,c\n", "m.csv has no point b, which .*f.csv has"),
    ],
)
def test_landmarks_that_do_not_belong_together(tmp_path, text, says):
    fixed = landmarks(tmp_path, "f.csv", "0,0,0,a\n10,0,0,b\n")
    with pytest.raises(InputError, match=says):
        landmark_pair(fixed, landmarks(tmp_path, "m.csv", text))


# Bad input


def markups(**changes) -> dict:
    return {"markups": [{"controlPoints": [{"position": [1, 2, 3]}], **changes}]}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", None, "a.csv: there is no such file"),
        ("a.csv", "", "the file is empty"),
        ("a.csv", "x,y,z\n", "there are no points"),
        ("a.csv", "i,j,k\n1,2,3\n", "no column x in the header i,j,k"),
        ("a.csv", "1,2,3\n4,5,6\n", "no column x in the header 1,2,3"),
        ("a.csv", "x,y\n1,2\n", "no column z, expected points in 3-D"),
        ("a.csv", "x,y,z\n1,2,3\n1,nan,3\n", "point 2: expected three finite numbers.*1, nan, 3"),
        ("a.csv", "x,y,z\n1,2,inf\n", "point 1: expected three finite numbers"),
        ("a.csv", "x,y,z\n1,two,3\n", "point 1: .* got 1, two, 3"),
        ("a.csv", "x,y,z\n1,2\n", "point 1: .* got 1, 2, nothing"),
        ("a.csv", "x,y,z\n1,5,2,5,3,5\n", "6 cells, expected the 3 of the header"),
        ("a.csv", "x,y,z,x\n1,2,3,4\n", "has the column x more than once"),
        ("a.csv", "x,y,z\n1,2,\x00\n", "a.csv"),
        ("a.csv", b"\xff\xfe\x00x", "no text file"),
        ("a.txt", CSV, "expected a file of points, .csv, .mrk.json or .fcsv"),
        ("a.json", "{", "no JSON file"),
        ("a.json", "[" * 100_000, "no JSON file"),
        ("a.json", "[1]", "expected Slicer's markups"),
        ("a.json", {"markups": [1]}, "expected Slicer's markups"),
        ("a.json", {"markups": []}, "there are no points"),
        ("a.json", markups(controlPoints=5), "controlPoints must be a list"),
        ("a.json", markups(controlPoints=[{}]), "point 1: .* got None"),
        ("a.json", markups(controlPoints=[{"position": [1, 2]}]), "point 1: .* got 1, 2"),
        ("a.json", '{"markups": [{"controlPoints": [{"position": [1, 2, NaN]}]}]}', "finite"),
        ("a.json", markups(coordinateSystem="IJK"), "coordinate system is IJK, expected LPS or"),
        ("a.json", markups(coordinateUnits="um"), "coordinates are in um, expected mm"),
        ("a.json", markups(type="ROI"), "cannot deform a markup of type ROI"),
        ("a.fcsv", "", "no line says the coordinate system"),
        ("a.fcsv", FCSV.format(frame="2"), "coordinate system is 2, expected LPS or RAS"),
        ("a.fcsv", "# CoordinateSystem = LPS\n1,2\n", "point 1: .* got 2, nothing, nothing"),
        ("a.fcsv", "# CoordinateSystem = LPS\n# columns = id,r\n1,2\n", "the columns are id,r"),
        ("a.fcsv", "# CoordinateSystem = LPS\n", "there are no points"),
    ],
)  # fmt: skip
def test_unusable_file(tmp_path, name, content, says):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        write(path, content)
    with pytest.raises(InputError, match=says) as raised:
        read_points(path)
    assert str(path) in str(raised.value)


def test_a_folder_and_an_unknown_suffix_are_refused(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(InputError, match="this is a folder"):
        read_points(tmp_path / "a.csv")
    points = read_points(write(tmp_path / "b.csv", CSV))
    with pytest.raises(InputError, match="expected a file of points"):
        write_points(tmp_path / "b.vtk", points)
    with pytest.raises(InputError, match="cannot be written"):
        write_points(tmp_path / "absent" / "b.csv", points)
