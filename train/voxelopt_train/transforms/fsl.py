"""FSL's relative warp fields, as of FNIRT and applywarp: intent 2006, FSL's millimetres.

FSL's coordinates are voxel indices times the voxel size, of an image whose first axis is flipped
where its affine has a positive determinant. The warp leads from those of the reference (whose
grid it has) to those of the moving image, so that its geometry is needed too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid
from voxelopt_train.images import write_nifti
from voxelopt_train.transforms.maps import DisplacementField, map_points, slabs
from voxelopt_train.transforms.vectors import field_of, intent_of, read_vectors, vectors_of

INTENT_FIELD = 2006  # FSL_FNIRT_DISPLACEMENT_FIELD
_COEFFICIENTS = (2007, 2008, 2009)  # of splines and cosines
INTENTS = (INTENT_FIELD, *_COEFFICIENTS)


def read_fsl(path: Path, moving: Grid) -> DisplacementField:
    """Read a relative warp field.

    Args:
        path: of shape ``(x, y, z, 3)``.
        moving: grid of the image that it warps.

    Raises:
        InputError: the file is missing, damaged or holds coefficients (``fnirtfileutils`` makes a
            field of them) or absolute positions, or its header or that of the moving image
            contradicts itself.
    """
    if intent_of(path).code in _COEFFICIENTS:
        raise InputError(
            f"transform {path}: FNIRT's coefficients, expected a field; make one with "
            "fnirtfileutils --in=FILE --ref=FIXED --out=FIELD --withaff"
        )
    vectors, grid = read_vectors(path, "a relative warp of FSL", (3,))
    name = f"transform {path}"
    to_fixed, to_moving = world_to_fsl(grid), world_to_fsl(moving)
    if _is_absolute(vectors, grid, to_fixed):
        raise InputError(
            f"{name}: these look like absolute positions, expected relative ones; make "
            "them with convertwarp --relout"
        )
    return field_of(vectors, grid, to_fixed, to_moving, name)


def write_fsl(path: Path, field: DisplacementField, fixed: Grid, moving: Grid) -> None:
    """Write a relative warp field for ``applywarp --ref=FIXED --in=MOVING --warp=FILE --rel``.

    Args:
        path: target.
        field: on a grid that matches that of the fixed image.
        fixed: grid of that image, with what its header says.
        moving: grid of the image that it warps.

    Raises:
        InputError: the file cannot be written or has another suffix, or the header of an image
            contradicts itself.
    """
    vectors = vectors_of(field, world_to_fsl(fixed), world_to_fsl(moving))
    write_nifti(path, np.moveaxis(vectors, 0, -1), field.grid.affine, intent=INTENT_FIELD)


def _is_absolute(vectors: np.ndarray, grid: Grid, to_fixed: np.ndarray) -> bool:
    """Whether vectors follow the coordinates of their own voxels, as displacements never do."""
    _, indices = next(iter(slabs(grid)))
    own = map_points(to_fixed @ grid.affine, indices)[0].numpy()
    there = np.asarray(vectors[:, : own.shape[1]], np.float64)
    return float((there - own).var(axis=(1, 2, 3)).sum()) < 0.5 * float(
        there.var(axis=(1, 2, 3)).sum()
    )


def world_to_fsl(grid: Grid) -> np.ndarray:
    """``(4, 4)``, from RAS mm to FSL's coordinates of an image with this grid.

    Raises:
        InputError: the header of the image gives other voxel sizes than its affine.
    """
    if grid.misfit:
        raise InputError(grid.misfit)
    scale = np.diag([*grid.spacing, 1.0])
    if np.linalg.det(grid.affine[:3, :3]) > 0:
        scale[0, 0] *= -1
        scale[0, 3] = (grid.shape[0] - 1) * grid.spacing[0]
    return scale @ np.linalg.inv(grid.affine)
