"""Writing NIfTI: what is written is read again, and nothing is left half written."""

import numpy as np
import pytest
import torch
from nibabel.nifti1 import Nifti1Image

from voxelopt_train.errors import InputError
from voxelopt_train.files import atomic_output
from voxelopt_train.images import write_nifti

AFFINE = np.array([[0, -2.0, 0, 10], [1.5, 0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.float64, torch.bool])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_write_and_read(tmp_path, dtype, suffix):
    array = (torch.arange(24).reshape(2, 3, 4) % 2).to(dtype)
    path = tmp_path / f"a{suffix}"
    write_nifti(path, array, AFFINE)
    volume = Nifti1Image.from_filename(path)
    np.testing.assert_array_equal(volume.get_fdata(), array.numpy())
    for matrix, code in (volume.get_qform(coded=True), volume.get_sform(coded=True)):
        np.testing.assert_allclose(matrix, AFFINE, atol=1e-5)
        assert code == 1
    assert volume.header.get_xyzt_units()[0] == "mm"
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == (suffix == ".nii.gz")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_write_with_an_intent(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", np.zeros((2, 2, 2, 1, 3)), np.eye(4), intent=1007)
    volume = Nifti1Image.from_filename(tmp_path / "a.nii.gz")
    assert volume.header.get_intent()[0] == "vector" and volume.shape == (2, 2, 2, 1, 3)


def test_write_into_what_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file" / "a.nii", tmp_path / "absent" / "a.nii.gz"):
        with pytest.raises(InputError, match="cannot be written") as raised:
            write_nifti(target, np.zeros((2, 2, 2)), np.eye(4))
        assert str(target) in str(raised.value)
    with pytest.raises(InputError, match=r"expected a name ending in \.nii"):
        write_nifti(tmp_path / "a.png", np.zeros((2, 2, 2)), np.eye(4))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyError), atomic_output(target) as temporary:
        temporary.write_text("half of the new")
        raise KeyError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
