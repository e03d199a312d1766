"""Local cross-correlation (LNCC) as a cost volume: patches of both maps, whatever their contrast.

    C(x, o) = 1 - cov(f, m_o) / sqrt((var f + e) (var m_o + e)),    m_o(y) = m(y + o)

with means over the window around x, averaged over channels (Avants et al., Medical Image Analysis
2008, use its square). It needs no features: raw intensities will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from voxelopt_layers import native
from voxelopt_layers.autograd import TensorFunction
from voxelopt_layers.bounds import keep
from voxelopt_layers.channelwise_cost import added
from voxelopt_layers.displacement import Boundary
from voxelopt_layers.offsets import Offsets, pad, reach, window

WINDOW_RADIUS = 1
# Added to variances: flat patches, whose correlation is that of noise, cost the same everywhere.
LEAST_VARIANCE = 1e-5


def local_correlation(fixed: Tensor, moving: Tensor) -> Tensor:
    """Correlation of the patches of two maps around each voxel, averaged over channels.

    Args:
        fixed: ``(B, C, *spatial)``, which reaches beyond the result by the window's radius, 1.
        moving: of the same shape.

    Returns:
        ``(B, *spatial)`` in [-1, 1], by 2 voxels shorter along each axis.
    """
    f, m, ff, mm, fm = (
        window_mean(x, WINDOW_RADIUS)
        for x in (fixed, moving, fixed.square(), moving.square(), fixed * moving)
    )
    variances = [(square - mean.square()).clamp_min(0) for square, mean in ((ff, f), (mm, m))]
    per_f, per_m = ((variance + LEAST_VARIANCE).rsqrt() for variance in variances)
    return ((fm - f * m) * per_f * per_m).clamp(-1, 1).mean(1)


def volume_mean(image: Tensor, first_axis: int) -> Tensor:
    """Mean over the axes from this one on, which keep a length of 1.

    One axis after the other: of all in one, sums would differ with the number of threads.
    """
    for axis in reversed(range(first_axis, image.dim())):
        image = image.mean(axis, keepdim=True)
    return image


def window_mean(image: Tensor, radius: int) -> Tensor:
    """Mean over the cube of ``2 * radius + 1`` voxels a side, where it lies inside."""
    d = image.dim() - 2
    average = F.avg_pool2d if d == 2 else F.avg_pool3d
    for axis in range(d):
        image = average(image, [2 * radius + 1 if n == axis else 1 for n in range(d)], stride=1)
    return image


def local_correlation_cost(
    fixed: Tensor,
    moving: Tensor,
    offsets: Offsets,
    boundary: Boundary,
    dtype: torch.dtype,
    scale: float = 1.0,
    onto: Tensor | None = None,
) -> Tensor:
    """``scale * (1 - local_correlation)`` at all offsets, added to a cost volume if there is one.

    Args:
        fixed: features ``(B, C, *spatial)``.
        moving: of the same shape.
        offsets: those of `search_offsets` or `star_offsets`.
        boundary: beyond the volume, both are 0 (``"zeros"``) or repeat (``"border"``).
        dtype: what the costs are kept in.
        scale: the weight of this cost.
        onto: the volume to add to, which is overwritten where it needs no gradient.

    Returns:
        ``(B, len(offsets), *spatial)``.
    """
    if boundary == "border":  # no correlation changes, and rounding does not grow with an offset
        fixed, moving = (x - _brightness(x) for x in (fixed, moving))
    needs_grad = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (fixed, moving, onto)
    )
    if needs_grad and torch.compiler.is_compiling():  # which follows no gradient by hand
        parts = _parts(fixed, moving, offsets, boundary)
        cost = keep(torch.stack([scale * part for part in parts], dim=1), dtype)
        return cost if onto is None else added(onto, cost)
    if needs_grad:
        cost = _LocalCorrelation.apply(fixed, moving, offsets, boundary, dtype, scale)
        return cost if onto is None else added(onto, cost)
    return _forward(fixed, moving, offsets, boundary, dtype, scale, onto)


def _forward(
    fixed: Tensor,
    moving: Tensor,
    offsets: Offsets,
    boundary: Boundary,
    dtype: torch.dtype,
    scale: float,
    onto: Tensor | None,
) -> Tensor:
    cost = onto
    if cost is None:
        shape = (fixed.shape[0], len(offsets), *fixed.shape[2:])
        cost = fixed.new_empty(shape, dtype=dtype)
    if fixed.device.type == "cpu" and native.suits(fixed, moving, cost=cost):
        tensors = fixed.contiguous(), moving.contiguous(), cost
        star = len(offsets) < 3 ** (fixed.dim() - 2)
        options = (reach(offsets), WINDOW_RADIUS, star, boundary == "border")
        share = scale / fixed.shape[1]
        native.local_correlation(*tensors, *options, share, LEAST_VARIANCE, onto is not None)
        return cost
    for i, part in enumerate(_parts(fixed, moving, offsets, boundary)):
        cost[:, i] = keep(scale * part if onto is None else onto[:, i] + scale * part, dtype)
    return cost


def _brightness(image: Tensor) -> Tensor:
    return volume_mean(image.detach(), first_axis=2)


def _parts(fixed: Tensor, moving: Tensor, offsets: Offsets, boundary: Boundary) -> Iterator[Tensor]:
    """``1 - local_correlation`` at one offset after the other."""
    f, m = _continued(fixed, moving, offsets, boundary)
    for offset in offsets:
        yield 1 - local_correlation(f, window(m, offset, reach(offsets), f.shape[2:]))


class _LocalCorrelation(TensorFunction):
    """Autograd would keep a dozen maps of every offset; this keeps the two, and goes again."""

    @staticmethod
    def forward(ctx: Any, fixed: Tensor, moving: Tensor, *options: Any) -> Tensor:
        ctx.save_for_backward(fixed, moving)
        ctx.options = options
        return _forward(fixed, moving, *options, onto=None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        offsets, boundary, _, scale = ctx.options
        fixed, moving = (x.detach().requires_grad_() for x in ctx.saved_tensors)
        with torch.enable_grad():
            f, m = _continued(fixed, moving, offsets, boundary)
        leaves = [x.detach().requires_grad_() for x in (f, m)]
        by_f, by_m = (torch.zeros_like(x) for x in leaves)
        for i, offset in enumerate(offsets):
            with torch.enable_grad():
                moved = window(leaves[1], offset, reach(offsets), f.shape[2:])
                correlation = local_correlation(leaves[0], moved)
            parts = torch.autograd.grad(correlation, leaves, grads[0][:, i] * -scale)
            by_f += parts[0]
            by_m += parts[1]
        return *torch.autograd.grad((f, m), (fixed, moving), (by_f, by_m)), None, None, None, None


def _continued(
    fixed: Tensor, moving: Tensor, offsets: Offsets, boundary: Boundary
) -> tuple[Tensor, Tensor]:
    """Both maps continued beyond the volume: by the window, the moving one by the search too."""
    beyond = WINDOW_RADIUS + reach(offsets)
    return pad(fixed, WINDOW_RADIUS, boundary), pad(moving, beyond, boundary)
