"""Patients of the phantom, and pairs of them.

A patient is one atlas seen through a random smooth diffeomorphism, with every organ moved and
scaled a little on its own. All of this is drawn on a lattice in mm, so that one seed is one patient
at any resolution; only noise and texture belong to the voxels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from voxelopt_layers.displacement import (
    exponentiate,
    identity_coordinates,
    jacobian_determinant,
    resize,
    sample,
    warp,
)
from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid
from voxelopt_train.images import Image
from voxelopt_train.phantom.canvas import Canvas, noise, smooth_vectors, world_points
from voxelopt_train.phantom.organs import ORGANS, vessels_and_glands, viscera
from voxelopt_train.phantom.solids import Structure
from voxelopt_train.phantom.trunk import back_and_bones, cavity_depth, deep_muscles

SHAPE, SPACING_MM = (112, 88, 96), 3.0
_LATTICE, _LATTICE_MM = (30, 24, 26), 12.0


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images on one grid, with labels.

    Attributes:
        fixed: CT in HU.
        fixed_labels: organ numbers of `ORGANS`, 0 elsewhere.
        moving: CT in HU.
        moving_labels: as for ``fixed_labels``.
        displacement: the true one where it is known, ``(1, 3, *shape)`` in voxels, with
            ``fixed(x) = moving(x + u(x))``; else None.
    """

    fixed: Image
    fixed_labels: Image
    moving: Image
    moving_labels: Image
    displacement: Tensor | None = None


def abdomen(
    seed: int, shape: Sequence[int] = SHAPE, spacing_mm: float = SPACING_MM
) -> tuple[Image, Image]:
    """Abdominal CT of one synthetic patient, portal venous phase.

    Args:
        seed: the patient; equal seeds give equal images.
        shape: voxels along the right, anterior and superior axes.
        spacing_mm: edge of the cubic voxels. The default field of view is 336 x 264 x 288 mm.

    Returns:
        The CT in HU (float32) and its labels 1 to 13 (int32), see `ORGANS`. On coarse grids thin
        labelled vessels and glands are drawn at least one voxel wide, so that none disappears.

    Raises:
        InputError: for a shape or spacing that makes no volume.
    """
    grid = _grid(shape, spacing_mm)
    drawn, voxelwise = _stream(seed, 0), _stream(seed, 1)
    canvas = Canvas(_patient_points(grid, drawn), grid, voxelwise)
    patient = _Patient(drawn)
    canvas.paint_body_wall(fat_mm=5 + 17 * float(torch.rand((), generator=drawn)))
    canvas.paint(deep_muscles())
    canvas.paint(patient(viscera(drawn)))
    canvas.paint_lungs()
    canvas.paint(patient(vessels_and_glands()))
    canvas.paint(back_and_bones())
    ct = canvas.hu + 11 * noise(grid.shape, 0.6, voxelwise)
    name = f"phantom {seed}"
    return Image(ct.clamp(-1024, 2000), grid, name), Image(canvas.labels, grid, f"{name} labels")


def phantom_pair(seed: int, shape: Sequence[int] = SHAPE, spacing_mm: float = SPACING_MM) -> Pair:
    """Two different patients, as `abdomen` draws them, on one grid.

    The moving patient is ``abdomen(2 * seed)``, the fixed one ``abdomen(2 * seed + 1)``.
    """
    moving, moving_labels = abdomen(2 * seed, shape, spacing_mm)
    fixed, fixed_labels = abdomen(2 * seed + 1, shape, spacing_mm)
    return Pair(fixed, fixed_labels, moving, moving_labels)


def deformed_pair(
    seed: int,
    max_displacement_mm: float = 20.0,
    shape: Sequence[int] = SHAPE,
    spacing_mm: float = SPACING_MM,
) -> Pair:
    """One patient and a copy of it, warped by a known diffeomorphism.

    Args:
        seed: patient and deformation.
        max_displacement_mm: length of the longest displacement vector.
        shape: see `abdomen`.
        spacing_mm: see `abdomen`.

    Returns:
        The pair with its displacement; ``fixed`` is ``warp(moving, displacement)``, its labels by
        nearest neighbour. The displacement is 0 on the outer voxels and nowhere folds (J > 0).
    """
    moving, moving_labels = abdomen(seed, shape, spacing_mm)
    grid = moving.grid
    displacement = random_displacement(seed, max_displacement_mm, shape, spacing_mm)
    fixed = warp(moving.data[None, None], displacement, boundary="border")[0, 0]
    fixed_labels = warp(moving_labels.data[None, None], displacement, "nearest", "border")[0, 0]
    return Pair(
        Image(fixed, grid, f"{moving.name} deformed"),
        Image(fixed_labels, grid, f"{moving_labels.name} deformed"),
        moving,
        moving_labels,
        displacement,
    )


def random_displacement(
    seed: int, max_displacement_mm: float, shape: Sequence[int], spacing_mm: float
) -> Tensor:
    """Smooth random diffeomorphism that leaves the outer voxels where they are.

    Args:
        seed: equal seeds give equal fields.
        max_displacement_mm: length of the longest displacement vector.
        shape: number of voxels along each axis.
        spacing_mm: edge of the cubic voxels.

    Returns:
        Displacement ``(1, 3, *shape)`` in voxels, J > 0 everywhere.

    Raises:
        InputError: a displacement this long folds in a volume this small.
    """
    # A field of correlation length s and height h has slopes of about h / s: keep them below 1.
    sigma = max(1.6 * max_displacement_mm, 24.0) / _LATTICE_MM
    extent = [max(round(n * spacing_mm / _LATTICE_MM), 4) for n in shape]
    velocity = resize(smooth_vectors(extent, sigma, _stream(seed, 2)), shape) * _window(shape)
    velocity *= max_displacement_mm / spacing_mm / _longest(velocity)
    displacement = exponentiate(velocity)
    displacement *= max_displacement_mm / spacing_mm / _longest(displacement)
    if jacobian_determinant(displacement).min() <= 0:
        raise InputError(
            f"A displacement of {max_displacement_mm:g} mm folds in a volume of {tuple(shape)} "
            f"voxels of {spacing_mm:g} mm; ask for a smaller one."
        )
    return displacement


def _stream(seed: int, number: int) -> torch.Generator:
    """Random numbers of one seed for one purpose, apart from those of all other seeds."""
    return torch.Generator().manual_seed(4 * seed + number)


class _Patient:
    """Gives every organ, with what belongs to it, its own small shift, size and contrast."""

    def __init__(self, generator: torch.Generator) -> None:
        random = torch.randn(len(ORGANS), 4, generator=generator).clamp(-2, 2).double().numpy()
        self._variation = dict(zip(ORGANS.values(), random, strict=True))
        self._enhancement = 0.92 + 0.16 * float(torch.rand((), generator=generator))

    def __call__(self, structures: Iterable[Structure]) -> Iterable[Structure]:
        centers: dict[str, np.ndarray] = {}
        for structure in structures:
            if structure.hu > 90:  # what takes up contrast medium
                structure = replace(structure, hu=structure.hu * self._enhancement)
            if structure.follows:
                boxes = [part.bounds() for part in structure.parts]
                center = np.mean([(low + high) / 2 for low, high in boxes], axis=0)
                center = centers.setdefault(structure.follows, center)
                variation = self._variation[structure.follows]
                structure = structure.moved(3.0 * variation[:3], 1 + 0.07 * variation[3], center)
            yield structure


def _patient_points(grid: Grid, generator: torch.Generator) -> Tensor:
    """Atlas point in mm of each voxel of a patient, ``(3, *shape)``: the patient's anatomy."""
    scale = 1 + 0.03 * torch.randn(3, generator=generator).clamp(-1.6, 1.6).view(3, 1, 1, 1)
    shift = 3 * torch.randn(3, generator=generator).clamp(-2, 2).view(3, 1, 1, 1)
    middle = (torch.tensor(_LATTICE).view(3, 1, 1, 1) - 1) / 2
    lattice = (identity_coordinates(torch.empty(1, 3, *_LATTICE))[0] - middle) * _LATTICE_MM
    # The trunk is stiffer than what it holds: less deformation at the wall and along the spine.
    off_spine = torch.hypot(lattice[0], lattice[1] + 30) - 15
    soft = (0.3 + cavity_depth(lattice) / 40).clamp(0, 1) * (off_spine / 50).clamp(0, 1)
    velocity_mm = 7 * smooth_vectors(_LATTICE, 3.0, generator) * (0.15 + 0.85 * soft)
    displacement = exponentiate(velocity_mm / _LATTICE_MM)
    world = world_points(grid)
    at = world[None] / _LATTICE_MM + middle
    bend_mm = sample(displacement, at, boundary="border")[0] * _LATTICE_MM
    return world * scale + shift + bend_mm


def _grid(shape: Sequence[int], spacing_mm: float) -> Grid:
    if len(shape) != 3 or min(shape) < 2 or spacing_mm <= 0:
        raise InputError(
            f"A phantom needs three sizes of at least 2 voxels and a positive spacing, got "
            f"{tuple(shape)} and {spacing_mm:g} mm."
        )
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = -spacing_mm * (np.asarray(shape) - 1) / 2
    return Grid((shape[0], shape[1], shape[2]), affine)


def _window(shape: Sequence[int]) -> Tensor:
    """1 inside, falling to 0 at the outer voxels along every axis."""
    axes = [torch.sin(torch.pi * torch.linspace(0, 1, n)).clamp(min=0).sqrt() for n in shape]
    return torch.einsum("i,j,k->ijk", *axes)


def _longest(vectors: Tensor) -> float:
    return float(vectors.norm(dim=1).max())
