"""Offsets of a search, in voxels, and the parts of a map that they lead to.

Those ``o`` in ``{-k, ..., k}^d`` are numbered in C order, the last axis running fastest; the centre
offset 0 is number ``K // 2`` of ``K = (2k + 1)^d``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from voxelopt_layers.displacement import Boundary

Offsets = Sequence[tuple[int, ...]]


def search_offsets(radius: int, d: int) -> list[tuple[int, ...]]:
    """All ``(2 * radius + 1)^d`` offsets in voxels, in C order."""
    offsets: list[tuple[int, ...]] = [()]
    for _ in range(d):
        offsets = [(*o, i) for o in offsets for i in range(-radius, radius + 1)]
    return offsets


def star_offsets(d: int) -> list[tuple[int, ...]]:
    """The centre, then the neighbour before and the one behind along each axis."""
    ones = [tuple(int(n == axis) for n in range(d)) for axis in range(d)]
    return [(0,) * d, *(tuple(sign * n for n in one) for one in ones for sign in (-1, 1))]


def reach(offsets: Offsets) -> int:
    """The farthest of the offsets along any axis."""
    return max(max(offset) for offset in offsets)


def pad(image: Tensor, radius: int, boundary: Boundary) -> Tensor:
    """A map continued by ``radius`` voxels beyond its sides."""
    mode = "constant" if boundary == "zeros" else "replicate"
    return F.pad(image, [radius] * (2 * (image.dim() - 2)), mode=mode)


def window(padded: Tensor, offset: tuple[int, ...], radius: int, shape: torch.Size) -> Tensor:
    """View of ``padded`` shifted by ``offset``: at x it holds the value at ``x + offset``."""
    for axis, (o, n) in enumerate(zip(offset, shape, strict=True)):
        padded = padded.narrow(2 + axis, radius + o, n)
    return padded
