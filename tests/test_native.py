"""The kernels against the operators in PyTorch, in float64: values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from textures import pair, texture
from voxelopt_layers import (
    VoxelOptLayer,
    adaptive_gaussian,
    assign,
    compose,
    cost_entropy,
    cost_volume,
    exponentiate,
    native,
    warp,
)
from voxelopt_layers.fused_descent import tie_margin
from voxelopt_layers.presets import PRESETS

needs_kernels = pytest.mark.skipif(not native.available(), reason="no C++ compiler here")
needs_graphs = pytest.mark.skipif(
    torch.__version__ < "2.8", reason="the graphs of older PyTorch do not hold the layer"
)
# Rows longer than a register and not a multiple of it, single slices, rows shorter than the filter.
SHAPES = [(9, 11, 40), (13, 37), (1, 5, 3), (17, 4, 18)]
shapes = pytest.mark.parametrize("shape", SHAPES)
borders = pytest.mark.parametrize("boundary", ["zeros", "border"])


def leaf(*shape, scale=1.0):
    """Random float64 that float32 holds exactly, so that both sides see the same numbers."""
    return (torch.randn(shape) * scale).double().requires_grad_()


def single(*tensors):
    return [t.detach().float() for t in tensors]


def one(value):
    return torch.tensor([value])


def check(pairs, tolerance=1e-4):
    for actual, expected in pairs:
        error = (actual - expected).abs().max() / expected.abs().max().clamp_min(1e-20)
        assert error < tolerance, error


@pytest.mark.usefixtures("kernels")
@shapes
@borders
@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("dissimilarity", ["l1", "l2"])
def test_cost_volume(shape, boundary, radius, dissimilarity):
    fixed, moving = leaf(2, 3, *shape), leaf(2, 3, *shape)
    expected = cost_volume(fixed, moving, radius, dissimilarity, boundary)
    grad = torch.randn_like(expected)
    by_fixed, by_moving = torch.autograd.grad(expected, (fixed, moving), grad)
    options = (radius, dissimilarity == "l2", boundary == "border", 1 / 3)
    f, m, g = single(fixed, moving, grad)
    cost, gf, gm = torch.empty_like(g), torch.zeros_like(f), torch.zeros_like(m)
    native.cost_volume(f, m, cost, *options)
    native.cost_volume_backward(f, m, g, gf, gm, *options)
    check([(cost, expected), (gf, by_fixed), (gm, by_moving)], 1e-5)


@pytest.mark.usefixtures("kernels")
@shapes
@pytest.mark.parametrize("floor", [0.0, 1e-2])
def test_entropy(shape, floor):
    cost = leaf(2, 3 ** len(shape), *shape)
    beta = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    expected = cost_entropy(cost, beta, floor)
    grad = torch.rand_like(expected)
    by_cost, by_beta = torch.autograd.grad(expected, (cost, beta), grad)
    c, g = single(cost, grad)
    entropy, gb = torch.empty_like(g), torch.empty(1)
    native.entropy(c, entropy, one(0.4), floor)
    gc = torch.empty_like(c)
    native.entropy_backward(c, g, gc, gb, one(0.4), floor, add=False)
    check([(entropy, expected), (gc, by_cost), (gb, by_beta)])
    native.entropy_backward(c, g, gc, gb, one(0.4), floor, add=True)
    check([(gc, 2 * by_cost), (gb, by_beta)])
    native.entropy_backward(c, g, c, gb, one(0.4), floor, add=False)  # in place
    check([(c, by_cost), (gb, by_beta)])


@pytest.mark.usefixtures("kernels")
@shapes
@borders
@pytest.mark.parametrize("radius", [1, 3])
@pytest.mark.parametrize("channels", [3, 9])
def test_adaptive_gaussian(shape, boundary, radius, channels):
    image = leaf(2, channels, *shape)
    sigma = (torch.rand(2, 1, *shape) * 1.5 + 0.05).double().requires_grad_()
    expected = adaptive_gaussian(image, sigma, radius, 1, boundary)
    grad = torch.randn_like(expected)
    by_image, by_sigma = torch.autograd.grad(expected, (image, sigma), grad)
    i, s, g = single(image, sigma, grad)
    in_place, apart, gs = i.clone(), torch.empty_like(i), torch.zeros_like(s)
    native.smooth(None, s, in_place, radius, boundary == "border")
    native.smooth(i, s, apart, radius, boundary == "border")
    native.smooth_backward(i, s, g, gs, radius, boundary == "border")
    check([(in_place, expected), (apart, expected), (g, by_image), (gs, by_sigma)])
    twice = adaptive_gaussian(image, sigma, radius, 2, boundary)
    check([(adaptive_gaussian(i, s, radius, 2, boundary), twice)])


@pytest.mark.usefixtures("kernels")
@shapes
@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("coupled", [False, True])
def test_soft_assignment(shape, radius, coupled):
    d = len(shape)
    cost = leaf(2, (2 * radius + 1) ** d, *shape)
    u = leaf(2, d, *shape) if coupled else None
    coupling, temperature = (torch.tensor(x).double().requires_grad_() for x in (0.2, 0.3))
    expected = assign(cost, u, coupling, "soft", temperature)
    grad = torch.randn_like(expected)
    inputs = (cost, coupling, temperature, *([] if u is None else [u]))
    by_cost, by_coupling, by_temperature, *by_u = torch.autograd.grad(expected, inputs, grad)
    c, g = single(cost, grad)
    smooth = None if u is None else u.detach().float()
    v, gu, scalars = torch.empty_like(g), torch.empty_like(g), torch.zeros(2)
    native.assign(c, smooth, v, native.SOFT, one(0.2), one(0.3), torch.zeros(2))
    for first in (True, False):  # written, then added to what is there
        gc = torch.full_like(c, 1e9 if first else 0.0)
        scalars.zero_()
        native.assign_backward(c, smooth, g, gc, gu, scalars, one(0.2), one(0.3), first)
        check([(v, expected), (gc, by_cost), *([] if u is None else [(gu, by_u[0])])])
        check([(scalars[0], by_coupling), (scalars[1], by_temperature)], 1e-3)


@pytest.mark.usefixtures("kernels")
@shapes
@pytest.mark.parametrize("ties", ["mean", "sum"])
def test_hard_assignment_with_ties(shape, ties):
    cost = (torch.randn(2, 3 ** len(shape), *shape) * 3).round() / 3
    u = torch.randn(2, len(shape), *shape)
    with native.set_aside():
        expected = assign(cost, u, 0.2, "hard", ties=ties)
    check([(assign(cost, u, 0.2, "hard", ties=ties), expected)], 1e-6)
    v = torch.empty_like(u)
    kind = native.HARD_MEAN if ties == "mean" else native.HARD_SUM
    native.assign(cost, u, v, kind, one(0.2), one(1.0), tie_margin(cost))
    check([(v, expected)], 1e-6)


@pytest.mark.usefixtures("kernels")
@shapes
@borders
@pytest.mark.parametrize("reach", [1, 3])
def test_warp(shape, boundary, reach):
    """Far from whole voxels, where the gradient jumps; within one voxel and beyond."""
    image = leaf(2, 3, *shape)
    steps = torch.randint(-4 * reach, 4 * reach, (2, len(shape), *shape))
    u = (steps * 0.25 + 0.125).double().requires_grad_()
    expected = warp(image, u, boundary=boundary)
    grad = torch.randn_like(expected)
    by_image, by_u = torch.autograd.grad(expected, (image, u), grad)
    i, displacement, g = single(image, u, grad)
    out, gi, gu = torch.empty_like(i), torch.zeros_like(i), torch.zeros_like(displacement)
    native.warp(i, displacement, out, boundary == "border", False)
    native.warp_backward(i, displacement, g, gi, gu, boundary == "border")
    check([(out, expected), (gi, by_image), (gu, by_u)])


@pytest.mark.usefixtures("kernels")
@shapes
@pytest.mark.parametrize("strength", [0.9, 5.0])
@pytest.mark.parametrize("steps", [1, 4, 7])
def test_exponential_and_composition(shape, strength, steps, smooth_velocity):
    velocity = smooth_velocity(shape, strength).float().double().requires_grad_()
    other = smooth_velocity(shape, 2.0).float().double().requires_grad_()
    results = []
    for dtype in (torch.float64, torch.float32):
        v, o = (x.detach().to(dtype).requires_grad_() for x in (velocity, other))
        field = compose(o, exponentiate(v, steps))
        results.append([field, *torch.autograd.grad(field.square().sum(), (v, o))])
    check(list(zip(results[1], results[0], strict=True)), 2e-3)


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
@borders
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


def test_kernels_are_for_float32_on_cpu():
    x = torch.zeros(1, 1, 4, 4)
    assert native.suits(x) == native.available()
    assert not native.suits(x, x.double())
    assert not native.suits(x.to("meta"))
    with native.set_aside():
        assert not native.suits(x)


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


def test_shapes_that_the_kernels_do_not_take_are_left_to_pytorch():
    image, sigma = torch.randn(3, 2, 30, 30), torch.rand(1, 1, 30, 30) + 0.3
    expected = torch.cat([adaptive_gaussian(i[None], sigma) for i in image])
    check([(adaptive_gaussian(image, sigma), expected)])
    with pytest.raises(ValueError, match="smooth must be"):
        assign(torch.randn(3, 9, 30, 30), torch.randn(1, 2, 20, 30), 0.5)
    assert warp(torch.zeros(0, 1, 4, 4), torch.zeros(0, 2, 4, 4)).shape == (0, 1, 4, 4)
    cost = torch.rand(1, 9, 4, 4)
    assert cost_entropy(cost, torch.rand(1, 4, 4) + 0.1).shape == (1, 1, 4, 4)


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
