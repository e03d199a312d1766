"""Spatial transforms in world space, which map points of the fixed world to the moving world.

Points are in RAS millimetres, whatever file a transform came from: each format is converted where
its files are read and written, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from voxelopt_layers.displacement import sample
from voxelopt_train.grids import Grid

_SLAB_VOXELS = 2**21  # some 150 MB of temporaries
_INVERSE_TOLERANCE_MM = 1e-3
_INVERSE_ITERATIONS = 100
_SMALLEST_STEP = 2**-8  # of a point that comes no nearer


class Transform(Protocol):
    """Maps points of the fixed world to points of the moving world, RAS mm."""

    def __call__(self, points: Tensor) -> Tensor:
        """Map points ``(1, 3, *out)``, float32 or float64, to points of the same shape."""
        ...

    def inverse(self) -> Transform:
        """Return the transform from the moving world back to the fixed world."""
        ...


@dataclass(frozen=True, eq=False)
class AffineTransform:
    """Affine transform of points.

    Attributes:
        matrix: ``(4, 4)`` float64, RAS mm to RAS mm.
    """

    matrix: np.ndarray

    def __call__(self, points: Tensor) -> Tensor:
        """Map points ``(1, 3, *out)`` to points of the same shape."""
        return map_points(self.matrix, points)

    def inverse(self) -> AffineTransform:
        """Return the transform from the moving world back to the fixed world."""
        return AffineTransform(np.linalg.inv(self.matrix))


@dataclass(frozen=True, eq=False)
class DisplacementField:
    """Dense transform ``x + u(x)``, linear between the voxels and the identity outside its grid.

    Attributes:
        displacement_mm: u, ``(1, 3, *shape)``, RAS mm.
        grid: where the voxels of u lie.
    """

    displacement_mm: Tensor
    grid: Grid

    def __call__(self, points: Tensor) -> Tensor:
        """Map points ``(1, 3, *out)`` to points of the same shape."""
        field = self.displacement_mm
        position = map_points(np.linalg.inv(self.grid.affine), points)
        as_volume = position.to(field.dtype).reshape(1, 3, -1, 1, 1)
        moved = sample(field, as_volume, boundary="border").reshape(points.shape)
        return points + torch.where(inside(position, self.grid.shape), moved, 0)

    def inverse(self) -> InverseDisplacementField:
        """Return the transform from the moving world back to the fixed world."""
        return InverseDisplacementField(self)


@dataclass(frozen=True, eq=False)
class InverseDisplacementField:
    """Inverse of a displacement field, found anew at every point that is asked for.

    ``x <- x - (x + u(x) - y)`` until ``x + u(x)`` meets y (Chen et al., Med. Phys. 2008), with a
    step that is halved at the points where it leads away, as it may where u is steep. Where u
    folds, or the field ends, no x may exist: the nearest that was found stands in.

    Attributes:
        field: what is inverted.
    """

    field: DisplacementField

    def __call__(self, points: Tensor) -> Tensor:
        """Map points ``(1, 3, *out)`` to points of the same shape."""
        target = points.reshape(1, 3, -1)
        found, residual = target.clone(), self.field(target) - target
        distance, step = _squared(residual), torch.ones_like(target[:, :1])
        for _ in range(_INVERSE_ITERATIONS):
            under_way = (distance > _INVERSE_TOLERANCE_MM**2) & (step > _SMALLEST_STEP)
            (n,) = under_way.flatten().nonzero(as_tuple=True)
            if not len(n):
                break
            tried = found[..., n] - step[..., n] * residual[..., n]
            tried_residual = self.field(tried) - target[..., n]
            tried_distance = _squared(tried_residual)
            nearer = tried_distance < distance[..., n]
            found[..., n] = torch.where(nearer, tried, found[..., n])
            residual[..., n] = torch.where(nearer, tried_residual, residual[..., n])
            distance[..., n] = torch.where(nearer, tried_distance, distance[..., n])
            step[..., n] = torch.where(nearer, (2 * step[..., n]).clamp(max=1), step[..., n] / 2)
        return found.reshape(points.shape)

    def inverse(self) -> DisplacementField:
        """Return the field itself."""
        return self.field


@dataclass(frozen=True, eq=False)
class CompositeTransform:
    """Transforms one after the other.

    Attributes:
        transforms: the first maps the points first, as in ``antsApplyTransforms -t FIRST -t NEXT``.
    """

    transforms: tuple[Transform, ...]

    def __call__(self, points: Tensor) -> Tensor:
        """Map points ``(1, 3, *out)`` to points of the same shape."""
        for transform in self.transforms:
            points = transform(points)
        return points

    def inverse(self) -> CompositeTransform:
        """Return the inverses in the reverse order."""
        return CompositeTransform(tuple(t.inverse() for t in reversed(self.transforms)))


def _squared(vectors: Tensor) -> Tensor:
    return vectors.square().sum(dim=1, keepdim=True)


def flatten(transforms: Iterable[Transform]) -> list[Transform]:
    """The same maps with no composites among them, and neighbouring affines multiplied."""
    flat: list[Transform] = []
    for transform in transforms:
        parts = (
            flatten(transform.transforms)
            if isinstance(transform, CompositeTransform)
            else [transform]
        )
        for part in parts:
            last = flat[-1] if flat else None
            if isinstance(part, AffineTransform) and isinstance(last, AffineTransform):
                flat[-1] = AffineTransform(part.matrix @ last.matrix)
            else:
                flat.append(part)
    return flat


def as_displacement_field(transforms: Sequence[Transform], grid: Grid) -> DisplacementField:
    """One field that moves the voxels of ``grid`` as the transforms do, the first first."""
    parts = flatten(transforms)
    first = parts[0] if len(parts) == 1 else None
    if isinstance(first, DisplacementField) and first.grid.matches(grid):
        return first
    displacement_mm = torch.empty(1, 3, *grid.shape)
    to_world = AffineTransform(grid.affine)
    for rows, indices in slabs(grid):
        points = to_world(indices)
        displacement_mm[:, :, rows] = (CompositeTransform(tuple(parts))(points) - points).float()
    return DisplacementField(displacement_mm, grid)


def slabs(grid: Grid) -> Iterator[tuple[slice, Tensor]]:
    """The grid in pieces: rows of the first axis, and their voxel indices ``(1, 3, rows, y, z)``.

    The indices are float64, for the matrices to come.
    """
    rows = max(1, _SLAB_VOXELS // (grid.shape[1] * grid.shape[2]))
    for start in range(0, grid.shape[0], rows):
        stop = min(start + rows, grid.shape[0])
        ranges = zip((start, 0, 0), (stop, *grid.shape[1:]), strict=True)
        axes = [torch.arange(a, b, dtype=torch.float64) for a, b in ranges]
        yield slice(start, stop), torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def map_points(matrix: np.ndarray, points: Tensor) -> Tensor:
    """Apply a ``(4, 4)`` matrix to points ``(1, 3, *out)``, in the dtype of the points."""
    linear = torch.as_tensor(matrix[:3, :3], dtype=points.dtype, device=points.device)
    offset = torch.as_tensor(matrix[:3, 3], dtype=points.dtype, device=points.device)
    return torch.einsum("ij,bj...->bi...", linear, points) + offset.reshape(
        1, 3, *[1] * (points.dim() - 2)
    )


def inside(position: Tensor, shape: Sequence[int]) -> Tensor:
    """Whether voxel coordinates lie within the outer voxel edges: ITK's notion of inside.

    Between the outermost voxel centres and those edges ITK continues with the border's value.

    Args:
        position: ``(1, 3, *out)`` in voxels.
        shape: number of voxels along each axis.

    Returns:
        ``(1, 1, *out)`` bool.
    """
    upper = position.new_tensor(shape).reshape(1, 3, *[1] * (position.dim() - 2)) - 0.5
    return ((position >= -0.5) & (position < upper)).all(dim=1, keepdim=True)


def voxels_to_mm(displacement: Tensor, grid: Grid) -> Tensor:
    """Convert a displacement in voxels of ``grid`` to RAS mm, both ``(1, 3, *shape)``."""
    return map_points(_linear(grid), displacement)


def mm_to_voxels(displacement_mm: Tensor, grid: Grid) -> Tensor:
    """Convert a displacement in RAS mm to voxels of ``grid``, both ``(1, 3, *shape)``."""
    return map_points(np.linalg.inv(_linear(grid)), displacement_mm)


def _linear(grid: Grid) -> np.ndarray:
    linear = np.eye(4)
    linear[:3, :3] = grid.affine[:3, :3]
    return linear
