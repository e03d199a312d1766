"""The order of the spatial axes: kernels go along the last, which should not be the shortest."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

# Kernels take so many voxels of a row at a time: of shorter rows, most of the work is in vain.
_SHORT = 16


def better_order(spatial: Sequence[int]) -> list[int] | None:
    """Axes from the shortest to the longest where the last one is short; None where it is not."""
    if spatial[-1] >= min(_SHORT, max(spatial)):
        return None
    return sorted(range(len(spatial)), key=lambda axis: spatial[axis])


def turned(x: Tensor, axes: Sequence[int], vectors: bool = False) -> Tensor:
    """``(B, C, *spatial)`` with its spatial axes in this order, and its components if vectors."""
    x = x[:, list(axes)] if vectors else x
    return x.permute(0, 1, *(2 + axis for axis in axes)).contiguous()
