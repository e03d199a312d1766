"""Kernels in Triton: the whole layer by the interpreter, and what a GPU would run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from textures import texture
from voxelopt_layers import VoxelOptLayer, native, warp

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("kernels")
both_dimensions = pytest.mark.parametrize("shape", [(9, 10, 11), (13, 17)])


@pytest.fixture
def kernels(triton_kernels):
    """Those in Triton alone."""


def solve(layer, features, **options):
    """The displacement, and the gradients of features and parameters."""
    inputs = [x.clone().requires_grad_() for x in features]
    layer.zero_grad()
    u = layer(*inputs, **options)
    u.square().sum().backward()
    return [u.detach(), *[x.grad for x in [*inputs, *layer.parameters()]]]


@both_dimensions
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient": "checkpointed", "filter_passes": 2, "boundary": "zeros"},
        {"assignment": "straight_through", "probability_floor": 1e-3},
    ],
)
def test_the_layer_has_the_values_and_gradients_of_pytorch(shape, options):
    torch.manual_seed(1)
    features = [4 * texture(shape, 3) for _ in range(2)]
    layer = VoxelOptLayer(
        levels=2, warps_per_level=1, temperature=0.05, learnable=True, dissimilarity="l2",
        integration_steps=3, **options,
    )  # fmt: skip
    fused = solve(layer, features)
    with native.set_aside():
        reference = solve(layer, features)
    for a, b in zip(fused, reference, strict=True):
        assert b.abs().max() > 0
        assert (a - b).abs().max() < 0.02 * b.abs().max()


@both_dimensions
def test_one_pass_finds_the_cost_volume_and_its_entropy(shape):
    """As the layer takes it without a gradient; a mask, which comes between them, prevents it."""
    features = [4 * texture(shape, 3) for _ in range(2)]
    layer = VoxelOptLayer(levels=1, warps_per_level=1, integration_steps=2)
    mask = torch.ones(1, 1, *shape)
    with torch.no_grad():
        solution = layer.solve(*features)
        two_passes = layer.solve(*features, fixed_mask=mask)
    assert torch.equal(solution.displacement, two_passes.displacement)
    assert torch.equal(solution.entropy[0], two_passes.entropy[0])


def test_what_is_no_number_is_handed_on():
    image, u = torch.randn(1, 1, 6, 6, 6), torch.zeros(1, 3, 6, 6, 6)
    u[0, 0, 0, 0, 0], u[0, :, 4, 4, 4] = 5, float("nan")
    assert warp(image, u)[0, 0, 4, 4, 4].isnan() and warp(image, u)[0, 0, 1:4].isfinite().all()
    assert warp(image, torch.full_like(u, 1e30), boundary="border").isfinite().all()


@pytest.mark.parametrize("why", [None, "Failed to find C compiler.", "Python.h: No such file"])
def test_where_triton_cannot_compile_pytorch_takes_over(why, monkeypatch):
    class Driver:
        def get_current_target(self):
            if why:
                raise RuntimeError(why)

    from triton.runtime import driver

    monkeypatch.setattr(driver, "_active", Driver())
    native._triton_runs.cache_clear()
    with pytest.warns(UserWarning, match=why) if why else contextlib.nullcontext():
        assert native._triton_available() == (why is None)
    with native.set_aside():
        assert not native._triton_available()
    native._triton_runs.cache_clear()


@pytest.mark.parametrize("architecture", [80, 90])
def test_every_kernel_compiles_to_machine_code_without_a_gpu(architecture):
    """By Triton's own assembler; next to nothing may be spilled for want of registers."""
    script = Path(__file__).parent / "compile_kernels.py"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = [sys.executable, str(script), str(architecture)]
    out = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr[-2000:]
    kernels = [line.split() for line in out.stdout.splitlines()]
    assert len({name for name, _, _ in kernels}) == 11
    assert {kind for _, kind, _ in kernels} == {"float32", "float16", "bfloat16"}
    assert all(int(spilled) < 64 for _, _, spilled in kernels), kernels
