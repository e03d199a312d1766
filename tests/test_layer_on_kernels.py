"""The layer on kernels: as without them, from run to run, and in one graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kernels import check, needs_kernels
from textures import pair, texture
from voxelopt_layers import VoxelOptLayer, cost_entropy, exponentiate, native, warp
from voxelopt_layers.presets import PRESETS

needs_graphs = pytest.mark.skipif(
    torch.__version__ < "2.8", reason="the graphs of older PyTorch do not hold the layer"
)


@needs_kernels
@pytest.mark.parametrize("preset", [None, *sorted(PRESETS)])
@pytest.mark.parametrize("shape", [(24, 30, 20), (41, 36)])
def test_the_layer_finds_the_same_with_and_without_kernels(preset, shape, smooth_velocity):
    fixed, moving, _ = pair(shape, smooth_velocity)
    layer = VoxelOptLayer() if preset is None else VoxelOptLayer.from_preset(preset)
    mask = torch.ones(1, 1, *shape)
    mask[..., :5] = 0
    masked: dict[str, Any] = {"fixed_mask": mask, "moving_mask": mask}
    for options in ({}, masked):
        solution = layer.solve(fixed, moving, **options)
        with native.set_aside():
            reference = layer.solve(fixed, moving, **options)
        difference = (solution.displacement - reference.displacement).abs()
        # A voxel whose best two offsets are equal to rounding may choose the other one.
        # Correlations are differences of sums, and a hard choice makes a voxel of their rounding.
        most = (5e-3, 0.05) if preset == "intensity" else (1e-3, 0.01)
        assert difference.mean() < most[0] and difference.quantile(0.99) < most[1]
        check([(solution.entropy[0], reference.entropy[0])], 1e-3)


@needs_kernels
@pytest.mark.parametrize("gradient", ["unrolled", "checkpointed", "truncated"])
@pytest.mark.parametrize("assignment", ["soft", "straight_through", "hard"])
@pytest.mark.parametrize("options", [{}, {"filter_passes": 2, "cost_filtering": False}])
def test_the_layer_has_the_same_gradients_with_and_without_kernels(gradient, assignment, options):
    torch.manual_seed(3)
    features = [4 * texture((12, 17, 19), 3) for _ in range(2)]
    layer = VoxelOptLayer(
        levels=2, warps_per_level=1, assignment=assignment, temperature=0.05, gradient=gradient,
        learnable=True, dissimilarity="l2", **options,
    )  # fmt: skip

    def gradients():
        inputs = [x.clone().requires_grad_() for x in features]
        layer.zero_grad()
        layer(*inputs).square().sum().backward()
        return [x.grad for x in [*inputs, *layer.parameters()]]

    fused = gradients()
    with native.set_aside():
        reference = gradients()
    assert any(g is not None and g.abs().max() > 0 for g in reference)
    for a, b in zip(fused, reference, strict=True):
        assert (a is None or not a.any()) == (b is None or not b.any())
        if a is not None and b is not None and b.any():
            check([(a, b)], 0.02 if assignment == "straight_through" else 2e-3)


@needs_kernels
def test_two_runs_give_the_same_bits():
    fixed, moving = texture((20, 24, 28), 4), texture((20, 24, 28), 4)
    runs = []
    for _ in range(2):
        inputs = [x.clone().requires_grad_() for x in (fixed, moving)]
        u = VoxelOptLayer()(*inputs)
        u.square().sum().backward()
        runs.append([u, *[x.grad for x in inputs]])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@needs_kernels
@pytest.mark.parametrize("boundary", ["zeros", "border"])
def test_the_number_of_threads_changes_no_field_and_gradients_by_rounding(boundary):
    fixed, moving = texture((20, 24, 28), 4), texture((20, 24, 28), 4)
    layer = VoxelOptLayer(boundary=boundary, temperature=0.1)
    threads = torch.get_num_threads()
    fields, gradients = [], []
    try:
        for number in (1, 2, 5, 16):  # more of them cut volumes into thinner slabs
            torch.set_num_threads(number)
            inputs = [x.clone().requires_grad_() for x in (fixed, moving)]
            fields.append(layer(*inputs))
            gradients.append(torch.stack(torch.autograd.grad(fields[-1].square().sum(), inputs)))
    finally:
        torch.set_num_threads(threads)
    for field, gradient in zip(fields[1:], gradients[1:], strict=True):
        assert torch.equal(field, fields[0])
        check([(gradient, gradients[0])], 1e-5)


def test_what_is_no_number_is_handed_on_and_ends_nothing():
    """An index made of NaN would end the process."""
    image = torch.randn(1, 1, 8, 8, 8)
    u = torch.zeros(1, 3, 8, 8, 8)
    u[0, 0, 0, 0, 0], u[0, :, 4, 4, 4] = 5, float("nan")
    assert warp(image, u)[0, 0, 4, 4, 4].isnan()
    assert warp(image, u)[0, 0, 1:4].isfinite().all()
    v = torch.zeros(1, 3, 8, 8, 8)
    v[0, 0, 4, 4, 4] = float("inf")
    assert not exponentiate(v).isfinite().all()
    assert warp(image, torch.full_like(u, 1e30), boundary="border").isfinite().all()
    fixed = image.clone()
    fixed[0, 0, 4, 4, 4] = float("nan")
    assert not VoxelOptLayer()(fixed, image).isfinite().all()
    assert not cost_entropy(torch.full((1, 9, 4, 4), float("nan"))).isfinite().any()


@needs_kernels
@pytest.mark.parametrize("gradient", ["unrolled", "checkpointed"])
def test_a_retained_graph_gives_every_gradient(gradient):
    layer = VoxelOptLayer(
        levels=1, warps_per_level=1, temperature=0.3, learnable=["temperature"], gradient=gradient
    )
    fixed, moving = texture((8, 8), 2), texture((8, 8), 2).requires_grad_()
    solution = layer.solve(fixed, moving)
    loss, entropy = solution.displacement.square().sum(), solution.entropy[0].sum()
    torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True)
    passes = [torch.autograd.grad(entropy, moving, retain_graph=True)[0] for _ in range(2)]
    assert passes[0].abs().max() > 0 and torch.equal(*passes)


@needs_kernels
def test_a_function_as_dissimilarity_is_called_once_for_a_cost_volume():
    """It may be random, and it may be under autocast when gradients are computed."""
    calls = []

    def dissimilarity(f, m):
        calls.append(f.dtype)
        return F.dropout((f - m).abs()).mean(1)

    features = [texture((8, 8), 2).requires_grad_() for _ in range(2)]
    layer = VoxelOptLayer(
        levels=1, warps_per_level=1, gradient="checkpointed", dissimilarity=dissimilarity
    )
    loss = layer(*features).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        loss.backward()
    assert calls == [torch.float32] * 9


@needs_graphs
@pytest.mark.parametrize("options", [{}, {"assignment": "hard"}, {"gradient": "checkpointed"}])
@needs_kernels
def test_the_layer_compiles_into_one_graph(options):
    """With values and gradients; the code generator itself is the test below's."""
    torch._dynamo.reset()
    features = [texture((10, 12, 8), 2) for _ in range(2)]
    layer = VoxelOptLayer(levels=2, warps_per_level=1, **options)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        check([(compiled(*features), layer(*features))], 1e-3)
    if options.get("assignment") == "hard":
        return
    results = []
    for function in (compiled, layer):
        inputs = [x.clone().requires_grad_() for x in features]
        function(*inputs).square().sum().backward()
        results.append([x.grad for x in inputs])
    check(list(zip(*results, strict=True)), 1e-2)


@needs_graphs
@needs_kernels
def test_the_compiled_layer_runs():
    torch._dynamo.reset()
    layer = VoxelOptLayer(levels=1, warps_per_level=1, theta=(5.0, 0.5), integration_steps=2)
    features = [texture((9, 12), 2) for _ in range(2)]
    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True)(*features)
        check([(compiled, layer(*features))], 1e-3)
