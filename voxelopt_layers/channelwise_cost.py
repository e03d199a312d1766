"""Dissimilarities of one voxel and one other: L1, L2, and cosine and NCC over channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from voxelopt_layers import native
from voxelopt_layers.autograd import TensorFunction
from voxelopt_layers.bounds import keep
from voxelopt_layers.displacement import Boundary
from voxelopt_layers.fused import FusedCostVolume
from voxelopt_layers.offsets import Offsets, pad, reach, window

# Elements of one channel handled at a time on CPU, small enough to stay in cache.
_BLOCK = 2**19


def channelwise_cost(
    fixed: Tensor,
    moving: Tensor,
    offsets: Offsets,
    dissimilarity: str,
    boundary: Boundary,
    dtype: torch.dtype,
    weight: float,
) -> Tensor:
    """``weight * dissimilarity`` of two maps ``(B, C, *spatial)`` at all offsets."""
    channels = fixed.shape[1]
    if dissimilarity in ("l1", "l2"):
        scale, normalise = weight / channels, None
    else:
        # Half the squared distance of unit vectors is 1 - cosine, and 0 between two zero vectors.
        scale = 0.5 * weight
        normalise = _unit_map(fixed, dissimilarity), _unit_map(moving, dissimilarity)
    # The kernel knows the whole volume alone.
    whole = len(offsets) == (2 * reach(offsets) + 1) ** (fixed.dim() - 2)
    fused, squared = whole and native.suits(fixed, moving), dissimilarity != "l1"
    # Few channels at a time, so that no copy of the features outgrows the cost volume.
    copies = not fused or normalise is not None
    group = max(1, len(offsets) // 2) if copies else channels
    # Parts are added up in the type of the features.
    kept = dtype if group >= channels else fixed.dtype
    cost = None
    groups = torch.split(fixed, group, dim=1), torch.split(moving, group, dim=1)
    for f, m in zip(*groups, strict=True):
        if normalise is not None:
            f, m = ((x - mean) * unit for x, (mean, unit) in zip((f, m), normalise, strict=True))
        if fused:
            how = (reach(offsets), squared, boundary == "border", scale)
            part = FusedCostVolume.apply(f, m, kept, *how)
        else:
            padded = pad(m, reach(offsets), boundary)
            part = _ChannelwiseCost.apply(f, padded, kept, offsets, squared, scale)
        cost = part if cost is None else added(cost, part)
    assert cost is not None
    return keep(cost, dtype)


def _unit_map(features: Tensor, dissimilarity: str) -> tuple[Tensor | float, Tensor]:
    """Per voxel: what to subtract from the feature vector and the factor that makes it a unit."""
    if dissimilarity == "cosine":
        square, mean = features.square().sum(1, keepdim=True), 0.0
    else:
        mean = features.mean(1, keepdim=True)
        square = (features - mean).square().sum(1, keepdim=True)
    tiny = torch.finfo(features.dtype).eps ** 2
    return mean, torch.where(square > tiny, square.clamp_min(tiny).rsqrt(), 0.0)


class _ChannelwiseCost(TensorFunction):
    """``scale * sum_c phi(f_c(x) - m_c(x + o))``, phi the absolute value or the square.

    Autograd would keep the difference of every channel at every offset (27 copies of the
    features); recomputing them in the backward pass keeps the two maps alone.
    """

    @staticmethod
    def forward(
        ctx: Any,
        fixed: Tensor,
        padded: Tensor,
        dtype: torch.dtype,
        offsets: Offsets,
        squared: bool,
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(fixed, padded)
        ctx.options = (offsets, squared, scale)
        shape, radius = fixed.shape[2:], reach(offsets)
        cost = fixed.new_empty((fixed.shape[0], len(offsets), *shape), dtype=dtype)
        for rows in _slabs(fixed):
            f = fixed[:, :, rows]
            m = padded[:, :, rows.start : rows.stop + 2 * radius]
            for i, o in enumerate(offsets):
                total = None
                for f_c, m_c in zip(
                    f.unbind(1), window(m, o, radius, f.shape[2:]).unbind(1), strict=True
                ):
                    term = f_c - m_c
                    term = term.square_() if squared else term.abs_()
                    total = term if total is None else total.add_(term)
                assert total is not None
                cost[:, i, rows] = keep(total.mul_(scale), dtype)
        return cost

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None, None, None, None]:
        fixed, padded = ctx.saved_tensors
        offsets, squared, scale = ctx.options
        radius = reach(offsets)
        grad_fixed, grad_padded = torch.zeros_like(fixed), torch.zeros_like(padded)
        for_fixed, for_moving = ctx.needs_input_grad[:2]
        for i, o in enumerate(offsets):
            weight = grads[0][:, i] * scale
            moved = window(padded, o, radius, fixed.shape[2:])
            grad_moved = window(grad_padded, o, radius, fixed.shape[2:])
            for c in range(fixed.shape[1]):
                term = fixed[:, c] - moved[:, c]
                term = term.mul_(2) if squared else term.sign_()
                term.mul_(weight)
                if for_fixed:
                    grad_fixed[:, c].add_(term)
                if for_moving:
                    grad_moved[:, c].sub_(term)
        return grad_fixed, grad_padded, None, None, None, None


def _slabs(features: Tensor) -> list[slice]:
    """Slices along the first spatial axis whose working set fits the cache (one slice on a GPU)."""
    rows = features.shape[2]
    step = rows
    # A graph would hold every slice, as many as its volume has.
    if features.device.type == "cpu" and not torch.compiler.is_compiling():
        step = max(1, _BLOCK // max(1, features[0, 0, 0].numel() * features.shape[0]))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def added(cost: Tensor, part: Tensor) -> Tensor:
    """The sum; in place of the first where there is no gradient to come."""
    if torch.is_grad_enabled() and (cost.requires_grad or part.requires_grad):
        return keep(cost + part, cost.dtype)
    cost.add_(part)
    # In place too: what float16 saves is the room for a copy.
    return cost.clamp_(max=torch.finfo(cost.dtype).max) if cost.dtype == torch.float16 else cost
