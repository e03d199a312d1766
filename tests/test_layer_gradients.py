"""The whole layer: the gradients that come back, and the memory it takes."""

from __future__ import annotations

import contextlib
import gc

import pytest
import torch

from kernels import needs_kernels
from memory import TrackMemory
from textures import pair, texture
from voxelopt_layers import VoxelOptLayer, native
from voxelopt_layers.fused import Remade
from voxelopt_layers.presets import PRESETS


@pytest.mark.parametrize("case", ["constant", "zero", "masked", "scaled"])
@pytest.mark.parametrize("assignment", ["hard", "soft", "straight_through"])
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_no_signal_gives_a_zero_field_and_finite_gradients(case, assignment, preset):
    shape = (12, 14, 9)
    fixed = moving = torch.full((1, 2, *shape), 3.0)
    options = {}
    if case == "zero":
        fixed = moving = torch.zeros_like(fixed)
    if case == "masked":
        fixed, moving = torch.randn(1, 2, *shape), torch.randn(1, 2, *shape)
        nothing = torch.zeros(1, 1, *shape)
        options = {"fixed_mask": nothing, "moving_mask": nothing}
    if case == "scaled":  # equal costs, not zero: no offset is better than another
        fixed = 2 * moving
    fixed, moving = fixed.clone().requires_grad_(), moving.clone().requires_grad_()
    layer = VoxelOptLayer.from_preset(preset, assignment=assignment, learnable=True)
    u = layer(fixed, moving, **options)
    # Features that are 0 outside make an edge of the border of a constant map.
    if layer.boundary == "border" or case in ("zero", "masked"):
        assert u.abs().max() < 1e-5
    (u.square().sum() + u.sum()).backward()
    leaves = [fixed, moving, *layer.parameters()]
    assert assignment == "hard" or (fixed.grad is not None and moving.grad is not None)
    assert all(x.grad is None or x.grad.isfinite().all() for x in leaves)


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("assignment", ["soft", "straight_through"])
def test_checkpointing_keeps_the_gradients_and_saves_memory(assignment, kernels):
    gradients, peaks = {}, {}
    for mode in ("unrolled", "checkpointed", "truncated"):
        fixed, moving = (texture((24, 24, 24), 3).requires_grad_() for _ in range(2))
        torch.manual_seed(1)
        with torch.no_grad():
            fixed.copy_(texture((24, 24, 24), 3))
            moving.copy_(texture((24, 24, 24), 3))
        layer = VoxelOptLayer(assignment=assignment, gradient=mode, learnable=True)
        aside = contextlib.nullcontext() if kernels else native.set_aside()
        with aside, TrackMemory() as memory:
            layer(fixed, moving).square().mean().backward()
        peaks[mode] = memory.peak
        gradients[mode] = [fixed.grad, moving.grad, *[p.grad for p in layer.parameters()]]
    assert len(gradients["unrolled"]) == 6
    for a, b in zip(gradients["unrolled"], gradients["checkpointed"], strict=True):
        assert a is not None and a.norm() > 0
        torch.testing.assert_close(a, b)
    # Kernels keep so little that there is less to save.
    saved = 0.75 if kernels and native.available() else 0.5
    assert peaks["checkpointed"] < saved * peaks["unrolled"]
    assert peaks["truncated"] < peaks["unrolled"]
    assert all(g is not None and g.norm() > 0 for g in gradients["truncated"])


@pytest.mark.parametrize("gradient", ["unrolled", "checkpointed"])
def test_gradcheck_of_a_whole_small_layer(gradient):
    layer = VoxelOptLayer(
        levels=2, assignment="soft", temperature=0.1, learnable=True, gradient=gradient,
        integration_steps=2, theta=(5.0, 0.5), warps_per_level=1, dissimilarity="l2",
    ).double()  # fmt: skip
    fixed, moving = (torch.randn(1, 2, 8, 7, dtype=torch.float64, requires_grad=True) for _ in "fm")
    parameters = dict(layer.named_parameters())

    def run(f, m, *values):
        state = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(layer, state, (f, m))

    assert torch.autograd.gradcheck(run, (fixed, moving, *parameters.values()))


def test_training_the_solver_parameters_lowers_the_error(smooth_velocity):
    fixed, moving, truth = pair((20, 20), smooth_velocity)
    layer = VoxelOptLayer(assignment="soft", learnable=True, temperature=0.3, alpha=0.5, levels=3)
    torch.testing.assert_close(layer.solver.value("alpha").item(), 0.5)
    optimiser = torch.optim.Adam(layer.parameters(), 0.1)
    losses = []
    for _ in range(15):
        loss = (layer(fixed, moving) - truth).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all((layer.solver.value(name) > 0).all() for name in ("alpha", "theta", "beta"))


def test_inference_holds_nothing_larger_than_the_cost_volume():
    voxel_bytes = 4 * 72**3
    for channels in (1, 8, 40):
        fixed, moving = texture((72, 72, 72), channels), texture((72, 72, 72), channels)
        with torch.no_grad(), TrackMemory() as memory:
            VoxelOptLayer(levels=1)(fixed, moving)
        assert memory.largest <= max(27, channels) * voxel_bytes  # the warped map has all channels
        assert memory.peak < (2.5 * 27 + 4 * channels) * voxel_bytes


@needs_kernels
@pytest.mark.parametrize("adaptive", [True, False])
def test_no_cost_volume_outlives_the_backward_pass(adaptive):
    fixed, moving = texture((9, 10, 11), 2), texture((9, 10, 11), 2)
    layer = VoxelOptLayer(gradient="checkpointed", adaptive=adaptive)
    u = layer(fixed.requires_grad_(), moving)
    u.sum().backward()
    # (isinstance would ask weak proxies of what is gone.)
    remade = [x for x in gc.get_objects() if type(x) is Remade]
    assert remade and all(x._cost is None for x in remade)
