"""Preparation: where points come to lie, intensities, resumption, and labels that are wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from nibabel.orientations import axcodes2ornt, ornt_transform

from dataset_folders import SMALL, affine_of, voxels, write, write_subjects
from voxelopt_train.data.command import prepare_parser, run_prepare
from voxelopt_train.data.layouts import find_cohort
from voxelopt_train.data.manifest import read_manifest
from voxelopt_train.data.prepare import Settings, prepare
from voxelopt_train.data.subjects import Cohort
from voxelopt_train.errors import InputError

LANDMARK_MM = np.array([9.0, -14.0, 6.0])


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "source"
    write_subjects(folder, ["01", "02", "03"], keypoints=4)
    return folder


def cohort_of(folder: Path) -> Cohort:
    names = {kind: f"{kind}_*.nii.gz" for kind in ("image", "label")}
    points = "points_*.csv" if any(folder.glob("points_*")) else None
    return find_cohort(
        folder, images=names["image"], labels=names["label"], keypoints=points, test="1-99"
    )


def rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def landmark_subject(folder: Path, name: str, directions: np.ndarray) -> None:
    """A blob, a labelled cube and a keypoint around one world point, on any axes."""
    shape, spacing = np.array([40, 36, 44]), np.array([2.0, 2.5, 1.5])
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = np.array([4.0, -6.0, 2.0]) - affine[:3, :3] @ ((shape - 1) / 2)
    at = np.moveaxis(np.indices(tuple(shape)), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    distance = np.linalg.norm(at - LANDMARK_MM, axis=-1)
    image = 900 * np.exp(-((distance / 7) ** 2))
    write(folder / f"image_{name}.nii.gz", image.astype(np.float32), affine)
    write(folder / f"label_{name}.nii.gz", (distance < 8).astype(np.uint8), affine)
    point = np.linalg.solve(affine[:3, :3], LANDMARK_MM - affine[:3, 3])
    np.savetxt(folder / f"points_{name}.csv", point[None], delimiter=",", header="x,y,z")


def test_a_point_of_the_world_lands_where_the_affine_says(tmp_path):
    flips = np.diag([-1.0, -1.0, 1.0])
    axes = [
        np.eye(3),
        flips,
        np.eye(3)[[1, 2, 0]] @ np.diag([1.0, -1.0, 1.0]),  # posterior-to-anterior axis first
        rotation(20) @ flips,
        rotation(-25) @ np.eye(3)[[2, 0, 1]],
    ]
    for n, directions in enumerate(axes):
        landmark_subject(tmp_path, f"{n:02}", directions)
    settings = Settings(spacing_mm=3.0, shape=(30, 28, 26), window=(0, 900))
    prepare(find_cohort(tmp_path, images="image_*.nii.gz", labels="label_*.nii.gz",
            keypoints="points_*.csv", test="0-9"), tmp_path / "out", settings)  # fmt: skip
    for n, directions in enumerate(axes):
        image = tmp_path / "out" / "images" / f"{n:02}.nii.gz"
        affine, data = affine_of(image), voxels(image)
        assert data.dtype == np.float32 and data.shape == (30, 28, 26)
        # Right, anterior, superior along the axes, up to the tilt of the scan, and cubic.
        assert (np.diag(affine[:3, :3]) > 3 * np.cos(np.radians(26))).all()
        np.testing.assert_allclose(affine[:3, :3].T @ affine[:3, :3], 9 * np.eye(3), atol=1e-4)
        np.testing.assert_allclose(np.abs(affine[:3, :3].T / 3 @ directions).max(axis=0), 1)
        # The middle of the volume is the middle of the grid.
        middle = affine[:3, :3] @ [14.5, 13.5, 12.5] + affine[:3, 3]
        np.testing.assert_allclose(middle, [4.0, -6.0, 2.0], atol=1e-4)
        expected = np.linalg.solve(affine[:3, :3], LANDMARK_MM - affine[:3, 3])
        labels = voxels(tmp_path / "out" / "labels" / image.name)
        for weights, accuracy in ((data**2, 0.05), (labels, 0.35)):  # half a voxel of the source
            centroid = (np.indices(data.shape) * weights).sum((1, 2, 3)) / weights.sum()
            np.testing.assert_allclose(centroid, expected, atol=accuracy)
        point = np.loadtxt(tmp_path / "out" / "keypoints" / f"{n:02}.csv", delimiter=",")
        np.testing.assert_allclose(point, expected, atol=1e-3)


def test_every_storage_order_of_a_scan_gives_the_same_voxels(tmp_path):
    write_subjects(tmp_path, ["0"], labels=3)
    for n, codes in enumerate(["LPS", "PSR", "SAL"], 1):
        for kind in ("image", "label"):
            scan = Nifti1Image.from_filename(tmp_path / f"{kind}_0.nii.gz")
            to = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
            scan.as_reoriented(to.tolist()).to_filename(tmp_path / f"{kind}_{n}.nii.gz")
    prepare(cohort_of_all(tmp_path), tmp_path / "out", SMALL)
    for kind in ("images", "labels"):
        first = voxels(tmp_path / "out" / kind / "0.nii.gz")
        assert first.std() > 0
        for n in (1, 2, 3):
            other = voxels(tmp_path / "out" / kind / f"{n}.nii.gz")
            np.testing.assert_allclose(other, first, atol=1e-5)


def cohort_of_all(folder: Path) -> Cohort:
    return find_cohort(folder, images="image_*.nii.gz", labels="label_*.nii.gz", test="0-99")


def test_voxels_that_fit_are_kept_and_the_outside_is_zero(source, tmp_path):
    data, labels = voxels(source / "image_01.nii.gz"), voxels(source / "label_01.nii.gz")
    settings = Settings(3.0, (14, 12, 10), window=(-20.0, 30.0))
    prepare(cohort_of(source), tmp_path / "same", settings)
    expected = ((data + 20) / 50).clip(0, 1)
    np.testing.assert_allclose(voxels(tmp_path / "same/images/01.nii.gz"), expected, atol=1e-6)
    assert (voxels(tmp_path / "same/labels/01.nii.gz") == labels).all()
    prepare(cohort_of(source), tmp_path / "wide", Settings(3.0, (20, 18, 16)))
    wide = voxels(tmp_path / "wide/images/01.nii.gz")
    low, high = np.percentile(data, (0.5, 99.5))
    expected = np.pad(((data - low) / (high - low)).clip(0, 1), 3)
    np.testing.assert_allclose(wide, expected, atol=1e-5)
    assert voxels(tmp_path / "wide/labels/01.nii.gz").dtype == np.uint8


def test_the_centre_of_mass_in_the_middle_of_the_grid(tmp_path):
    landmark_subject(tmp_path, "1", rotation(10))
    landmark_subject(tmp_path, "2", np.eye(3))
    settings = Settings(3.0, (20, 20, 20), window=(0, 900), center="mass")
    prepare(cohort_of(tmp_path), tmp_path / "out", settings)
    for name in ("1", "2"):
        data = voxels(tmp_path / "out" / "images" / f"{name}.nii.gz")
        centroid = (np.indices(data.shape) * data).sum((1, 2, 3)) / data.sum()
        np.testing.assert_allclose(centroid, 9.5, atol=0.2)


def test_a_run_goes_on_where_it_was(source, tmp_path, monkeypatch):
    output, done = tmp_path / "out", []
    assert prepare(cohort_of(source), output, SMALL, done.append).skipped == []
    assert done == ["subject 01", "subject 02", "subject 03"]
    manifest = (output / "manifest.json").read_bytes()
    assert prepare(cohort_of(source), output, SMALL).skipped == ["01", "02", "03"]
    assert (output / "manifest.json").read_bytes() == manifest
    (output / "labels" / "02.nii.gz").unlink()
    assert prepare(cohort_of(source), output, SMALL).skipped == ["01", "03"]
    os.utime(source / "image_03.nii.gz", (0, 0))  # as another image of this name has
    assert prepare(cohort_of(source), output, SMALL).skipped == ["01", "02"]
    (source / "label_02.nii.gz").write_bytes(b"damaged")
    settings = replace(SMALL, spacing_mm=2.5)
    with pytest.raises(InputError, match=r"label_02.nii.gz: not a NIfTI image"):
        prepare(cohort_of(source), output, settings)
    assert not (output / "manifest.json").exists()  # would mix two spacings
    write_subjects(source, ["01", "02"])
    prepare(cohort_of(source), output, settings)
    assert read_manifest(output).spacing_mm == 2.5
    np.testing.assert_allclose(np.diag(affine_of(output / "images/03.nii.gz"))[:3], 2.5)


def test_the_others_go_on_without_a_file_that_is_gone_by_the_time_it_is_read(source, tmp_path):
    cohort, out = cohort_of(source), tmp_path / "out"
    label = (source / "label_02.nii.gz").rename(tmp_path / "label_02.nii.gz")
    says = r"1 of 3 subjects cannot be read, the other 2 are prepared: 02, .*label_02.nii.gz: there"
    with pytest.raises(InputError, match=says):
        prepare(cohort, out, SMALL)
    assert {path.stem for path in out.glob("records/*")} == {"01", "03"}
    assert not (out / "manifest.json").exists()
    label.rename(source / "label_02.nii.gz")
    assert prepare(cohort, out, SMALL).skipped == ["01", "03"]


def test_of_several_subjects_that_cannot_be_read_the_first_says_why(source, tmp_path):
    for name in ("01", "03"):
        (source / f"image_{name}.nii.gz").write_text("no image")
    with pytest.raises(
        InputError, match=r"2 of 3 .* prepared: 01 \(as 03\), .*image_01.nii.gz: not"
    ):
        prepare(cohort_of(source), tmp_path / "out", SMALL)


def test_the_manifest_says_what_was_made(source, tmp_path):
    lines = [f"image_{a}.nii.gz,image_{b}.nii.gz,{s}" for a, b, s in [
        ("01", "02", "train"), ("03", "01", "test")]]  # fmt: skip
    (source / "pairs.csv").write_text("\n".join(["fixed,moving,split", lines[0]]))
    prepare(find_cohort(source / "pairs.csv"), tmp_path / "listed", SMALL)
    listed = read_manifest(tmp_path / "listed" / "manifest.json")
    assert listed.cohort.pairs["train"] == [("image_01", "image_02")]
    assert listed.labels == ()
    prepare(cohort_of(source), tmp_path / "out", replace(SMALL, window=(-20.0, 30.0)))
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.spacing_mm, manifest.shape) == (3.0, (12, 10, 8))
    assert manifest.window == (-20.0, 30.0) and manifest.labels == (1, 2)
    assert len(manifest.cohort.pairs["test"]) == 6 and not manifest.cohort.pairs["train"]
    for subject in manifest.cohort.subjects.values():
        assert len(subject.files) == 3 and all(file.is_file() for file in subject.files)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda a: (a[:-1], np.eye(4)), "not on the grid of their image"),
        (lambda a: (a + 0.5, np.diag([3.0, 3, 3, 1])), "must be whole numbers, found 2.5"),
        (lambda a: (a * 0, np.diag([3.0, 3, 3, 1])), "no labels in this file"),
        (lambda a: (a + 254.0, np.diag([3.0, 3, 3, 1])), "must lie within 0 and 255"),
    ],
)
def test_wrong_labels_are_named(source, tmp_path, wrong, sentence):
    array, affine = wrong(voxels(source / "label_02.nii.gz").astype(np.float32))
    write(source / "label_02.nii.gz", array, affine)
    with pytest.raises(InputError, match=rf"label_02.nii.gz: .*{sentence}"):
        prepare(cohort_of(source), tmp_path / "out", SMALL)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_unusual_labels_are_noted(source, tmp_path):
    affine = np.diag([3.0, 3, 3, 1])
    labels = voxels(source / "label_01.nii.gz") * 0
    labels[5:9, 5:9, 4:6] = 1
    labels[0, 0, :4] = 2  # cut off by the grid, which is two voxels shorter
    write(source / "label_01.nii.gz", labels, affine)
    write(source / "label_02.nii.gz", (labels == 1).astype(np.uint8), affine)
    assert prepare(cohort_of(source), tmp_path / "out", SMALL).notes[:3] == [
        "subject 01: nothing of label 2 is left on the new grid",
        "subject 01: 11 % of what is labelled is outside the grid",
        "subject 02 has no label 2",
    ]


def test_settings_and_keypoints_that_cannot_be(source, tmp_path):
    wrong: dict[str, Any]
    for wrong, sentence in (
        ({"spacing_mm": 0.0}, "above 0 mm, got 0"),
        ({"shape": (4, 0, 4)}, "three numbers of voxels"),
        ({"window": (5.0, 5.0)}, "from low to high, got 5 5"),
    ):
        with pytest.raises(InputError, match=sentence):
            Settings(**wrong)
    for text, sentence in (
        ("1,2\n", "three a line"),
        ("x,y,z\n1,b,2\n", "CSV of numbers"),
        ("1,2,3\n1,2,60\n", "keypoint 2 lies outside the image"),
    ):
        (source / "points_01.csv").write_text(text)
        with pytest.raises(InputError, match=rf"points_01.csv: .*{sentence}"):
            prepare(cohort_of(source), tmp_path / "out", SMALL)


def test_the_command(source, tmp_path, capsys):
    parser, _ = prepare_parser()
    files = ["--images", "image_*.nii.gz", "--labels", "label_*.nii.gz"]
    grid = ["--spacing", "3", "--shape", "12", "10", "8", "--window", "-20", "30"]
    arguments = [str(source), "-o", str(tmp_path / "out"), *files, *grid, "--test", "1-2"]
    for again in (False, True):
        run_prepare(parser.parse_args(arguments))
        out = capsys.readouterr().out
        assert ("2 of 2 subjects were there already" in out) == again
        assert f"wrote {tmp_path / 'out' / 'manifest.json'}" in out
    manifest = read_manifest(tmp_path / "out")
    assert manifest.cohort.pairs["test"] == [("01", "02"), ("02", "01")]
    assert manifest.window == (-20.0, 30.0) and manifest.shape == (12, 10, 8)


def test_the_command_starts_without_lightning_and_monai():
    code = (
        "import sys, voxelopt_train.data.command; print({'lightning', 'monai'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_scans_are_never_replaced(tmp_path):
    write_subjects(tmp_path, ["01", "02"])
    own = tmp_path / "own"
    for path in list(tmp_path.glob("*_*.nii.gz")):
        kind, _, name = path.name.partition("_")
        (own / f"{kind}s").mkdir(parents=True, exist_ok=True)
        path.rename(own / f"{kind}s" / name)
    before = {path: path.read_bytes() for path in own.rglob("*.nii.gz")}
    cohort = find_cohort(own, images="images/*.nii.gz", labels="labels/*.nii.gz", test="1-2")
    with pytest.raises(InputError, match=r"images/01\.nii\.gz would be overwritten"):
        prepare(cohort, own, SMALL)
    assert {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} == before
