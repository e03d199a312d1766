"""Names of NIfTI files in capitals: as nibabel has them, or one sentence, everywhere alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from voxelopt_train.cohort import atlas_cases
from voxelopt_train.data.pair_table import subject_names
from voxelopt_train.errors import InputError
from voxelopt_train.images import read_image, write_nifti
from voxelopt_train.nifti_names import is_nifti, nifti_stem
from voxelopt_train.outputs import split_prefix
from voxelopt_train.transforms import read_transform, write_displacement_field
from worlds import make_grid, some_field

GRID = make_grid((5, 6, 7), (1, 2, 3))
TAKEN = ["a.nii", "a.NII", "a.nii.gz", "a.NII.GZ", "a.nii.GZ", "a.NII.gz", "a.nii.Gz"]
REFUSED = ["a.Nii", "a.nIi", "a.Nii.gz", "a.Nii.GZ"]
SAYS = r"expected a name ending in \.nii or \.nii\.gz"


@pytest.mark.parametrize("name", TAKEN)
def test_taken(tmp_path, name):
    path = tmp_path / name
    write_nifti(path, np.full(GRID.shape, 7, np.float32), GRID.affine)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.lower().endswith("gz")
    assert (read_image(path, "image").data == 7).all()
    field = some_field(GRID)
    write_displacement_field(path, field)
    moved = read_transform(path)
    assert type(moved) is type(field)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(InputError, match=SAYS):
        write_nifti(path, np.ones(GRID.shape), GRID.affine)
    assert not list(tmp_path.iterdir())
    other = tmp_path / name.lower()  # which nibabel would open in its place
    Nifti1Image(np.ones(GRID.shape), GRID.affine).to_filename(other)
    path.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match=rf"fixed image .*{name}: {SAYS}"):
        read_image(path, "fixed image")
    with pytest.raises(InputError, match=rf"transform .*{name}: {SAYS}"):
        read_transform(path)
    with pytest.raises(InputError, match="there is no such file"):
        read_image(tmp_path / "absent" / name, "fixed image")


@pytest.mark.parametrize("name", [*TAKEN, *REFUSED])
def test_a_name_of_an_image(tmp_path, name):
    assert is_nifti(name) and is_nifti(tmp_path / name) and nifti_stem(name) == "a"
    with pytest.raises(InputError, match="not the name of an image"):
        split_prefix(str(tmp_path / name))
    assert subject_names([Path("x.nii_old") / name]) == {Path("x.nii_old") / name: "a"}


@pytest.mark.parametrize("name", ["a.nii.gz.txt", "a.gz", "anii", "nii", "a.mat", "a.hdr", ""])
def test_other_names(name):
    assert not is_nifti(name) and nifti_stem(name) == name


def test_a_folder_of_images(tmp_path):
    """A file that will be refused is a case too: nothing is left out in silence."""
    for name in ("atlas.nii", "b.NII.GZ", "c.nii", "d.Nii", "e.txt", ".f.NII"):
        (tmp_path / name).touch()
    cases = atlas_cases(tmp_path / "atlas.nii", tmp_path)
    assert [case.name for case in cases] == ["b", "c", "d"]
