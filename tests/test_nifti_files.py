"""Images that are odd and yet whole: what is refused of broken ones is not refused of these.

(The broken ones, in tests/broken_images.py.)
"""

from __future__ import annotations

import gzip
import os

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Extension, Nifti1Image, Nifti1Pair
from nibabel.nifti2 import Nifti2Image

from broken_makers import analyze_header, formless, nifti, nothing, pair, sparse
from command_line import AFFINE
from voxelopt_train import input_files
from voxelopt_train.errors import InputError
from voxelopt_train.images import read_grid, read_image

VOXELS = np.arange(336, dtype=np.float32).reshape(8, 7, 6)  # as `broken_makers.nifti` has them


def with_extension(path):
    volume = Nifti1Image(VOXELS, AFFINE)
    volume.header.extensions.append(Nifti1Extension("comment", b"made by hand"))
    volume.to_filename(path)


def big_endian(path):
    volume = Nifti1Image(VOXELS.astype(">f4"), AFFINE)
    Nifti1Image(volume.dataobj, AFFINE, volume.header.as_byteswapped(">")).to_filename(path)


def with_more_behind(path):
    """Which no header declares: 64 MB, of which next to nothing is read."""
    nifti()(path)
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(2**26)))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.nii.gz", nifti(scl_slope=np.nan, scl_inter=np.nan)),  # nibabel, ITK, FSL: no scale
        ("a.nii.gz", nifti(scl_slope=np.inf)),
        ("a.nii.gz", nifti(scl_slope=0, scl_inter=5)),
        ("a.nii.gz", nifti(bitpix=0)),
        ("a.nii.gz", nifti(pixdim=[1, 0, -2, 0, 1, 1, 1, 1])),  # the sform counts
        ("a.nii.gz", nifti(sform_code=0, qform_code=1, pixdim=[1, -8, 8, -8, 1, 1, 1, 1])),
        ("a.nii.gz", nifti(sizeof_hdr=0)),
        ("a.nii.gz", nifti(kind=Nifti2Image)),
        ("A.NII.GZ", nifti()),
        ("a.nii", with_extension),
        ("a.nii.gz", with_extension),
        ("a.nii", big_endian),
        ("a.nii.gz", with_more_behind),
        ("a.nii", lambda path: (nifti()(path), os.truncate(path, 5000))),
        ("a.img", lambda path: Nifti1Pair(VOXELS, AFFINE).to_filename(path)),
        ("a.hdr", lambda path: Nifti1Pair(VOXELS, AFFINE).to_filename(path)),
    ],
)
def test_odd_and_yet_whole(tmp_path, capfd, name, write):
    write(tmp_path / name)
    image = read_image(tmp_path / name, "image")
    np.testing.assert_array_equal(image.data.numpy(), VOXELS)
    np.testing.assert_allclose(image.grid.affine, AFFINE)
    assert capfd.readouterr() == ("", "")


def test_a_negative_voxel_size_of_analyze_is_taken_without_its_sign(tmp_path):
    """It meant a flip, to some programs."""
    header = analyze_header(pixdim=[1, -8, 8, 8, 1, 1, 1, 1])
    pair(nothing, header)(tmp_path / "a.img")
    grid = read_image(tmp_path / "a.img", "image").grid
    assert grid.shape == (8, 7, 6) and grid.spacing == pytest.approx((8, 8, 8))


def test_the_third_voxel_size_of_a_slice_may_be_0(tmp_path):
    header = {"sform_code": 0, "qform_code": 0, "pixdim": [1, 2, 2, 0, 0, 0, 0, 0]}
    nifti(VOXELS[..., :1], **header)(tmp_path / "a.nii")
    assert read_image(tmp_path / "a.nii", "image").grid.spacing == pytest.approx((2, 2, 1))
    formless(2, 0, 2)(tmp_path / "b.nii")
    with pytest.raises(InputError, match="a voxel size is 0 mm, expected one above 0"):
        read_image(tmp_path / "b.nii", "image")


@pytest.mark.parametrize(("slope", "scaled"), [(1, 0), (0.5, 16)])
def test_what_is_refused_for_its_size_is_not_opened(tmp_path, monkeypatch, slope, scaled):
    """What there is has to hold the voxels as they are stored, scaled, and as float32."""
    nifti(scl_slope=slope)(tmp_path / "a.nii.gz")
    needed = VOXELS.size * (4 + scaled + 4)
    monkeypatch.setattr(input_files, "available_memory", lambda: needed)
    read_image(tmp_path / "a.nii.gz", "image")
    monkeypatch.setattr(input_files, "available_memory", lambda: needed - 1)
    says = (
        rf"shape \(8, 7, 6\) of float32 would take {needed} bytes of memory, {needed - 1} bytes are"
    )
    with pytest.raises(InputError, match=says):
        read_image(tmp_path / "a.nii.gz", "image")
    assert read_grid(tmp_path / "a.nii.gz", "image").shape == VOXELS.shape  # needs no voxels


def test_an_opened_image_of_nibabel_is_refused_too(tmp_path, monkeypatch):
    sparse(2**30, nifti(dim=[3, 512, 512, 512, 1, 1, 1, 1], datatype=2, bitpix=8))(
        tmp_path / "a.nii"
    )
    monkeypatch.setattr(input_files, "available_memory", lambda: 2**29)
    with pytest.raises(InputError, match=r"a\.nii: shape .* of uint8 would take 0\.7 GB of memory"):
        read_image(Nifti1Image.from_filename(tmp_path / "a.nii"), "image")
