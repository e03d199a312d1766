"""Painting the phantom: structures onto a grid of voxels, each over the ones before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from voxelopt_layers.displacement import identity_coordinates
from voxelopt_train.grids import Grid
from voxelopt_train.phantom import trunk
from voxelopt_train.phantom.solids import Solid, Structure


class Canvas:
    """CT and labels under construction; each structure is painted over what is there."""

    def __init__(self, points: Tensor, grid: Grid, generator: torch.Generator) -> None:
        self.hu: Tensor = torch.full(grid.shape, trunk.AIR_HU)
        self.labels: Tensor = torch.zeros(grid.shape, dtype=torch.int32)
        self._points = points
        self._grid = grid
        self._edge_mm = grid.spacing[0]
        self._grain = noise(grid.shape, 1.2, generator)
        world = world_points(grid)
        self._anterior = world[1]
        # How far a structure may appear from where the atlas has it: bounds what has to be painted.
        self._reach = (points - world).abs().amax(dim=(1, 2, 3)).double().numpy()
        self._cavity = torch.zeros(grid.shape)

    def paint_body_wall(self, fat_mm: float) -> None:
        """Skin, subcutaneous fat, the muscles of the wall, and fat inside the cavity."""
        self._cavity = -trunk.cavity_depth(self._points)
        _, y, z = self._points
        skin = trunk.WALL_MM + fat_mm * (0.6 + 0.7 * (y / 100) ** 2 + 0.3 * (-z / 144).clamp(min=0))
        everywhere = (slice(None),) * 3
        for distance, hu, texture in (
            (self._cavity - skin - 2.5, trunk.SKIN_HU, 4.0),
            (self._cavity - skin, trunk.FAT_HU, 7.0),
            (self._cavity - trunk.WALL_MM, trunk.MUSCLE_HU, 7.0),
            (self._cavity, trunk.FAT_HU, 7.0),
        ):
            self._blend(everywhere, distance, hu, texture)

    def paint_lungs(self) -> None:
        """Diaphragm and the bases of the lungs above it, over whatever reaches up there."""
        above = torch.maximum(self._cavity, -trunk.dome_distance(self._points))
        everywhere = (slice(None),) * 3
        self._blend(everywhere, above, trunk.MUSCLE_HU, 4.0)
        self._blend(everywhere, above + 3, trunk.LUNG_HU, 32.0)
        self.labels[above < 0] = 0

    def paint(self, structures: Iterable[Structure]) -> None:
        for structure in structures:
            if structure.label:
                structure = structure.thickened(0.7 * self._edge_mm)
            self._paint(structure)

    def _paint(self, structure: Structure) -> None:
        boxes = [self._box(part, structure.blend_mm) for part in structure.parts]
        box = tuple(
            slice(min(b[n].start for b in boxes), max(b[n].stop for b in boxes)) for n in range(3)
        )
        if any(b.stop <= b.start for b in box):
            return
        distance = torch.full([b.stop - b.start for b in box], 1e3)
        for part, own in zip(structure.parts, boxes, strict=True):
            inner = tuple(
                slice(o.start - b.start, o.stop - b.start) for o, b in zip(own, box, strict=True)
            )
            other, new = distance[inner], part.distance(self._points[(slice(None), *own)])
            distance[inner] = _smooth_minimum(other, new, structure.blend_mm)
        for part in structure.minus:
            distance = torch.maximum(distance, -part.distance(self._points[(slice(None), *box)]))
        if structure.visceral:
            distance = torch.maximum(distance, self._cavity[box])
        self._blend(box, distance, structure.hu, structure.texture)
        if structure.core:
            inset, hu = structure.core
            self._blend(box, distance + inset, hu, structure.texture)
            if structure.gas_above_mm is not None:
                gas = torch.maximum(distance + inset, structure.gas_above_mm - self._anterior[box])
                self._blend(box, gas, trunk.AIR_HU + 30, 10.0)
        if structure.label is not None:
            self.labels[box][distance < 0] = structure.label

    def _blend(self, box: tuple[slice, ...], distance: Tensor, hu: float, texture: float) -> None:
        """Mix a tissue in where ``distance`` is negative, with partial volume at its edge."""
        share = (0.5 - distance / self._edge_mm).clamp(0, 1)
        self.hu[box] += share * (hu + texture * self._grain[box] - self.hu[box])

    def _box(self, part: Solid, margin_mm: float) -> tuple[slice, ...]:
        """Voxels in which a solid can appear, its soft edge included."""
        low, high = part.bounds()
        reach = self._reach + margin_mm + self._edge_mm
        origin, spacing, shape = self._grid.affine[:3, 3], self._edge_mm, self._grid.shape
        first = np.clip(np.floor((low - reach - origin) / spacing), 0, shape).astype(int)
        last = np.clip(np.ceil((high + reach - origin) / spacing) + 1, first, shape).astype(int)
        return tuple(slice(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True))


def _smooth_minimum(a: Tensor, b: Tensor, blend_mm: float) -> Tensor:
    if not blend_mm:
        return torch.minimum(a, b)
    return torch.minimum(a, b) - (blend_mm - (a - b).abs()).clamp(min=0) ** 2 / (4 * blend_mm)


def world_points(grid: Grid) -> Tensor:
    """World coordinates ``(3, *shape)`` in mm of the voxels of an upright grid."""
    index = identity_coordinates(torch.empty(1, 3, *grid.shape))[0]
    return index * grid.spacing[0] + index.new_tensor(grid.affine[:3, 3]).view(3, 1, 1, 1)


def noise(shape: Sequence[int], sigma: float, generator: torch.Generator) -> Tensor:
    white = torch.randn(*shape, generator=generator).numpy()
    smooth = gaussian_filter(white, sigma, truncate=3, mode="wrap")
    return torch.from_numpy(smooth / smooth.std())


def smooth_vectors(shape: Sequence[int], sigma: float, generator: torch.Generator) -> Tensor:
    """Gaussian random vector field ``(1, 3, *shape)`` of unit variance per channel."""
    return torch.stack([noise(shape, sigma, generator) for _ in range(3)])[None]
