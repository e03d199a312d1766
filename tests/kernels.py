"""Where there are compiled kernels, and how closely they agree with PyTorch's operators."""

from __future__ import annotations

import pytest

from voxelopt_layers import native

needs_kernels = pytest.mark.skipif(not native.available(), reason="no C++ compiler here")


def check(pairs, tolerance=1e-4):
    """Each actual and expected tensor, to a share of the largest expected value."""
    for actual, expected in pairs:
        error = (actual - expected).abs().max() / expected.abs().max().clamp_min(1e-20)
        assert error < tolerance, error
