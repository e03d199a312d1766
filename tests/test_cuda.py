"""The layer on a GPU, where there is one: as on the CPU."""

from __future__ import annotations

import pytest
import torch

from textures import pair
from voxelopt_layers import VoxelOptLayer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("preset", [None, "paper", "released"])
def test_cuda_agrees_with_cpu(smooth_velocity, preset):
    fixed, moving, _ = pair((28, 32, 24), smooth_velocity)
    layer = VoxelOptLayer() if preset is None else VoxelOptLayer.from_preset(preset)
    expected = layer(fixed, moving)
    on_gpu = layer.cuda()(fixed.cuda(), moving.cuda()).cpu()
    assert (on_gpu - expected).abs().mean() < 0.01
    with torch.autocast("cuda", dtype=torch.bfloat16):
        half = layer(fixed.cuda().bfloat16(), moving.cuda().bfloat16()).cpu()
    assert half.dtype == torch.float32 and (half - expected).abs().mean() < 0.1


@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_cuda_keeps_costs_in_float16_as_cpu_does(smooth_velocity, scale):
    """Those that float16 does not hold too, of which both cut off the same."""
    fixed, moving, _ = (scale * x for x in pair((28, 32, 24), smooth_velocity))
    layer = VoxelOptLayer(cost_dtype="float16", temperature=0.1 * scale, beta=0.1 * scale)
    expected = layer(fixed, moving)
    on_gpu = layer.cuda()(fixed.cuda(), moving.cuda()).cpu()
    assert on_gpu.isfinite().all() and (on_gpu - expected).abs().mean() < 0.01


@pytest.mark.parametrize("gradient", ["unrolled", "checkpointed"])
def test_cuda_gradients_agree_with_cpu(smooth_velocity, gradient):
    fixed, moving, _ = pair((14, 16, 12), smooth_velocity)
    found = []
    for device in ("cpu", "cuda"):
        leaf = fixed.double().to(device).requires_grad_()
        layer = VoxelOptLayer(temperature=0.1, gradient=gradient).to(device)
        layer(leaf, moving.double().to(device)).square().mean().backward()
        assert leaf.grad is not None
        found.append(leaf.grad.cpu())
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-9)
