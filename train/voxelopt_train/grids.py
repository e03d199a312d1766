"""Voxel grids in world space: where the voxels of an image lie, in RAS millimetres.

``affine`` maps voxel indices, in array axis order, to world coordinates as nibabel does. Voxel
centres have integer indices, so that a grid of n voxels reaches from -0.5 to n - 0.5.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from nibabel.affines import apply_affine

from voxelopt_train.errors import InputError

_MOST_VOXELS = 2**31  # beyond any memory: the spacing is a slip
_FINEST_MM = 1e-6  # below it, numbers of voxels are none any more
_FEWEST_VOXELS = 4  # along an axis: the layer's pyramid ends there


@dataclass(frozen=True, eq=False)
class Grid:
    """Shape of a 3-D voxel array and its place in the world.

    Attributes:
        shape: number of voxels along each array axis.
        affine: ``(4, 4)`` float64, voxel index to world, RAS mm.
        misfit: where the header of its file gives voxels of other sizes beside the affine, which
            FSL alone goes by, a sentence that says so.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    misfit: str = ""

    @classmethod
    def around(cls, center_mm: np.ndarray, shape: Sequence[int], steps_mm: np.ndarray) -> Grid:
        """Grid with its middle at a point of the world.

        Args:
            center_mm: ``(3,)``, RAS mm.
            shape: number of voxels along each array axis.
            steps_mm: ``(3, 3)``, whose columns lead from voxel to voxel along each axis, RAS mm.
        """
        nx, ny, nz = shape
        affine = np.eye(4)
        affine[:3, :3] = steps_mm
        affine[:3, 3] = center_mm - steps_mm @ ((np.asarray(shape) - 1) / 2)
        return cls((nx, ny, nz), affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along each array axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    @property
    def center(self) -> np.ndarray:
        """World point ``(3,)`` in the middle of the grid, RAS mm."""
        return apply_affine(self.affine, (np.asarray(self.shape) - 1) / 2)

    def matches(self, other: Grid) -> bool:
        """Whether both have one shape, and all voxels within 1e-3 of a voxel of each other."""
        if self.shape != other.shape:
            return False
        # The two maps differ by an affine, whose largest deviation is at a corner.
        corners = outer_corners(self.shape)
        in_self = apply_affine(np.linalg.inv(self.affine) @ other.affine, corners)
        return bool(np.abs(in_self - corners).max() < 1e-3)


def isotropic_grid(grid: Grid, spacing_mm: float) -> Grid:
    """Grid of cubic voxels along the axes of ``grid``, that covers it up to its outer voxel edges.

    The two share their centre. An extent that is no multiple of ``spacing_mm`` is rounded up, so
    that no part of ``grid`` is left out.
    """
    steps = grid.affine[:3, :3] / np.asarray(grid.spacing) * spacing_mm
    return Grid.around(grid.center, isotropic_shape(grid, spacing_mm), steps)


def isotropic_shape(grid: Grid, spacing_mm: float) -> list[int]:
    """Shape of that grid, which may be larger than any that can be made."""
    # The small number keeps 100 mm / 2 mm at 50 voxels where float32 headers say 100.00001 mm.
    extent = zip(grid.shape, grid.spacing, strict=True)
    return [max(math.ceil(n * mm / spacing_mm - 1e-3), 1) for n, mm in extent]


def working_grid(fixed: Grid, spacing_mm: float | None) -> Grid:
    """The grid to register on: that of the fixed image, or an isotropic one.

    Raises:
        InputError: the isotropic grid would have too many or too few voxels.
    """
    check_spacing(spacing_mm)
    if spacing_mm is None:
        return fixed
    voxels = math.prod(isotropic_shape(fixed, spacing_mm))
    if voxels > _MOST_VOXELS:
        raise InputError(f"a working spacing of {spacing_mm:g} mm makes {voxels:.0e} voxels")
    grid = isotropic_grid(fixed, spacing_mm)
    if sorted(grid.shape)[1] < _FEWEST_VOXELS <= sorted(fixed.shape)[1]:
        raise InputError(
            f"a working spacing of {spacing_mm:g} mm leaves {' x '.join(map(str, grid.shape))} "
            f"voxels, expected at least {_FEWEST_VOXELS} along two axes"
        )
    return grid


def check_spacing(spacing_mm: float | None) -> None:
    """Raise InputError for a working spacing that suits no image."""
    if spacing_mm is None:
        return
    if not isinstance(spacing_mm, Real) or not _FINEST_MM <= spacing_mm < math.inf:
        raise InputError(
            f"the working spacing must be a number above 0 mm (from {_FINEST_MM:g} on), "
            f"got {spacing_mm!r}"
        )


def shared_part(a: Grid, b: Grid) -> float:
    """How much of the smaller one the boxes of two grids share, up to their outer voxel edges.

    Each box is compared with the box around the other in its own axes. For boxes that are oblique
    to each other this can be too much, even where only their edges pass by, but never too little.
    """
    parts: list[float] = []
    for one, other in ((a, b), (b, a)):
        corners = apply_affine(np.linalg.inv(one.affine) @ other.affine, outer_corners(other.shape))
        ends = np.asarray(one.shape) - 0.5
        shared = np.minimum(corners.max(axis=0), ends) - np.maximum(corners.min(axis=0), -0.5)
        parts.append(float(np.prod(shared.clip(0) / one.shape)))
    return max(parts) if min(parts) > 0 else 0.0


def outer_corners(shape: Sequence[int]) -> np.ndarray:
    """The eight outer corners ``(8, 3)`` of a volume, in voxel indices."""
    return np.array(list(itertools.product(*((-0.5, n - 0.5) for n in shape))))
