"""One pair of phantoms, and the same registered."""

from __future__ import annotations

import pytest

from placing import (
    SIZE,
    WINDOW,
    label_sources,
    sources,
)
from voxelopt_train import Registration, register
from voxelopt_train.phantom import Pair, phantom_pair


@pytest.fixture(scope="module")
def pair() -> Pair:
    return phantom_pair(0, **SIZE)


@pytest.fixture(scope="module")
def plain(pair: Pair) -> Registration:
    """The pair registered with nothing special about it."""
    return register(*sources(pair), window=WINDOW, **label_sources(pair))
