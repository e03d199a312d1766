"""Geometry in headers: a sform and a qform that disagree, and what we write ourselves."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from voxelopt_train.errors import InputWarning, input_warnings_to, warn_once
from voxelopt_train.headers import forms_apart_mm
from voxelopt_train.images import read_grid, read_image, write_nifti
from voxelopt_train.transforms import read_transform
from worlds import PAIRS, make_grid

GRID = make_grid((12, 10, 9), (2, 2.5, 3), (20, -15, 30))


def two_forms(qform, codes=(1, 2), affine=GRID.affine) -> Nifti1Image:
    volume = Nifti1Image(np.ones(GRID.shape, np.float32), affine)
    volume.set_sform(affine, codes[1])
    volume.set_qform(qform, codes[0], update_affine=False)
    return volume


def shifted(mm: float) -> np.ndarray:
    affine = GRID.affine.copy()
    affine[:3, 3] += np.array([0.6, 0, 0.8]) * mm
    return affine


def test_says_by_how_much_they_disagree(tmp_path):
    path = tmp_path / "a.nii.gz"
    two_forms(shifted(3.2)).to_filename(path)
    says = r"a\.nii\.gz: its sform and qform disagree by up to 3\.2 mm; the sform is used here"
    with pytest.warns(InputWarning, match=says):
        image = read_image(path, "fixed image")
    np.testing.assert_allclose(image.grid.affine, GRID.affine, atol=1e-5)


def test_itk_does_take_the_qform(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    path = tmp_path / "a.nii.gz"
    two_forms(shifted(3.2)).to_filename(path)
    lps = np.array(sitk.ReadImage(str(path)).GetOrigin())
    np.testing.assert_allclose(lps * [-1, -1, 1], shifted(3.2)[:3, 3], atol=1e-4)


def test_says_so_once_per_file(tmp_path):
    told: list[str] = []
    for name in ("a.nii", "b.nii"):
        two_forms(shifted(5)).to_filename(tmp_path / name)
    with input_warnings_to(told.append):
        for name in ("a.nii", "a.nii", "b.nii", "a.nii"):
            read_grid(tmp_path / name, "image")
            read_image(tmp_path / name, "image")
    assert [text.split(":")[0] for text in told] == [str(tmp_path / n) for n in ("a.nii", "b.nii")]


@pytest.mark.parametrize(
    ("mm", "codes"),
    [(0, (1, 1)), (0, (1, 2)), (0.15, (1, 1)), (50, (0, 1)), (50, (1, 0))],
)
def test_nothing_is_said(tmp_path, mm, codes):
    two_forms(shifted(mm), codes).to_filename(tmp_path / "a.nii")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(tmp_path / "a.nii", "image")


def test_says_where_nothing_tells_the_place(tmp_path):
    two_forms(shifted(0), (0, 0)).to_filename(tmp_path / "a.nii")
    says = r"a\.nii: its header says nothing of position and orientation \(sform_code and qform_c"
    with pytest.warns(InputWarning, match=says):
        grid = read_grid(tmp_path / "a.nii", "image")
    np.testing.assert_allclose(grid.center, 0, atol=1e-6)
    assert grid.spacing == pytest.approx(GRID.spacing)


def test_corners_count_and_voxels_are_the_measure():
    turned = GRID.affine.copy()
    turned[:3, :3] = make_grid(GRID.shape, GRID.spacing, (20, -15, 31)).affine[:3, :3]
    turned[:3, 3] = GRID.center - turned[:3, :3] @ ((np.array(GRID.shape) - 1) / 2)
    half_diagonal = np.linalg.norm(np.multiply(GRID.shape, GRID.spacing)) / 2
    assert 0.1 < forms_apart_mm(two_forms(turned)) < np.radians(1) * half_diagonal
    small = np.diag([0.1, 0.1, 0.1, 1])
    apart = small.copy()
    apart[0, 3] = 0.02
    assert forms_apart_mm(two_forms(apart, affine=small)) == pytest.approx(0.02, rel=1e-4)


def test_a_qform_that_is_none_is_none(tmp_path):
    volume = two_forms(shifted(9))
    volume.header["quatern_b"] = 5
    assert forms_apart_mm(volume) == 0


@pytest.mark.parametrize("pair", PAIRS)
def test_what_we_write_agrees_with_itself(tmp_path, pair):
    for grid in PAIRS[pair]:
        write_nifti(tmp_path / "a.nii.gz", np.ones(grid.shape, np.float32), grid.affine)
        volume = Nifti1Image.from_filename(tmp_path / "a.nii.gz")
        for form, code in (volume.get_qform(coded=True), volume.get_sform(coded=True)):
            np.testing.assert_allclose(form, grid.affine, atol=1e-4)
            assert code == 1
        assert not read_grid(tmp_path / "a.nii.gz", "image").misfit


def test_a_sheared_grid_is_in_the_sform_alone(tmp_path):
    affine = GRID.affine @ np.array([[1, 0.4, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    write_nifti(tmp_path / "a.nii.gz", np.ones(GRID.shape, np.float32), affine)
    volume = Nifti1Image.from_filename(tmp_path / "a.nii.gz")
    assert volume.get_qform(coded=True) == (None, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = read_grid(tmp_path / "a.nii.gz", "image")
    np.testing.assert_allclose(read.affine, affine, atol=1e-5)
    assert not read.misfit


def test_of_a_displacement_field_too(tmp_path):
    path = tmp_path / "1Warp.nii.gz"
    write_nifti(path, np.zeros((*GRID.shape, 1, 3)), GRID.affine, intent=1007)
    volume = Nifti1Image.from_filename(path)
    volume.set_qform(shifted(4), 1, update_affine=False)
    volume.to_filename(tmp_path / "torn.nii.gz")
    with pytest.warns(InputWarning, match="disagree by up to 4 mm"):
        read_transform(tmp_path / "torn.nii.gz")


def test_other_warnings_go_their_way():
    told: list[str] = []
    with pytest.warns(RuntimeWarning, match="of NumPy"), input_warnings_to(told.append):
        warn_once("of this test")
        warnings.warn("of NumPy", RuntimeWarning, stacklevel=1)
    assert told == ["of this test"]
