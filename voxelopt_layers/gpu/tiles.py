"""What the kernels share: a tile is all offsets (or channels) of a block of voxels.

The rows of a tile are its offsets, padded to a power of two; its columns are voxels that follow
each other in memory. Tensors are contiguous, ``(B, C, D, H, W)``; an image is a volume of one slice
(D = 1) that is neither searched nor filtered along D. Whatever type a volume is kept in, arithmetic
is in float32, or float64 for volumes of float64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def tile(voxels, COUNT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Sample, rows, columns, which of both exist, and where ``(B, COUNT, voxels)`` has them.

    Columns beyond the volume are loaded as 0, and go through the arithmetic like any other.
    """
    sample = tl.program_id(1).to(tl.int64)
    row = tl.arange(0, ROWS)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside, rows = i < voxels, (row < COUNT)[:, None]
    at = (sample * COUNT + row[:, None]) * voxels + i[None, :]
    return sample, row, i, inside, rows, at


def tile_shape(count: int, values: int = 4096) -> dict[str, int]:
    """A tile of ``count`` offsets or channels; its values are shared out among 128 threads."""
    rows = triton.next_power_of_2(count)
    return {"COUNT": count, "ROWS": rows, "BLOCK": max(16, min(256, values // rows))}


def grid(voxels: int, block: int, batch: int) -> tuple[int, int]:
    """Programs for the voxels and for the samples."""
    return triton.cdiv(voxels, block), batch


def volume_shape(x: Tensor) -> tuple[int, int, int]:
    """``(D, H, W)``."""
    depth, height, width = (*[1] * (5 - x.dim()), *x.shape[2:])
    return depth, height, width


def accumulator(x: Tensor) -> tl.dtype:
    """What to compute in."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32
