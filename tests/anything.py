"""Strategies of hypothesis: any features, masks, fields and settings of the layer."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from voxelopt_layers import VoxelOptLayer, native
from voxelopt_layers.presets import PRESETS

MOST_VOXELS = 600
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# Of features: from what is no normal number any more to the largest there is.
SCALES = (0.0, 1e-45, 1e-30, 1e-6, 1.0, 1.0, 1e3, 3e4, 1e9, 1e18, 1e30, 3.4e38)
# Two sides of what users may do about kernels.
with_and_without_kernels = st.sampled_from([contextlib.nullcontext, native.set_aside])


@st.composite
def shapes(draw: st.DrawFn, most: int = MOST_VOXELS, longest: int = 64) -> tuple[int, ...]:
    """2-D or 3-D, 1 to 64 voxels along each axis."""
    left, shape = most, []
    for _ in range(draw(st.sampled_from([2, 3]))):
        shape.append(draw(st.integers(1, min(longest, left))))
        left //= shape[-1]
    return tuple(draw(st.permutations(shape)))


def _noise(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _of_kind(kind: str, generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """Values of about 1."""
    noise = _noise(generator, shape)
    if kind == "constant":
        return noise.new_full(shape, 0.7)
    if kind == "steps":
        return noise.round()
    if kind == "hot voxels":
        return (noise > 2).double() * noise.sign()
    if kind == "magnitudes":
        return noise * 10.0 ** (12 * _noise(generator, shape)).clamp(-30, 0)
    return noise


@st.composite
def values(draw: st.DrawFn, shape: tuple[int, ...], scales: Any = SCALES, dtype=None) -> Tensor:
    """A tensor of finite numbers: constant, noise, few values, hot voxels, all magnitudes."""
    kinds = ("constant", "noise", "steps", "hot voxels", "magnitudes")
    kind, scale = draw(st.sampled_from(kinds)), draw(st.sampled_from(scales))
    dtype = draw(st.sampled_from(FLOATS)) if dtype is None else dtype
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    most = torch.finfo(dtype).max
    return (scale * _of_kind(kind, generator, shape)).clamp(-most, most).to(dtype)


@st.composite
def masks(draw: st.DrawFn, shape: tuple[int, ...]) -> Tensor | None:
    """None, or ``(B, 1, *spatial)`` in [0, 1]: nothing, everything, a part, soft."""
    kind = draw(st.sampled_from(["none", "none", "nothing", "everything", "part", "soft"]))
    if kind == "none":
        return None
    if kind in ("nothing", "everything"):
        return torch.full(shape, float(kind == "everything"))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    soft = torch.rand(shape, generator=generator)
    return soft.round() if kind == "part" else soft


def _theta() -> Any:
    return st.sampled_from([(150.0, 5.0, 0.5), (float("inf"), 1.0), (1.0,)])


OPTIONS: dict[str, Any] = {
    "levels": st.integers(1, 5),
    "search_radius": st.sampled_from([1, 1, 1, 2]),
    "theta": _theta(),
    "beta": st.sampled_from([0.01, 1.0]),
    "sigma_range": st.sampled_from([None, (0.1, 0.5)]),
    "sigma_smoothing": st.sampled_from([0.0, 1.0]),
    "probability_floor": st.sampled_from([0.0, 1e-6]),
    "adaptive": st.booleans(),
    "cost_filtering": st.booleans(),
    "filter_radius": st.integers(1, 6),
    "filter_passes": st.integers(1, 3),
    "dissimilarity": st.sampled_from(
        ["l1", "l2", "cosine", "ncc", "lncc", "mind", {"mind": 1.5, "l2": 1.0, "lncc": 0.7}]
    ),
    "coarse_dissimilarity": st.sampled_from([None, "l1", "lncc", "mind"]),
    "assignment": st.sampled_from(["hard", "soft", "straight_through"]),
    "temperature": st.sampled_from([0.003, 0.1]),
    "ties": st.sampled_from(["mean", "sum"]),
    "gradient": st.sampled_from(["unrolled", "checkpointed", "truncated"]),
    "integration_steps": st.sampled_from([0, 4, 7]),
    "warps_per_level": st.integers(1, 2),
    "refinements": st.sampled_from([0, 2]),
    "boundary": st.sampled_from(["zeros", "border"]),
    "align_corners": st.booleans(),
    "cost_dtype": st.sampled_from([None, "float16", "bfloat16"]),
}


@st.composite
def layers(draw: st.DrawFn, **fixed: Any) -> VoxelOptLayer:
    """A preset or the defaults, with some settings changed."""
    preset = draw(st.sampled_from(["", *sorted(PRESETS)]))
    changed = draw(st.sets(st.sampled_from(sorted(OPTIONS)), max_size=5))
    options = {name: draw(OPTIONS[name]) for name in sorted(changed)} | fixed
    options["learnable"] = draw(st.booleans())
    return VoxelOptLayer.from_preset(preset, **options) if preset else VoxelOptLayer(**options)


@st.composite
def problems(draw: st.DrawFn, scales: Any = SCALES) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """What `VoxelOptLayer.solve` takes: two feature maps, and masks and a field to start from."""
    spatial = draw(shapes())
    batch = draw(st.integers(1, 3))
    whole = (batch, draw(st.integers(1, 6)), *spatial)
    fixed, moving = draw(values(whole, scales)), draw(values(whole, scales))
    if draw(st.booleans()):  # as it mostly is: both of one kind
        moving = fixed.roll(1, -1).contiguous()
    options: dict[str, Any] = {}
    for name in ("fixed_mask", "moving_mask"):
        options[name] = draw(masks((batch, 1, *spatial)))
    if draw(st.integers(0, 3)) == 3:
        field = (batch, len(spatial), *spatial)
        options["initial_displacement"] = draw(values(field, (0.0, 1.0, 100.0)))
    return fixed, moving, options
