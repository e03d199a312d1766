"""Resample label maps with smooth boundaries: each label's indicator is blurred, the largest wins.

Nearest neighbour carries the staircase of the moving image's voxels over to the result. Here every
label, background too, becomes an image of 0 and 1, is smoothed by a Gaussian, and is sampled where
a voxel comes from; the label with the largest value is taken. So no value ever lies between labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import find_objects, gaussian_filter
from torch import Tensor

from voxelopt_layers.displacement import sample
from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid
from voxelopt_train.images import Image
from voxelopt_train.resampling import mapped_slabs, stages_between
from voxelopt_train.transforms import Transform, inside

# Up to 0.49 a voxel outweighs all of its neighbours together: sampled at the voxels themselves, no
# label changes, however thin. Much more takes away what is a voxel or two thick.
SIGMA_VOXELS = 0.45
_TRUNCATE = 4.0  # of a Gaussian, in its standard deviations


def resample_labels(
    labels: Image,
    grid: Grid,
    transforms: Sequence[Transform] = (),
    sigma_voxels: float = SIGMA_VOXELS,
    progress: Callable[[str], None] | None = None,
) -> Image:
    """Labels at the voxels of ``grid``, through the transforms as in `resampling.resample`.

    Only one label's smoothed image is kept at a time, cut to where it is not 0, so that many
    labels take no more memory than few.

    Args:
        labels: whole numbers.
        grid: where they are wanted.
        transforms: maps from the world of ``grid`` to the world of ``labels``, the first first.
        sigma_voxels: standard deviation of the Gaussian, in voxels of ``labels`` along each axis;
            0 interpolates linearly between the 0 and 1 of each label. What is thin shrinks: a
            plate of one voxel comes out 0.9 voxels thick by default, and is gone from 0.8 on; see
            `vanished`.
        progress: called with the name of each label as it begins.

    Returns:
        Image on ``grid`` in the dtype of ``labels``, 0 outside the outer voxel edges of ``labels``.

    Raises:
        InputError: ``sigma_voxels`` is negative, no number, or beyond the longest axis.
    """
    widest = max(labels.grid.shape)
    if not 0 <= sigma_voxels <= widest:
        raise InputError(
            f"the sigma of labels must be from 0 to {widest} voxels, their longest axis, got "
            f"{sigma_voxels:g}"
        )
    candidates = [
        _Candidates.of(points, labels)
        for _, points in mapped_slabs(grid, stages_between(grid, transforms, labels.grid))
    ]
    values, ranks = np.unique(labels.data.cpu().numpy(), return_inverse=True)
    ranks = ranks.reshape(labels.grid.shape) + 1
    for rank, box in enumerate(find_objects(ranks), 1):
        value = int(values[rank - 1])
        if progress is not None:
            progress(f"label {value}")
        corner, smooth = _smoothed_indicator(ranks, rank, box, sigma_voxels)
        for slab in candidates:
            slab.consider(value, smooth, corner)
    winners = torch.cat([slab.winner for slab in candidates])
    return Image(winners.reshape(grid.shape), grid, labels.name)


def vanished(before: Image, after: Image) -> list[int]:
    """Labels, but for background, that are in ``before`` and no longer in ``after``."""
    gone = set(before.data.unique().tolist()) - set(after.data.unique().tolist()) - {0}
    return sorted(gone)


@dataclass(eq=False)
class _Candidates:
    """For some voxels of the result: where they come from, and the best label so far."""

    position: Tensor  # (3, n) in voxels of the labels, NaN outside them
    weight: Tensor  # (n,)
    winner: Tensor  # (n,)

    @classmethod
    def of(cls, points: Tensor, labels: Image) -> _Candidates:
        """Candidates at voxel positions ``(1, 3, *slab)`` of ``labels``."""
        outside = ~inside(points, labels.grid.shape)
        position = points.to(torch.float32).masked_fill_(outside, torch.nan)[0].flatten(1)
        n = position.shape[1]
        return cls(position, torch.zeros(n), torch.zeros(n, dtype=labels.data.dtype))

    def consider(self, value: int, smooth: Tensor, corner: Sequence[int]) -> None:
        """Let a label compete, whose smoothed indicator begins at the voxel ``corner``."""
        local = self.position - torch.tensor(corner)[:, None]
        size = torch.tensor(smooth.shape)[:, None]
        near = ((local >= -0.5) & (local < size - 0.5)).all(dim=0).nonzero()[:, 0]
        at = local[:, near].reshape(1, 3, -1, 1, 1)
        weight = sample(smooth[None, None], at, boundary="border").flatten()
        better = weight > self.weight[near]
        self.weight[near[better]] = weight[better]
        self.winner[near[better]] = value


def _smoothed_indicator(
    ranks: np.ndarray, rank: int, box: tuple[slice, ...], sigma_voxels: float
) -> tuple[list[int], Tensor]:
    """The Gaussian of one label where it is not 0, and the voxel where that begins."""
    reach = math.ceil(_TRUNCATE * sigma_voxels) + 1
    around = tuple(
        slice(max(side.start - reach, 0), min(side.stop + reach, n))
        for side, n in zip(box, ranks.shape, strict=True)
    )
    indicator = (ranks[around] == rank).astype(np.float32)
    smooth = gaussian_filter(indicator, sigma_voxels, mode="nearest", truncate=_TRUNCATE)
    return [side.start for side in around], torch.from_numpy(smooth)
