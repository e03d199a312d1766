"""Cost volume: the dissimilarity of a fixed voxel to the moving voxels around it (equation 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from voxelopt_layers import native
from voxelopt_layers.arguments import check_choice, check_count, check_inputs
from voxelopt_layers.bounds import LARGEST_COST, bounded, bounded_gradient, keep
from voxelopt_layers.channelwise_cost import added, channelwise_cost
from voxelopt_layers.displacement import BOUNDARIES, Boundary
from voxelopt_layers.fused import as_tensor, match, working_dtype
from voxelopt_layers.local_correlation import local_correlation_cost
from voxelopt_layers.offsets import Offsets, pad, search_offsets, star_offsets, window
from voxelopt_layers.self_similarity import descriptors_of_channels

Named = Literal["l1", "l2", "cosine", "ncc", "lncc", "mind"]
DISSIMILARITIES: tuple[str, ...] = get_args(Named)
Dissimilarity = Named | Mapping[str, float] | Callable[[Tensor, Tensor], Tensor]


def checked_dissimilarity(
    dissimilarity: Dissimilarity, name: str = "dissimilarity"
) -> Dissimilarity:
    """The same, weights as a copy of their own; ValueError if it is none, by this name."""
    if callable(dissimilarity):
        return dissimilarity
    weights = dict(dissimilarity) if isinstance(dissimilarity, Mapping) else {}
    chosen = list(weights) if isinstance(dissimilarity, Mapping) else [dissimilarity]
    if not chosen or not all(one in DISSIMILARITIES for one in chosen):
        raise ValueError(
            f"{name} must be one of {DISSIMILARITIES}, weights of several, or a function, "
            f"got {dissimilarity!r}"
        )
    for weight in weights.values():
        # What comes from a YAML file may be anything. (A union of types breaks graphs on 3.10.)
        kinds = (int, float)
        number = isinstance(weight, kinds)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not number or isinstance(weight, bool) or not 0 < weight < math.inf:
            raise ValueError(
                f"the weights of {name} must be numbers above 0, got {dissimilarity!r}"
            )
    return weights if isinstance(dissimilarity, Mapping) else dissimilarity


def cost_volume(
    fixed: Tensor,
    moving: Tensor,
    radius: int = 1,
    dissimilarity: Dissimilarity = "l1",
    boundary: Boundary = "border",
    fixed_mask: Tensor | None = None,
    moving_mask: Tensor | None = None,
    dtype: torch.dtype | None = None,
    star: bool = False,
) -> Tensor:
    """``C(x, o) = d_s(f(x), m(x + o))`` for all offsets within ``radius`` (equation 3).

    Args:
        fixed: features ``(B, C, *spatial)``; beyond +-2^30 they are cut off.
        moving: features ``(B, C, *spatial)`` on the same grid.
        radius: search radius k in voxels.
        dissimilarity: ``"l1"`` or ``"l2"``, the mean over channels of the absolute or squared
            difference; ``"cosine"``, 1 - cosine similarity of the feature vectors; ``"ncc"``, the
            same of vectors whose channel mean is taken off; ``"lncc"``, 1 - the correlation of
            the patches of 3 voxels a side, see `local_correlation_cost`; ``"mind"``, the mean
            absolute difference of `descriptors_of_channels`, MIND-SSC of patches that continue
            with the border; weights of several, such
            as ``{"lncc": 1.0, "l1": 0.5}``; or a function that maps two ``(B, C, *spatial)`` to
            ``(B, *spatial)``. Two feature vectors of length 0 have cosine and NCC cost 0.
        boundary: features beyond the volume are 0 (``"zeros"``) or repeat (``"border"``).
        fixed_mask: ``(B, 1, *spatial)`` in [0, 1]; where 0, all offsets cost the same (0).
        moving_mask: ``(B, 1, *spatial)`` in [0, 1]; where an offset leads to a 0, all offsets of
            the voxel cost the same (0), so that a 0 neither attracts nor repels.
        dtype: what the costs are kept in, if not in the type of the features. They are computed in
            float32 at least; in float16 they are cut off at its largest number, 65504.
        star: the 2 d + 1 `star_offsets` alone.

    Returns:
        ``(B, (2 * radius + 1)^d, *spatial)``, or ``(B, 2 * d + 1, *spatial)`` of a star.
    """
    check_inputs(fixed, moving, fixed_mask, moving_mask)
    check_count(radius, "radius", 0)
    check_choice(boundary, "boundary", BOUNDARIES)
    dissimilarity = checked_dissimilarity(dissimilarity)
    dtype = dtype or fixed.dtype
    fixed, moving = (bounded(x).to(working_dtype(x)) for x in (fixed, moving))
    fixed_mask, moving_mask = (
        None if mask is None else mask.to(fixed.dtype) for mask in (fixed_mask, moving_mask)
    )
    return bounded_cost_volume(
        fixed, moving, radius, dissimilarity, boundary, fixed_mask, moving_mask, dtype, star
    )


def bounded_cost_volume(
    fixed: Tensor,
    moving: Tensor,
    radius: int,
    dissimilarity: Dissimilarity,
    boundary: Boundary,
    fixed_mask: Tensor | None,
    moving_mask: Tensor | None,
    dtype: torch.dtype,
    star: bool,
) -> Tensor:
    """`cost_volume` of features that are `bounded`, in float32 at least."""
    fixed, moving = (bounded_gradient(x, dtype) for x in (fixed, moving))
    d = fixed.dim() - 2
    radius = 1 if star else radius
    offsets = star_offsets(d) if star else search_offsets(radius, d)
    if callable(dissimilarity):
        padded = pad(moving, radius, boundary)
        moved = (window(padded, o, radius, fixed.shape[2:]) for o in offsets)
        cost = torch.stack([keep(_called(dissimilarity, fixed, m), dtype) for m in moved], dim=1)
    else:
        named = dissimilarity if isinstance(dissimilarity, Mapping) else {dissimilarity: 1.0}
        cost = _weighted_cost(fixed, moving, offsets, named, boundary, dtype)
    if moving_mask is not None:
        # All offsets or none: the best of those that are left would always lead away from the
        # mask, and whole levels would drift.
        cost = cost * _erode(moving_mask, radius).to(dtype)
    return cost if fixed_mask is None else cost * fixed_mask.to(dtype)


def _weighted_cost(
    fixed: Tensor,
    moving: Tensor,
    offsets: Offsets,
    weights: Mapping[str, float],
    boundary: Boundary,
    dtype: torch.dtype,
) -> Tensor:
    """The sum of several dissimilarities; local correlation comes last, onto the others."""
    cost = None
    for name, weight in weights.items():
        if name == "lncc":
            continue
        f, m, of_voxels = fixed, moving, name
        if name == "mind":
            f, m, of_voxels = descriptors_of_channels(f), descriptors_of_channels(m), "l1"
        part = channelwise_cost(f, m, offsets, of_voxels, boundary, dtype, weight)
        cost = part if cost is None else added(cost, part)
    if "lncc" in weights:
        how = (offsets, boundary, dtype, weights["lncc"])
        cost = local_correlation_cost(fixed, moving, *how, onto=cost)
    assert cost is not None
    return cost


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
    return cost.clamp(-LARGEST_COST, LARGEST_COST)


def _erode(mask: Tensor, radius: int) -> Tensor:
    """The least value of ``mask`` within ``radius``."""
    padded = -pad(mask, radius, "border")
    pool = F.max_pool2d if mask.dim() == 4 else F.max_pool3d
    return -pool(padded, 2 * radius + 1, stride=1)
