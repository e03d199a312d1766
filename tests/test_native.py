"""The kernels against the operators in PyTorch, in float64: values and gradients."""

from __future__ import annotations

import pytest
import torch

from kernels import check
from voxelopt_layers import (
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


def test_kernels_are_for_float32_on_cpu():
    x = torch.zeros(1, 1, 4, 4)
    assert native.suits(x) == native.available()
    assert not native.suits(x, x.double())
    assert not native.suits(x.to("meta"))
    with native.set_aside():
        assert not native.suits(x)


def test_shapes_that_the_kernels_do_not_take_are_left_to_pytorch():
    image, sigma = torch.randn(3, 2, 30, 30), torch.rand(1, 1, 30, 30) + 0.3
    expected = torch.cat([adaptive_gaussian(i[None], sigma) for i in image])
    check([(adaptive_gaussian(image, sigma), expected)])
    with pytest.raises(ValueError, match="smooth must be"):
        assign(torch.randn(3, 9, 30, 30), torch.randn(1, 2, 20, 30), 0.5)
    assert warp(torch.zeros(0, 1, 4, 4), torch.zeros(0, 2, 4, 4)).shape == (0, 1, 4, 4)
    cost = torch.rand(1, 9, 4, 4)
    assert cost_entropy(cost, torch.rand(1, 4, 4) + 0.1).shape == (1, 1, 4, 4)
