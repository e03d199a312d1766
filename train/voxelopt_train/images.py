"""Images and label maps in, NIfTI files out; everything that can be wrong with a file is said here.

World coordinates are RAS millimetres, as nibabel gives them (sform before qform).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.loadsave import load
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.spatialimages import HeaderDataError, SpatialImage
from numpy.typing import ArrayLike
from torch import Tensor

from voxelopt_train.errors import InputError
from voxelopt_train.files import atomic_output
from voxelopt_train.grids import Grid

ImageLike = str | Path | SpatialImage | tuple[ArrayLike, ArrayLike]

# What nibabel, gzip and mmap raise on files that are cut short or hold something else.
_UNREADABLE = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error)


@dataclass(frozen=True, eq=False)
class Image:
    """One 3-D volume.

    Attributes:
        data: ``(*spatial)``, float32 for images, int32 for labels, in array axis order.
        grid: where its voxels lie.
        name: what messages call it: its file, or its role where it came as an array.
    """

    data: Tensor
    grid: Grid
    name: str


def read_image(source: ImageLike, name: str, labels: bool = False) -> Image:
    """Read one 3-D volume and check it.

    A 2-D image is taken as a single slice, and trailing axes of length 1 are dropped.

    Args:
        source: a file, a nibabel image, or ``(array, affine)`` with the 4x4 affine in RAS mm.
        name: the role of the image in messages, as "fixed image".
        labels: whether the values are labels, which have to be whole numbers.

    Returns:
        Image with float32 data, or int32 for labels.

    Raises:
        InputError: the source is missing, damaged, no image, more than one volume, in colour,
            complex or empty, not in millimetres, has NaN or infinite voxels or a singular affine,
            or its labels are not whole numbers.
    """
    if isinstance(source, tuple):
        array, affine = np.asarray(source[0]), np.asarray(source[1], dtype=np.float64)
    else:
        if isinstance(source, SpatialImage):
            volume = source
            name = volume.get_filename() or name
        else:
            volume = load_volume(source, name)
            name = str(source)
        check_units(volume, name)
        array, affine = voxels(volume, name), cast(np.ndarray, volume.affine)
    array = _single_volume(array, name)
    check_affine(affine, name)
    data = _as_labels(array, name) if labels else _as_intensities(array, name)
    nx, ny, nz = data.shape
    return Image(torch.from_numpy(data), Grid((nx, ny, nz), affine.astype(np.float64)), name)


def read_grid(path: str | Path, name: str) -> Grid:
    """Where the voxels of a file lie; its intensities are not read.

    Raises:
        InputError: it is missing, damaged, no image of one to three axes, or its affine is
            singular.
    """
    volume = load_volume(path, name)
    check_units(volume, str(path))
    affine = np.asarray(volume.affine, dtype=np.float64)
    check_affine(affine, str(path))
    nx, ny, nz = (*volume.shape, 1, 1, 1)[:3]
    if nx * ny * nz == 0:
        raise InputError(f"{path}: the image is empty, shape {volume.shape}")
    return Grid((nx, ny, nz), affine)


def load_volume(path: str | Path, name: str) -> SpatialImage:
    """Open a file with nibabel; the voxels are not read yet.

    Raises:
        InputError: it is missing, a folder, damaged or of another kind.
    """
    try:
        if Path(path).is_dir():
            raise InputError(f"{name} {path}: this is a folder, expected a NIfTI file")
        volume = load(path)
    except FileNotFoundError as error:
        raise InputError(f"{name} {path}: there is no such file") from error
    except PermissionError as error:
        raise InputError(f"{name} {path}: no permission to read this file") from error
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{name} {path}: not a NIfTI image, or a damaged one") from error
    if not isinstance(volume, SpatialImage):
        raise InputError(f"{name} {path}: expected a NIfTI image, got {type(volume).__name__}")
    return volume


def voxels(volume: SpatialImage, name: str) -> np.ndarray:
    """The scaled voxel values of an opened file, or InputError where they are cut short."""
    try:
        return np.asanyarray(volume.dataobj)
    except FileNotFoundError as error:
        raise InputError(f"{name}: the file was removed while it was read") from error
    except _UNREADABLE as error:
        raise InputError(f"{name}: the file is truncated or damaged") from error


def check_units(volume: SpatialImage, name: str) -> None:
    """Raise InputError where the header says that lengths are not in millimetres."""
    header = volume.header
    unit = header.get_xyzt_units()[0] if isinstance(header, Nifti1Header) else "unknown"
    if unit not in ("mm", "unknown"):
        raise InputError(f"{name}: voxel sizes are in {unit}s, expected millimetres")


def check_affine(affine: np.ndarray, name: str) -> None:
    """Raise InputError unless ``affine`` is 4x4, finite and can be inverted."""
    if affine.shape != (4, 4):
        raise InputError(f"{name}: expected a 4x4 affine, got shape {affine.shape}")
    if not np.isfinite(affine).all():
        raise InputError(f"{name}: the affine has NaN or infinite entries")
    # Scale-free: the volume of the voxel over that of a box with the same edges.
    edges = np.prod(np.linalg.norm(affine[:3, :3], axis=0))
    if not abs(np.linalg.det(affine[:3, :3])) > 1e-6 * edges:
        raise InputError(f"{name}: the affine is singular, its voxels have no volume")


def _single_volume(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.fields is not None:
        raise InputError(f"{name}: this is a colour image, expected one grey value per voxel")
    if array.dtype.kind == "c":
        raise InputError(f"{name}: the voxels are complex numbers, expected real ones")
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name}: the voxels are no numbers but {array.dtype}")
    shape = array.shape
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3:
        raise InputError(f"{name}: expected a single 3-D volume, got shape {shape}")
    if array.size == 0:
        raise InputError(f"{name}: the image is empty, shape {shape}")
    return array


def _check_finite(array: np.ndarray, name: str) -> None:
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise InputError(f"{name}: {bad} of {array.size} voxels are NaN or infinite")


def _as_intensities(array: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # what float32 cannot hold is reported as infinite below
        data = np.array(array, dtype=np.float32, order="C")
    _check_finite(data, name)
    return data


def _as_labels(array: np.ndarray, name: str) -> np.ndarray:
    _check_finite(array, name)
    if array.dtype.kind == "f":
        # Files that store labels with a scale factor miss whole numbers by rounding only.
        rounded = np.rint(array)
        wrong = np.abs(array - rounded) > 1e-3
        if wrong.any():
            raise InputError(f"{name}: labels must be whole numbers, found {array[wrong][0]:g}")
        array = rounded
    largest = np.iinfo(np.int32).max
    if array.max() > largest or array.min() < -largest:
        raise InputError(f"{name}: labels must lie within +-{largest}")
    return np.array(array, dtype=np.int32, order="C")


def write_nifti(
    path: Path,
    array: Tensor | np.ndarray,
    affine: np.ndarray,
    intent: int | None = None,
    intent_name: str = "",
    intent_parameter: float = 0.0,
) -> None:
    """Write a NIfTI-1 file whose qform and sform both say ``affine``, in millimetres.

    (Of an affine with shear the qform holds what it can, its nearest rotation.)

    Args:
        path: target, ``.nii`` or ``.nii.gz``; it appears only once it is complete.
        array: ``(*spatial)`` or any other NIfTI shape; float64 is stored as float32, int64 as
            int32, bool as uint8.
        affine: ``(4, 4)``, voxel index to world, RAS mm.
        intent: NIfTI intent code, as 1007 for vectors.
        intent_name: what the intent is called in the header.
        intent_parameter: the first of what it says there of itself.

    Raises:
        InputError: ``path`` cannot be written or has another suffix.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path} cannot be written: expected a name ending in .nii or .nii.gz")
    data = array.detach().cpu().numpy() if isinstance(array, Tensor) else array
    narrower = {"float64": np.float32, "float16": np.float32, "int64": np.int32, "bool": np.uint8}
    data = data.astype(narrower.get(data.dtype.name, data.dtype), copy=False)
    volume = Nifti1Image(data, affine)
    volume.set_qform(affine, code="scanner")
    volume.set_sform(affine, code="scanner")
    volume.header.set_xyzt_units("mm")
    if intent is not None:
        volume.header.set_intent(intent, name=intent_name, allow_unknown=True)
        volume.header["intent_p1"] = intent_parameter
    with atomic_output(path) as temporary:
        volume.to_filename(temporary)
