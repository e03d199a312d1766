"""Images and label maps in, NIfTI files out; what can be wrong with a file is said here.

(What can be wrong with its header, in `voxelopt_train.headers` and `voxelopt_train.nifti_files`.)
"""

from __future__ import annotations

import io
import math
import threading
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import LogRecord
from os import PathLike
from pathlib import Path
from typing import cast

import numpy as np
import torch
from nibabel import imageglobals
from nibabel.arrayproxy import ArrayProxy, is_proxy
from nibabel.filebasedimages import ImageFileError
from nibabel.loadsave import load
from nibabel.nifti1 import Nifti1Image
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError, SpatialImage
from nibabel.volumeutils import apply_read_scaling, array_from_file
from numpy.typing import ArrayLike
from torch import Tensor

from voxelopt_train.errors import InputError
from voxelopt_train.files import atomic_output
from voxelopt_train.grids import Grid
from voxelopt_train.headers import check_affine, forms_apart_mm, grid_of
from voxelopt_train.input_files import check_file, check_fits
from voxelopt_train.nifti_files import check_nifti
from voxelopt_train.nifti_names import check_nifti_name, is_nifti

ImageLike = str | Path | SpatialImage | tuple[ArrayLike, ArrayLike]

# What nibabel, gzip and mmap raise on files that are cut short or hold something else.
_UNREADABLE = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error)
_BYTES = 4  # of a voxel of ours, float32 or int32
_SCALED = 16  # of a voxel that is scaled, in float64: times the slope, and plus the intercept
_AFTER_VOXELS = 2**20  # bytes that may follow them


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
        InputError: the source is missing, damaged, no image, an array without its affine, more than
            one volume, in colour, complex or empty, not in millimetres, has NaN or infinite voxels
            or a singular affine, its labels are not whole numbers, or it would not fit into memory.
    """
    if isinstance(source, tuple) and len(source) == 2:
        array, affine = _as_array(source[0], name), _as_array(source[1], f"{name}, affine")
        _check_single(array.shape, array.dtype, name)
        check_affine(affine, name)
        nx, ny, nz = (*array.shape, 1)[:3]
        grid = Grid((nx, ny, nz), np.array(affine, np.float64))
    elif isinstance(source, SpatialImage | str | PathLike):
        if isinstance(source, SpatialImage):
            volume = source
            name = volume.get_filename() or name
        else:
            volume = load_volume(source, name)
            name = str(source)
        dtype = getattr(volume.dataobj, "dtype", volume.get_data_dtype())
        _check_single(volume.shape, dtype, name)
        grid, array = grid_of(volume, name), voxels(volume, name)
    else:
        got = f"a tuple of {len(source)}" if isinstance(source, tuple) else type(source).__name__
        raise InputError(
            f"{name}: expected a file, a nibabel image, or (array, affine) with the 4x4 affine in "
            f"RAS mm, got {got}"
        )
    array = array.reshape(grid.shape)
    data = _as_labels(array, name) if labels else _as_intensities(array, name)
    return Image(torch.from_numpy(data), grid, name)


def read_grid(path: str | Path, name: str) -> Grid:
    """Where the voxels of a file lie; its intensities are not read.

    Raises:
        InputError: it is missing, damaged, no image of one to three axes, or its affine is
            singular.
    """
    grid = grid_of(load_volume(path, name), str(path))
    if 0 in grid.shape:
        raise InputError(f"{path}: the image is empty, shape {grid.shape}")
    return grid


def load_volume(path: str | Path, name: str) -> SpatialImage:
    """Open a file with nibabel; the voxels are not read yet.

    Raises:
        InputError: it is missing, a folder, damaged, of another kind or declares more voxels than
            it can hold.
    """
    name = f"{name} {path}"
    check_file(path, name)
    if is_nifti(path):
        check_nifti_name(path, name)  # nibabel would open another file
    try:
        check_nifti(path, name)
        with _corrections_untold():
            volume = load(path)
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{name}: not a NIfTI image, or a damaged one") from error
    if not isinstance(volume, SpatialImage):
        raise InputError(f"{name}: expected a NIfTI image, got {type(volume).__name__}")
    return volume


def voxels(volume: SpatialImage, name: str) -> np.ndarray:
    """The scaled voxel values of an opened file.

    Raises:
        InputError: they would not fit into memory, or the file is damaged or gone.
    """
    source = volume.dataobj
    if is_proxy(source):
        dtype = volume.get_data_dtype()
        # (Proxies of other kinds scale in ways of their own.)
        plain = type(source) is ArrayProxy and (source.slope, source.inter) == (1, 0)
        voxel = dtype.itemsize + _BYTES + (0 if plain else _SCALED)
        check_fits(math.prod(source.shape) * voxel, name, f"shape {source.shape} of {dtype}")
    try:
        # (Of a kind derived from it, as AFNI's, slope and intercept are not the whole scaling.)
        if type(source) is ArrayProxy and str(source.file_like).lower().endswith(".gz"):
            return _inflated(source)
        return np.asanyarray(source)
    except FileNotFoundError as error:
        raise InputError(f"{name}: the file was removed while it was read") from error
    except _UNREADABLE as error:
        raise InputError(f"{name}: the file is truncated or damaged") from error


def _inflated(proxy: ArrayProxy) -> np.ndarray:
    """What nibabel reads, and on to the checksum, which follows the voxels."""
    with ImageOpener(proxy.file_like) as file:
        stored = array_from_file(proxy.shape, proxy.dtype, cast(io.IOBase, file), proxy.offset)
        file.read(_AFTER_VOXELS)
    return apply_read_scaling(stored, proxy.slope, proxy.inter)


@contextmanager
def _corrections_untold() -> Generator[None]:
    """Without lines about what nibabel corrects in a header: where it counts, it is refused."""
    thread = threading.get_ident()

    def of_another(record: LogRecord) -> bool:
        return record.thread != thread

    imageglobals.logger.addFilter(of_another)
    try:
        yield
    finally:
        imageglobals.logger.removeFilter(of_another)


def _as_array(given: ArrayLike, name: str) -> np.ndarray:
    """What a user has in memory: an array, lists, or a tensor on the CPU."""
    try:
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:  # as of a tensor elsewhere
        raise InputError(f"{name}: expected an array, this cannot be one: {error}") from error


def _check_single(shape: tuple[int, ...], dtype: np.dtype, name: str) -> None:
    """Raise InputError unless these are real numbers of a single volume."""
    if dtype.fields is not None:
        raise InputError(f"{name}: this is a colour image, expected one grey value per voxel")
    if dtype.kind == "c":
        raise InputError(f"{name}: the voxels are complex numbers, expected real ones")
    if dtype.kind not in "biuf":
        raise InputError(f"{name}: the voxels are no numbers but {dtype}")
    if len(shape) < 2 or any(n != 1 for n in shape[3:]):
        raise InputError(f"{name}: expected a single 3-D volume, got shape {shape}")
    if 0 in shape:
        raise InputError(f"{name}: the image is empty, shape {shape}")


def _check_finite(array: np.ndarray, name: str, hint: str = "") -> None:
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise InputError(
            f"{name}: {bad} of {array.size} voxels are NaN or infinite; replace them, as by 0{hint}"
        )


def _as_intensities(array: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite in it
        data = np.array(array, dtype=np.float32, order="C")
    beyond = data.size - int(np.isfinite(data).sum())
    if beyond:
        _check_finite(array, name, ", and give a mask that is 0 there")
        raise InputError(
            f"{name}: {beyond} of {data.size} voxels are beyond +-{np.finfo(np.float32).max:.1e}, "
            "which float32 cannot hold; scale the intensities, or replace those"
        )
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


def smallest_integer(integers: np.ndarray) -> np.dtype:
    """The smallest of uint8, int16 and int32 that holds all, which every program reads."""
    low, high = int(integers.min(initial=0)), int(integers.max(initial=0))
    kinds = (np.dtype(name) for name in ("uint8", "int16", "int32"))
    return next(k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max)


def write_nifti(
    path: Path,
    array: Tensor | np.ndarray,
    affine: np.ndarray,
    intent: int | None = None,
    intent_name: str = "",
    intent_parameter: float = 0.0,
) -> None:
    """Write a NIfTI-1 file whose qform and sform both say ``affine``, in millimetres.

    (No qform can hold an affine with shear: it is marked as unknown then, and the sform counts.)

    Args:
        path: target, ``.nii`` or ``.nii.gz``; it appears only once it is complete.
        array: ``(*spatial)`` or any other NIfTI shape; float64 is stored as float32, whole numbers
            in the smallest of uint8, int16 and int32 that holds them.
        affine: ``(4, 4)``, voxel index to world, RAS mm.
        intent: NIfTI intent code, as 1007 for vectors.
        intent_name: what the intent is called in the header.
        intent_parameter: the first of what it says there of itself.

    Raises:
        InputError: ``path`` cannot be written or has another suffix.
    """
    check_nifti_name(path, f"{path} cannot be written")
    data = array.detach().cpu().numpy() if isinstance(array, Tensor) else array
    kind = np.dtype(np.float32) if data.dtype.kind == "f" else smallest_integer(data)
    data = data.astype(kind, copy=False)
    volume = Nifti1Image(data, affine)
    volume.set_qform(affine, code="scanner")
    volume.set_sform(affine, code="scanner")
    if forms_apart_mm(volume):
        volume.set_qform(affine, code="unknown")
    volume.header.set_xyzt_units("mm")
    if intent is not None:
        volume.header.set_intent(intent, name=intent_name, allow_unknown=True)
        volume.header["intent_p1"] = intent_parameter
    with atomic_output(path) as temporary:
        volume.to_filename(temporary)
