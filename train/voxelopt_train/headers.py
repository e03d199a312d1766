"""What the header of an image says of where its voxels lie, and what is wrong with that.

World coordinates are RAS millimetres, as nibabel gives them (sform before qform).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from nibabel.affines import apply_affine
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import HeaderDataError, SpatialImage

from voxelopt_train.errors import InputError, warn_once
from voxelopt_train.grids import Grid, outer_corners

_SAME_FORM = 0.1  # voxels that sform and qform may be apart


def grid_of(volume: SpatialImage, name: str) -> Grid:
    """Where the first three axes of an opened file lie; its voxels are not read.

    A warning says where qform and sform disagree, or where there are none, once per file.

    Raises:
        InputError: lengths are not in millimetres, or the affine cannot be used.
    """
    check_units(volume, name)
    affine = np.asarray(volume.affine, dtype=np.float64)
    check_affine(affine, name)
    if is_unplaced(volume):
        warn_once(
            f"{name}: its header says nothing of position and orientation (sform_code and "
            "qform_code are 0); its voxel sizes alone are used, and its centre is put at 0, 0, 0"
        )
    apart_mm = forms_apart_mm(volume)
    if apart_mm:
        warn_once(
            f"{name}: its sform and qform disagree by up to {apart_mm:.4g} mm; the sform is used "
            "here, ITK and ANTs may use the qform"
        )
    nx, ny, nz = (*volume.shape, 1, 1, 1)[:3]
    grid = Grid((nx, ny, nz), affine)
    pixdim = (*map(float, volume.header.get_zooms()), 1.0, 1.0, 1.0)[:3]
    if np.allclose(pixdim, grid.spacing, rtol=1e-3):
        return grid
    told = (" x ".join(f"{mm:.4g}" for mm in sizes) for sizes in (pixdim, grid.spacing))
    misfit = "{}: pixdim says voxels of {} mm, the sform {} mm, and FSL goes by both"
    return replace(grid, misfit=misfit.format(name, *told))


def forms_apart_mm(volume: SpatialImage) -> float:
    """How far apart sform and qform put a corner at most.

    0 within a tenth of a voxel, where only one of them is set, and for files that have no two.
    """
    header = volume.header
    if not isinstance(header, Nifti1Header):
        return 0.0
    try:
        sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError):  # a qform that is no rotation
        return 0.0
    if sform is None or qform is None:
        return 0.0
    corners = outer_corners((*volume.shape, 1, 1, 1)[:3])
    between = apply_affine(sform, corners) - apply_affine(qform, corners)
    apart_mm = float(np.linalg.norm(between, axis=1).max())
    smallest = float(np.linalg.norm(sform[:3, :3], axis=0).min())
    return apart_mm if apart_mm > _SAME_FORM * smallest else 0.0


def is_unplaced(volume: SpatialImage) -> bool:
    """Whether a NIfTI file says neither by sform nor by qform where it lies in the world."""
    header = volume.header
    return isinstance(header, Nifti1Header) and not (header["sform_code"] or header["qform_code"])


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
    if affine.dtype.kind not in "iuf":
        raise InputError(f"{name}: the affine has no real numbers but {affine.dtype}")
    if not np.isfinite(affine).all():
        raise InputError(f"{name}: the affine has NaN or infinite entries")
    # Scale-free: the volume of the voxel over that of a box with the same edges.
    edges = np.prod(np.linalg.norm(affine[:3, :3], axis=0))
    if not abs(np.linalg.det(affine[:3, :3])) > 1e-6 * edges:
        raise InputError(f"{name}: the affine is singular, its voxels have no volume")
