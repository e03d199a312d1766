"""Voxel grids in world space: where the voxels of an image lie, in RAS millimetres.

``affine`` maps voxel indices, in array axis order, to world coordinates as nibabel does. Voxel
centres have integer indices, so that a grid of n voxels reaches from -0.5 to n - 0.5.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Grid:
    """Shape of a 3-D voxel array and its place in the world.

    Attributes:
        shape: number of voxels along each array axis.
        affine: ``(4, 4)`` float64, voxel index to world, RAS mm.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along each array axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    def matches(self, other: Grid) -> bool:
        """Whether both have one shape, and all voxels within 1e-3 of a voxel of each other."""
        if self.shape != other.shape:
            return False
        # The two maps differ by an affine, whose largest deviation is at a corner.
        corners = _corners(self)
        in_self = _map(np.linalg.inv(self.affine) @ other.affine, corners)
        return bool(np.abs(in_self - corners).max() < 1e-3)


def isotropic_grid(grid: Grid, spacing_mm: float) -> Grid:
    """Grid of cubic voxels along the axes of ``grid``, that covers it up to its outer voxel edges.

    The two share their centre. An extent that is no multiple of ``spacing_mm`` is rounded up, so
    that no part of ``grid`` is left out.
    """
    spacing = np.asarray(grid.spacing)
    shape = np.asarray(grid.shape)
    # The small number keeps 100 mm / 2 mm at 50 voxels where float32 headers say 100.00001 mm.
    new_shape = np.maximum(np.ceil(shape * spacing / spacing_mm - 1e-3), 1).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = grid.affine[:3, :3] / spacing * spacing_mm
    centre = grid.affine[:3, :3] @ ((shape - 1) / 2) + grid.affine[:3, 3]
    affine[:3, 3] = centre - affine[:3, :3] @ ((new_shape - 1) / 2)
    nx, ny, nz = new_shape.tolist()
    return Grid((nx, ny, nz), affine)


def bounding_box_overlap(a: Grid, b: Grid) -> bool:
    """Whether the boxes of two grids, up to their outer voxel edges, share some of the world.

    Each box is compared with the box around the other in its own axes. For boxes that are oblique
    to each other this can say yes where only their edges pass by, but never no where they meet.
    """
    for one, other in ((a, b), (b, a)):
        corners = _map(np.linalg.inv(one.affine) @ other.affine, _corners(other))
        if np.any(corners.max(axis=0) <= -0.5) or np.any(
            corners.min(axis=0) >= np.asarray(one.shape) - 0.5
        ):
            return False
    return True


def _corners(grid: Grid) -> np.ndarray:
    """The eight outer corners ``(8, 3)`` in voxel indices."""
    return np.array(list(itertools.product(*((-0.5, n - 0.5) for n in grid.shape))))


def _map(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ affine[:3, :3].T + affine[:3, 3]
