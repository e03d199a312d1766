"""Learn2Reg's displacement fields, in voxels: ``disp_*.nii.gz``, or ``.npz`` at half resolution.

Fixed and moving image have arrays of one shape there, and the field leads from the indices of one
to those of the other. The header of the field means nothing.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import zoom

from voxelopt_train.errors import InputError
from voxelopt_train.files import atomic_output
from voxelopt_train.grids import Grid
from voxelopt_train.images import write_nifti
from voxelopt_train.input_files import check_file
from voxelopt_train.transforms.ddf import from_ddf, to_ddf
from voxelopt_train.transforms.maps import DisplacementField
from voxelopt_train.transforms.vectors import read_vectors

# What zipfile, zlib and NumPy raise on files that are cut short or hold something else.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_learn2reg(path: Path, fixed: Grid, moving: Grid | None = None) -> DisplacementField:
    """Read ``(x, y, z, 3)`` from NIfTI, or ``(3, x/2, y/2, z/2)`` from ``.npz``.

    Raises:
        InputError: the file is missing, damaged or of another shape than the fixed image.
    """
    name = f"transform {path}"
    if path.suffix == ".npz":
        vectors = _read_npz(path, name, fixed.shape)
    else:
        vectors, _ = read_vectors(path, "Learn2Reg's displacements", (3,))
    _check_shape(vectors.shape[1:], fixed.shape, name)
    tensor = torch.from_numpy(np.ascontiguousarray(vectors, np.float32))
    return from_ddf(tensor[None], fixed, moving)


def write_learn2reg(path: Path, field: DisplacementField, moving: Grid | None = None) -> None:
    """Write ``.nii.gz`` at full resolution, or ``.npz`` at half, as float16.

    Raises:
        InputError: the file cannot be written, moving and fixed shape differ, or the shape is odd
            and the resolution half.
    """
    shape = field.grid.shape
    if moving is not None and moving.shape != shape:
        raise InputError(
            f"{path}: Learn2Reg's images have one shape, got {shape} and {moving.shape}"
        )
    vectors = to_ddf([field], field.grid, moving)[0].numpy()
    if path.suffix != ".npz":
        write_nifti(path, np.moveaxis(vectors, 0, -1), field.grid.affine)
        return
    if any(n % 2 for n in shape):
        raise InputError(f"{path}: half the resolution needs even shapes, got {shape}; try .nii.gz")
    # The challenge enlarges the field with scipy's zoom, which keeps the centres of the corners.
    half = _zoomed(vectors, 0.5, order=1)
    with atomic_output(path) as temporary:
        np.savez_compressed(temporary, half.astype(np.float16))


def _read_npz(path: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Vectors ``(3, *shape)``; what has another shape is not read."""
    check_file(path, name)
    try:
        with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
            version = np.lib.format.read_magic(file)
            declared, _, dtype = np.lib.format.read_array_header_1_0(file)
        if version != (1, 0) or dtype.kind not in "iuf":
            raise ValueError
        if len(declared) != 4 or declared[0] != 3:
            raise InputError(f"{name}: expected shape (3, x/2, y/2, z/2), got {declared}")
        _check_shape(tuple(2 * n for n in declared[1:]), shape, name)
        with np.load(path, allow_pickle=False) as file:
            half = file["arr_0"].astype(np.float32)
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{name}: expected a .npz file with one array, arr_0") from error
    return _zoomed(half, 2, order=2)


def _check_shape(shape: tuple[int, ...], fixed: tuple[int, ...], name: str) -> None:
    if shape != fixed:
        raise InputError(f"{name}: made for shape {shape}, fixed has {fixed}")


def _zoomed(vectors: np.ndarray, factor: float, order: int) -> np.ndarray:
    return np.stack([np.asarray(zoom(component, factor, order=order)) for component in vectors])
