"""Displacement fields as arrays of vectors, in whatever coordinates a format keeps them.

Every dense format says, at each voxel x of the fixed grid, where in the moving image it came from:
as ``w = M_moving T(p) - M_fixed p`` at the world point p of x, where the two matrices lead from the
world (RAS mm) to the coordinates of the format: millimetres of LPS or RAS, voxels, or FSL's.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from nibabel.nifti1 import Nifti1Header

from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid
from voxelopt_train.headers import grid_of
from voxelopt_train.images import load_volume, voxels
from voxelopt_train.transforms.maps import AffineTransform, DisplacementField, map_points, slabs


def vectors_of(field: DisplacementField, to_fixed: np.ndarray, to_moving: np.ndarray) -> np.ndarray:
    """Vectors ``(3, *shape)``, float32, of a field.

    Args:
        field: in the world.
        to_fixed: ``(4, 4)``, from RAS mm to the coordinates of the fixed image.
        to_moving: ``(4, 4)``, from RAS mm to the coordinates of the moving image.
    """
    out = np.empty((3, *field.grid.shape), np.float32)
    displacement_mm = field.displacement_mm.detach().cpu()
    to_world = AffineTransform(field.grid.affine)
    for rows, indices in slabs(field.grid):
        points = to_world(indices)
        moved = map_points(to_moving, points + displacement_mm[:, :, rows])
        out[:, rows] = (moved - map_points(to_fixed, points))[0].numpy()
    return out


def field_of(
    vectors: np.ndarray, grid: Grid, to_fixed: np.ndarray, to_moving: np.ndarray, name: str
) -> DisplacementField:
    """The field of vectors ``(3, *shape)``: the inverse of `vectors_of`.

    Raises:
        InputError: the vectors of what ``name`` calls have NaN or infinite values.
    """
    displacement_mm = torch.empty(1, 3, *grid.shape)
    to_world, from_moving = AffineTransform(grid.affine), np.linalg.inv(to_moving)
    for rows, indices in slabs(grid):
        points = to_world(indices)
        w = torch.from_numpy(np.ascontiguousarray(vectors[:, rows], np.float64))[None]
        moved = map_points(from_moving, map_points(to_fixed, points) + w)
        displacement_mm[:, :, rows] = (moved - points).float()
    if not displacement_mm.isfinite().all():
        raise InputError(f"{name}: the displacement field has NaN or infinite values")
    return DisplacementField(displacement_mm, grid)


class Intent(NamedTuple):
    """What a NIfTI file says of its meaning; nothing, for images of other formats."""

    code: int = 0
    name: str = ""
    parameter: float = 0.0


def intent_of(path: Path) -> Intent:
    """Intent in the header of an image.

    Raises:
        InputError: the file is missing, damaged or no image.
    """
    header = load_volume(path, "transform").header
    if not isinstance(header, Nifti1Header):
        return Intent()
    name = bytes(header["intent_name"].item()).decode("ascii", "replace").strip()
    return Intent(int(header["intent_code"]), name, float(header["intent_p1"]))


def read_vectors(path: Path, kind: str, components: tuple[int, ...]) -> tuple[np.ndarray, Grid]:
    """Vectors ``(3, x, y, z)`` and the grid of a file.

    Args:
        path: an image of shape ``(x, y, z, *components)``.
        kind: what messages say was expected.
        components: ``(3,)`` or ``(1, 3)``.

    Raises:
        InputError: it cannot be read or has another shape.
    """
    name = f"transform {path}"
    volume = load_volume(path, "transform")
    if len(volume.shape) < 3 or volume.shape[3:] != components:
        expected = ", ".join(["x, y, z", *map(str, components)])
        if len(volume.shape) <= 3:
            raise InputError(
                f"{name}: this is an image, not a transform; expected {kind} of shape ({expected})"
            )
        hint = f"; if it is Learn2Reg's, say learn2reg:{path}" if volume.shape[3:] == (3,) else ""
        raise InputError(
            f"{name}: expected {kind} of shape ({expected}), got shape {volume.shape}{hint}"
        )
    if 0 in volume.shape:
        raise InputError(f"{name}: the displacement field is empty, shape {volume.shape}")
    grid = grid_of(volume, name)
    vectors = np.moveaxis(voxels(volume, name), -1, 0)
    if vectors.dtype.kind not in "iuf":
        raise InputError(f"{name}: expected real numbers, got {vectors.dtype}")
    return vectors.reshape(3, *grid.shape), grid
