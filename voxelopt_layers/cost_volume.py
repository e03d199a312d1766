"""Cost volume: the dissimilarity of every fixed voxel to the moving voxels around it (equation 3).

Offsets ``o`` in ``{-k, ..., k}^d`` are numbered in C order, the last axis running fastest; the
centre offset 0 is number ``K // 2`` of ``K = (2k + 1)^d``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from voxelopt_layers import native
from voxelopt_layers.displacement import Boundary
from voxelopt_layers.fused import FusedCostVolume, as_tensor, match

Dissimilarity = Literal["l1", "l2", "cosine", "ncc"] | Callable[[Tensor, Tensor], Tensor]
DISSIMILARITIES = ("l1", "l2", "cosine", "ncc")
# Elements of one channel handled at a time on CPU, small enough to stay in cache.
_BLOCK = 2**19


def search_offsets(radius: int, d: int) -> list[tuple[int, ...]]:
    """All ``(2 * radius + 1)^d`` offsets in voxels, in C order."""
    offsets: list[tuple[int, ...]] = [()]
    for _ in range(d):
        offsets = [(*o, i) for o in offsets for i in range(-radius, radius + 1)]
    return offsets


def cost_volume(
    fixed: Tensor,
    moving: Tensor,
    radius: int = 1,
    dissimilarity: Dissimilarity = "l1",
    boundary: Boundary = "border",
    fixed_mask: Tensor | None = None,
    moving_mask: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``C(x, o) = d_s(f(x), m(x + o))`` for all offsets within ``radius`` (equation 3).

    Args:
        fixed: features ``(B, C, *spatial)``.
        moving: features ``(B, C, *spatial)`` on the same grid.
        radius: search radius k in voxels.
        dissimilarity: ``"l1"`` or ``"l2"``, the mean over channels of the absolute or squared
            difference; ``"cosine"``, 1 - cosine similarity of the feature vectors; ``"ncc"``, the
            same of vectors whose channel mean is taken off; or a function that maps two
            ``(B, C, *spatial)`` to ``(B, *spatial)``. Two feature vectors of length 0 have cost 0.
        boundary: features beyond the volume are 0 (``"zeros"``) or repeat (``"border"``).
        fixed_mask: ``(B, 1, *spatial)`` in [0, 1]; where 0, all offsets cost the same (0).
        moving_mask: ``(B, 1, *spatial)`` in [0, 1]; where an offset leads to a 0, all offsets of
            the voxel cost the same (0), so that a 0 neither attracts nor repels.
        dtype: what the costs are kept in, if not in the type of the features.

    Returns:
        ``(B, (2 * radius + 1)^d, *spatial)``.
    """
    if fixed.shape != moving.shape or fixed.dim() not in (4, 5):
        raise ValueError(
            "fixed and moving must both be (B, C, H, W) or (B, C, D, H, W) of one shape, got "
            f"{tuple(fixed.shape)} and {tuple(moving.shape)}"
        )
    offsets, dtype = search_offsets(radius, fixed.dim() - 2), dtype or fixed.dtype
    if callable(dissimilarity):
        padded = _pad(moving, radius, boundary)
        windows = (_window(padded, o, radius, fixed.shape[2:]) for o in offsets)
        cost = torch.stack(
            [_called(dissimilarity, fixed, window).to(dtype) for window in windows], dim=1
        )
    else:
        cost = _channelwise_cost(fixed, moving, radius, dissimilarity, boundary, dtype)
    if moving_mask is not None:
        # All offsets or none: the best of those that are left would always lead away from the
        # mask, and whole levels would drift.
        cost = cost * _erode(moving_mask, radius).to(dtype)
    return cost if fixed_mask is None else cost * fixed_mask.to(dtype)


def match_in_one_pass(
    fixed: Tensor,
    moving: Tensor,
    radius: int,
    dissimilarity: Dissimilarity,
    boundary: Boundary,
    dtype: torch.dtype | None,
    beta: Tensor | float,
    probability_floor: float,
) -> tuple[Tensor, Tensor] | None:
    """`cost_volume` and its `cost_entropy`, without a gradient, or None if no kernel has both."""
    if dissimilarity not in ("l1", "l2") or not native.suits(fixed, moving):
        return None
    how = (radius, dissimilarity == "l2", boundary == "border", 1 / fixed.shape[1])
    beta = as_tensor(beta, fixed)
    return match(fixed, moving, dtype or fixed.dtype, beta, probability_floor, *how)


def _called(function: Callable[[Tensor, Tensor], Tensor], fixed: Tensor, window: Tensor) -> Tensor:
    """What the user's dissimilarity makes of two maps, or ValueError if it is of another shape."""
    cost, expected = function(fixed, window), (fixed.shape[0], *fixed.shape[2:])
    if cost.shape != expected:
        raise ValueError(
            f"dissimilarity must map two {tuple(fixed.shape)} to {expected}, one cost per voxel, "
            f"it returned {tuple(cost.shape)}"
        )
    return cost


def _channelwise_cost(
    fixed: Tensor,
    moving: Tensor,
    radius: int,
    dissimilarity: str,
    boundary: Boundary,
    dtype: torch.dtype,
) -> Tensor:
    channels = fixed.shape[1]
    if dissimilarity in ("l1", "l2"):
        scale, normalise = 1 / channels, None
    elif dissimilarity in ("cosine", "ncc"):
        # Half the squared distance of unit vectors is 1 - cosine, and 0 between two zero vectors.
        scale, normalise = 0.5, (_unit_map(fixed, dissimilarity), _unit_map(moving, dissimilarity))
    else:
        raise ValueError(
            "dissimilarity must be 'l1', 'l2', 'cosine', 'ncc' or a function, "
            f"got {dissimilarity!r}"
        )
    fused, squared = native.suits(fixed, moving), dissimilarity != "l1"
    # Few channels at a time, so that no copy of the features outgrows the cost volume.
    copies = not fused or normalise is not None
    group = max(1, (2 * radius + 1) ** (fixed.dim() - 2) // 2) if copies else channels
    # Parts are added up in the type of the features.
    kept = dtype if group >= channels else fixed.dtype
    cost = None
    for f, m in zip(fixed.split(group, 1), moving.split(group, 1), strict=True):
        if normalise is not None:
            f, m = ((x - mean) * unit for x, (mean, unit) in zip((f, m), normalise, strict=True))
        if fused:
            part = FusedCostVolume.apply(f, m, kept, radius, squared, boundary == "border", scale)
        else:
            padded = _pad(m, radius, boundary)
            part = _ChannelwiseCost.apply(f, padded, kept, radius, squared, scale)
        if cost is None:
            cost = part
        elif torch.is_grad_enabled() and (cost.requires_grad or part.requires_grad):
            cost = cost + part
        else:
            cost.add_(part)
    assert cost is not None
    return cost.to(dtype)


def _unit_map(features: Tensor, dissimilarity: str) -> tuple[Tensor | float, Tensor]:
    """Per voxel: what to subtract from the feature vector and the factor that makes it a unit."""
    if dissimilarity == "cosine":
        square, mean = features.square().sum(1, keepdim=True), 0.0
    else:
        mean = features.mean(1, keepdim=True)
        square = (features - mean).square().sum(1, keepdim=True)
    tiny = torch.finfo(features.dtype).eps ** 2
    return mean, torch.where(square > tiny, square.clamp_min(tiny).rsqrt(), 0.0)


class _ChannelwiseCost(torch.autograd.Function):
    """``scale * sum_c phi(f_c(x) - m_c(x + o))``, phi the absolute value or the square.

    Autograd would keep the difference of every channel at every offset (27 copies of the
    features); recomputing them in the backward pass keeps the two maps alone.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        fixed: Tensor,
        padded: Tensor,
        dtype: torch.dtype,
        radius: int,
        squared: bool,
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(fixed, padded)
        ctx.options = (radius, squared, scale)
        shape = fixed.shape[2:]
        offsets = search_offsets(radius, len(shape))
        cost = fixed.new_empty((fixed.shape[0], len(offsets), *shape), dtype=dtype)
        for rows in _slabs(fixed):
            f = fixed[:, :, rows]
            m = padded[:, :, rows.start : rows.stop + 2 * radius]
            for i, o in enumerate(offsets):
                total = None
                for f_c, m_c in zip(
                    f.unbind(1), _window(m, o, radius, f.shape[2:]).unbind(1), strict=True
                ):
                    term = f_c - m_c
                    term = term.square_() if squared else term.abs_()
                    total = term if total is None else total.add_(term)
                assert total is not None
                cost[:, i, rows] = total.mul_(scale)
        return cost

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Any
    ) -> tuple[Tensor, Tensor, None, None, None, None]:
        fixed, padded = ctx.saved_tensors
        radius, squared, scale = ctx.options
        grad_fixed, grad_padded = torch.zeros_like(fixed), torch.zeros_like(padded)
        for_fixed, for_moving = ctx.needs_input_grad[:2]
        for i, o in enumerate(search_offsets(radius, fixed.dim() - 2)):
            weight = grads[0][:, i] * scale
            window = _window(padded, o, radius, fixed.shape[2:])
            grad_window = _window(grad_padded, o, radius, fixed.shape[2:])
            for c in range(fixed.shape[1]):
                term = fixed[:, c] - window[:, c]
                term = term.mul_(2) if squared else term.sign_()
                term.mul_(weight)
                if for_fixed:
                    grad_fixed[:, c].add_(term)
                if for_moving:
                    grad_window[:, c].sub_(term)
        return grad_fixed, grad_padded, None, None, None, None


def _slabs(features: Tensor) -> list[slice]:
    """Slices along the first spatial axis whose working set fits the cache (one slice on a GPU)."""
    rows = features.shape[2]
    step = rows
    if features.device.type == "cpu":
        step = max(1, _BLOCK // max(1, features[0, 0, 0].numel() * features.shape[0]))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _pad(image: Tensor, radius: int, boundary: Boundary) -> Tensor:
    pad = [radius] * (2 * (image.dim() - 2))
    if boundary == "zeros":
        return F.pad(image, pad)
    return F.pad(image, pad, mode="replicate")


def _window(padded: Tensor, offset: tuple[int, ...], radius: int, shape: torch.Size) -> Tensor:
    """View of ``padded`` shifted by ``offset``: at x it holds the value at ``x + offset``."""
    for axis, (o, n) in enumerate(zip(offset, shape, strict=True)):
        padded = padded.narrow(2 + axis, radius + o, n)
    return padded


def _erode(mask: Tensor, radius: int) -> Tensor:
    """The least value of ``mask`` within ``radius``."""
    padded = -_pad(mask, radius, "border")
    pool = F.max_pool2d if mask.dim() == 4 else F.max_pool3d
    return -pool(padded, 2 * radius + 1, stride=1)
