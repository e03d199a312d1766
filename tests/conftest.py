"""Shared fixtures: seeded tensors and a smooth random velocity."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from voxelopt_layers.displacement import resize


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def smooth_velocity():
    """Return a function that makes a smooth velocity ``(1, d, *shape)`` of given strength."""

    def make(shape: tuple[int, ...], strength: float = 1.5) -> Tensor:
        coarse = torch.randn(1, len(shape), *[max(3, n // 6) for n in shape], dtype=torch.float64)
        return strength * resize(coarse, shape)

    return make
