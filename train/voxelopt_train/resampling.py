"""Resample an image onto a grid through transforms, with a single interpolation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from voxelopt_layers.displacement import sample
from voxelopt_train.grids import Grid
from voxelopt_train.images import Image
from voxelopt_train.transforms import AffineTransform, Transform, flatten, inside, slabs

# Rounding takes interpolation beyond it, of what marks missing values in some files.
_MOST = torch.finfo(torch.float32).max


def resample(
    image: Image,
    grid: Grid,
    transforms: Sequence[Transform] = (),
    mode: Literal["linear", "nearest"] = "linear",
    fill: float | None = 0.0,
    antialias: bool = False,
) -> Image:
    """Values of ``image`` at the voxels of ``grid``.

    The world point of each voxel goes through ``transforms[0]``, then ``transforms[1]``, ..., and
    into the voxels of ``image``: the order of ``antsApplyTransforms -t 1Warp -t 0GenericAffine``.

    Args:
        image: what is resampled.
        grid: where its values are wanted.
        transforms: maps from the world of ``grid`` to the world of ``image``, the first first.
        mode: ``"linear"`` for images, ``"nearest"`` for labels.
        fill: value outside the outer voxel edges of ``image``; None continues with the border.
        antialias: smooth ``image`` first where the voxels of ``grid`` are larger (``"linear"``).

    Returns:
        Image on ``grid``: float32 for ``"linear"``, else in the dtype of ``image``. It shares no
        memory with ``image``.
    """
    if grid is image.grid and not transforms:  # every voxel onto itself
        dtype = torch.float32 if mode == "linear" else image.data.dtype
        return Image(image.data.to(dtype, copy=True), grid, image.name)
    stages = stages_between(grid, transforms, image.grid)
    data = image.data
    if mode == "linear":
        data = data.to(torch.float32)
        if antialias:
            data = _smooth(data, _voxel_step(stages))
    out = torch.empty(grid.shape, dtype=data.dtype, device=data.device)
    for slab, points in mapped_slabs(grid, stages, data.device):
        values = sample(data[None, None], points.to(torch.float32), mode, "border")
        if mode == "linear":
            values = values.clamp(-_MOST, _MOST)
        if fill is not None:
            values = torch.where(inside(points, image.grid.shape), values, values.new_tensor(fill))
        out[slab] = values[0, 0]
    return Image(out if mode == "linear" else out.to(image.data.dtype), grid, image.name)


def stages_between(grid: Grid, transforms: Sequence[Transform], onto: Grid) -> list[Transform]:
    """The maps from voxels of ``grid``, through the world, to voxels of ``onto``."""
    to_voxels = AffineTransform(np.linalg.inv(onto.affine))
    return flatten((AffineTransform(grid.affine), *transforms, to_voxels))


def mapped_slabs(
    grid: Grid, stages: Sequence[Transform], device: torch.device | str = "cpu"
) -> Iterator[tuple[slice, Tensor]]:
    """The voxels of ``grid`` through all stages, some rows at a time to spare memory.

    Yields:
        The rows along the first axis, and where their voxels go: ``(1, 3, rows, ny, nz)`` float64.
    """
    for rows, points in slabs(grid):
        points = points.to(device)
        for stage in stages:
            points = stage(points)
        yield rows, points


def _voxel_step(stages: Iterable[Transform]) -> np.ndarray:
    """How far one voxel of the target reaches along each axis of the image, in its voxels."""
    linear = np.eye(3)
    for stage in stages:
        if isinstance(stage, AffineTransform):  # displacements hardly change the voxel size
            linear = stage.matrix[:3, :3] @ linear
    return np.linalg.norm(linear, axis=1)


def _smooth(data: Tensor, step: np.ndarray) -> Tensor:
    """Widen the voxels from 1 to ``step``, both as FWHM of a Gaussian (Cardoso et al., 2015)."""
    variance = np.maximum(step**2 - 1, 0) / (8 * np.log(2))
    smoothed = gaussian_filter(data.cpu().numpy(), np.sqrt(variance), mode="nearest")
    return torch.from_numpy(smoothed).clamp_(-_MOST, _MOST).to(data.device)
