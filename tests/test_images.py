"""Reading images and labels, and every kind of bad file."""

import gzip
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from nibabel import imageglobals
from nibabel.brikhead import AFNIImage
from nibabel.loadsave import load
from nibabel.nifti1 import Nifti1Image
from nibabel.testing import data_path

from voxelopt_train import images
from voxelopt_train.errors import InputError
from voxelopt_train.images import read_image, write_nifti

AFFINE = np.array([[0, -2.0, 0, 10], [1.5, 0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])


@pytest.fixture
def array():
    return np.random.default_rng(0).normal(size=(5, 6, 4)).astype(np.float32)


def save(path, array, affine=AFFINE):
    Nifti1Image(array, affine).to_filename(path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_reads_a_file(tmp_path, array, suffix):
    path = save(tmp_path / f"a{suffix}", array)
    image = read_image(path, "fixed image")
    assert image.data.dtype == torch.float32 and image.data.is_contiguous()
    np.testing.assert_array_equal(image.data.numpy(), array)
    np.testing.assert_allclose(image.grid.affine, AFFINE)
    assert image.grid.affine.dtype == np.float64
    assert image.grid.shape == (5, 6, 4)
    assert image.name == str(path)


def test_scale_factor_of_integers_is_applied(tmp_path):
    stored = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    volume = Nifti1Image(stored, AFFINE)
    volume.header.set_slope_inter(0.5, -10)
    volume.to_filename(tmp_path / "a.nii")
    raw = Nifti1Image.from_filename(tmp_path / "a.nii")
    np.testing.assert_allclose(
        read_image(tmp_path / "a.nii", "image").data, raw.get_fdata(), atol=1e-4
    )
    assert raw.header["scl_slope"] != 1


def test_scale_factors_of_afni_are_applied(tmp_path):
    """One for each volume, in a header of another kind; compressed too."""
    whole = Path(str(data_path), "scaled+tlrc")
    shutil.copy(whole.with_suffix(".HEAD"), tmp_path / "a+tlrc.HEAD")
    stored = whole.with_suffix(".BRIK").read_bytes()
    (tmp_path / "a+tlrc.BRIK.gz").write_bytes(gzip.compress(stored, 1))
    expected = AFNIImage.from_filename(whole.with_suffix(".HEAD")).get_fdata()
    data = read_image(tmp_path / "a+tlrc.HEAD", "image").data.numpy()
    np.testing.assert_allclose(data, expected.reshape(data.shape), rtol=1e-6)
    assert not np.array_equal(data, np.rint(data))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64, ">i2"])
def test_number_types(tmp_path, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    path = tmp_path / "a.nii"
    volume = Nifti1Image(array, AFFINE, dtype=dtype)
    volume.to_filename(path)
    np.testing.assert_array_equal(read_image(path, "image").data, array)
    labels = read_image(path, "labels", labels=True).data
    assert labels.dtype == torch.int32
    np.testing.assert_array_equal(labels, array)


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        ([0, 255], "uint8"),
        ([False, True], "uint8"),
        ([0, 256], "int16"),
        ([-1, 5], "int16"),
        ([0, 40000], "int32"),
        ([-(2**31), 0], "int32"),
    ],
)
def test_label_maps_are_written_in_the_smallest_type_that_holds_them(tmp_path, values, stored):
    array = torch.tensor(values).reshape(2, 1, 1)
    write_nifti(tmp_path / "a.nii.gz", array, AFFINE)
    volume = Nifti1Image.from_filename(tmp_path / "a.nii.gz")
    assert volume.get_data_dtype() == np.dtype(stored)
    np.testing.assert_array_equal(np.asanyarray(volume.dataobj), array)


@pytest.mark.parametrize(
    ("stored", "read"),
    [((5, 6), (5, 6, 1)), ((5, 6, 1), (5, 6, 1)), ((5, 6, 4, 1), (5, 6, 4)), ((5, 6, 1, 1), None)],
)
def test_slices_and_trailing_axes(tmp_path, stored, read):
    path = save(tmp_path / "a.nii.gz", np.ones(stored, np.float32))
    assert read_image(path, "image").data.shape == (read or (5, 6, 1))


def test_qform_where_there_is_no_sform(tmp_path, array):
    volume = Nifti1Image(array, None)
    volume.set_qform(AFFINE, code=1)
    volume.set_sform(None, code=0)
    volume.to_filename(tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii", "image")
    np.testing.assert_allclose(image.grid.affine, AFFINE, atol=1e-5)


def test_nibabel_image_and_array_give_the_same(array):
    a = read_image(Nifti1Image(array, AFFINE), "fixed image")
    b = read_image((array, AFFINE), "moving image")
    assert a.name == "fixed image" and b.name == "moving image"
    assert torch.equal(a.data, b.data) and a.grid.matches(b.grid)


def test_float_labels_that_are_whole(tmp_path):
    labels = np.array([0, 1, 7, -2, 2**24 + 1], dtype=np.float64).reshape(5, 1, 1)
    assert read_image((labels, AFFINE), "labels", labels=True).data.flatten().tolist() == [
        0, 1, 7, -2, 2**24 + 1,
    ]  # fmt: skip


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
SINGULAR = np.diag([1.0, 0, 1, 1])


def with_value(value):
    array = np.zeros((3, 3, 3), np.float32)
    array[0, 1] = value
    return array


@pytest.mark.parametrize(
    ("array", "affine", "says"),
    [
        (np.zeros((3, 3, 3), np.complex64), AFFINE, "complex"),
        (np.zeros((3, 3, 3), RGB), AFFINE, "colour"),
        (np.zeros((3, 3, 3, 2), np.float32), AFFINE, r"single 3-D volume.*\(3, 3, 3, 2\)"),
        (np.zeros((3, 3, 3, 1, 3), np.float32), AFFINE, "single 3-D volume"),
        (with_value(np.nan), AFFINE, "3 of 27 voxels are NaN"),
        (with_value(-np.inf), AFFINE, "3 of 27 voxels are NaN"),
        (with_value(0), SINGULAR, "singular"),
    ],
)
@pytest.mark.parametrize("source", ["file", "nibabel", "array"])
def test_unusable_volume(tmp_path, array, affine, says, source):
    volume = Nifti1Image(array, None)
    volume.set_sform(affine, code=1)
    if source == "array":
        given, named = (array, affine), "fixed image"
    elif source == "nibabel":
        given, named = volume, "fixed image"
    else:
        volume.to_filename(tmp_path / "a.nii.gz")
        given, named = tmp_path / "a.nii.gz", str(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=says) as raised:
        read_image(given, "fixed image")
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("array", "affine", "says"),
    [
        (np.zeros((3, 0, 3)), AFFINE, "empty"),
        (np.zeros(3), AFFINE, "single 3-D volume"),
        (np.array([["a"]]), AFFINE, "no numbers"),
        (np.full((2, 2, 2), 1e300), AFFINE, "8 of 8 voxels"),
        (np.zeros((2, 2, 2)), np.eye(3), "4x4 affine"),
        (np.zeros((2, 2, 2)), np.full((4, 4), np.nan), "affine has NaN"),
        # Collinear axes, of a determinant that rounding keeps from zero.
        (np.zeros((2, 2, 2)), np.diag([1e-3, 1e-3, 1e-3, 1]) @ np.ones((4, 4)), "singular"),
    ],
)
def test_unusable_array(array, affine, says):
    with pytest.raises(InputError, match=says):
        read_image((array, affine), "fixed image")


def test_small_voxels_are_not_singular():
    assert read_image((np.ones((2, 2, 2)), np.diag([1e-4] * 3 + [1])), "image").data.sum() == 8


@pytest.mark.parametrize(
    ("value", "says"), [(2.5, "whole numbers, found 2.5"), (np.nan, "NaN"), (3e9, "within")]
)
def test_unusable_labels(value, says):
    labels = np.zeros((2, 2, 2))
    labels[1, 1, 1] = value
    with pytest.raises(InputError, match=f"moving labels: .*{says}"):
        read_image((labels, AFFINE), "moving labels", labels=True)


def bad_file(tmp_path, kind):
    rng = np.random.default_rng(0)
    good = save(tmp_path / "good.nii", rng.normal(size=(30, 30, 30)).astype(np.float32))
    content = good.read_bytes()
    path = tmp_path / ("bad.nii" if kind.startswith("nii") else "bad.nii.gz")
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(
            {
                "nii cut in the data": content[:-5000],
                "nii cut in the header": content[:200],
                "nii of text": b"this is no image" * 100,
                "nii of nothing": b"",
                "gz cut": gzip.compress(content)[:-5000],
                "gz of shorter data": gzip.compress(content[:-5000]),
                "gz with a flipped byte": _flip(gzip.compress(content)),
                "gz that is not compressed": b"this is no image" * 100,
            }[kind]
        )
    return path


def _flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "no such file"),
        ("folder", "folder"),
        ("nii cut in the data", "truncated or damaged"),
        ("nii cut in the header", "not a NIfTI image"),
        ("nii of text", "not a NIfTI image"),
        ("nii of nothing", "not a NIfTI image"),
        ("gz cut", "truncated or damaged"),
        ("gz of shorter data", "truncated or damaged"),
        ("gz with a flipped byte", "truncated or damaged"),
        ("gz that is not compressed", "not a NIfTI image"),
    ],
)
def test_bad_file(tmp_path, kind, says):
    path = bad_file(tmp_path, kind)
    with pytest.raises(InputError, match=says) as raised:
        read_image(path, "moving image")
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("unit", "accepted"), [("mm", True), ("unknown", True), ("micron", False)])
def test_lengths_are_millimetres(unit, accepted):
    volume = Nifti1Image(np.zeros((3, 4, 5), np.float32), np.eye(4))
    volume.header.set_xyzt_units(unit)
    if accepted:
        assert read_image(volume, "fixed image").grid.spacing == (1, 1, 1)
    else:
        with pytest.raises(InputError, match="voxel sizes are in microns, expected millimetres"):
            read_image(volume, "fixed image")


def test_two_threads_leave_the_lines_of_nibabel_as_they_were(tmp_path, array, monkeypatch, caplog):
    """What it corrects in a header is not told while a file is opened; later, all is told."""
    paths = [save(tmp_path / name, array) for name in ("a.nii", "b.nii")]
    inside, leave = ({path: Event() for path in paths} for _ in range(2))

    def slowly(path):
        imageglobals.logger.warning("corrected")
        inside[path].set()
        assert leave[path].wait(60)
        return load(path)

    monkeypatch.setattr(images, "load", slowly)
    with ThreadPoolExecutor(2) as pool:
        read = []
        for path in paths:
            read.append(pool.submit(read_image, path, "image"))
            assert inside[path].wait(60)
        imageglobals.logger.warning("of another")
        for path, image in zip(paths, read, strict=True):  # the first in is the first out
            leave[path].set()
            image.result()
    imageglobals.logger.warning("later")
    assert caplog.messages == ["of another", "later"]
