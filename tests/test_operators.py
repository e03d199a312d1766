"""Cost volume, entropy, adaptive Gaussian and assignment against naive references."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from voxelopt_layers import adaptive_gaussian, assign, cost_entropy, cost_volume, entropy_to_sigma
from voxelopt_layers.message_passing import filter_with_weights, gaussian_weights
from voxelopt_layers.offsets import search_offsets
from voxelopt_layers.self_similarity import mind_ssc

SHAPES = [(6, 5), (4, 5, 6)]
NAIVE = {
    "l1": lambda f, m: (f - m).abs().mean(),
    "l2": lambda f, m: (f - m).square().mean(),
    "cosine": lambda f, m: 1 - F.cosine_similarity(f, m, dim=0),
    "ncc": lambda f, m: 1 - torch.corrcoef(torch.stack([f, m]))[0, 1],
}


def features(shape, channels=3, batch=2):
    return torch.randn(batch, channels, *shape, dtype=torch.float64)


def feature_at(image, point, boundary):
    """Feature vector of ``(C, *spatial)`` at a voxel that may lie outside."""
    inside = [min(max(p, 0), n - 1) for p, n in zip(point, image.shape[1:], strict=True)]
    if boundary == "zeros" and inside != list(point):
        return torch.zeros_like(image[(slice(None), *inside)])
    return image[(slice(None), *inside)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("dissimilarity", ["l1", "l2"])
@pytest.mark.parametrize("boundary", ["zeros", "border"])
def test_cost_volume_is_the_dissimilarity_at_each_offset(shape, radius, dissimilarity, boundary):
    fixed, moving = features(shape), features(shape)
    cost = cost_volume(fixed, moving, radius, dissimilarity, boundary)
    offsets = search_offsets(radius, len(shape))
    assert cost.shape == (2, len(offsets), *shape)
    assert not any(offsets[len(offsets) // 2])
    for x in itertools.product(*[range(0, n, 2) for n in shape]):
        for i, o in enumerate(offsets):
            neighbour = feature_at(moving[1], [a + b for a, b in zip(x, o, strict=True)], boundary)
            expected = NAIVE[dissimilarity](fixed[1][(slice(None), *x)], neighbour)
            torch.testing.assert_close(cost[1, i][x], expected)


@pytest.mark.parametrize("dissimilarity", ["cosine", "ncc"])
def test_normalised_dissimilarities(dissimilarity):
    fixed, moving = features((5, 6), 20), features((5, 6), 20)
    cost = cost_volume(fixed, moving, 1, dissimilarity)
    expected = NAIVE[dissimilarity](fixed[0, :, 2, 3], moving[0, :, 3, 2])
    torch.testing.assert_close(cost[0, search_offsets(1, 2).index((1, -1)), 2, 3], expected)
    assert torch.equal(cost_volume(0 * fixed, 0 * fixed, 1, dissimilarity), torch.zeros_like(cost))


@pytest.mark.parametrize("shape", [(7, 8), (6, 5, 7)])
def test_self_similarity_is_compared_channel_by_channel(shape):
    fixed, moving = torch.rand(2, 2, 3, *shape, dtype=torch.float64)
    cost = cost_volume(fixed, moving, 1, "mind")
    channels = [[mind_ssc(x[:, c : c + 1], 1, 1) for c in range(3)] for x in (fixed, moving)]
    expected = sum(cost_volume(f, m, 1, "l1") for f, m in zip(*channels, strict=True)) / 3
    torch.testing.assert_close(cost, expected)
    contrast = torch.tensor([2.0, -0.5, 30.0]).reshape(3, *[1] * len(shape))
    torch.testing.assert_close(cost_volume(fixed, contrast * moving + 4, 1, "mind"), cost)


def test_a_function_is_a_dissimilarity():
    fixed, moving = features((5, 6)), features((5, 6))
    cost = cost_volume(fixed, moving, 1, lambda f, m: (f - m).abs().mean(1), "border")
    torch.testing.assert_close(cost, cost_volume(fixed, moving, 1, "l1", "border"))
    with pytest.raises(ValueError, match="one cost per voxel, it returned"):
        cost_volume(fixed, moving, 1, lambda f, m: (f - m).abs())


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_leave_no_preference(shape):
    fixed, moving = features(shape), features(shape)
    mask = torch.ones(2, 1, *shape, dtype=torch.float64)
    hole = (slice(None), 0, *[2] * len(shape))
    mask[hole] = 0
    plain = cost_volume(fixed, moving)
    for name, reach in (("fixed_mask", 0), ("moving_mask", 1)):
        masks = {name: mask}
        masked = cost_volume(fixed, moving, **masks)  # pyright: ignore[reportArgumentType]
        silent = torch.zeros(2, 1, *shape, dtype=torch.bool)
        silent[(slice(None), 0, *[slice(2 - reach, 3 + reach)] * len(shape))] = True
        torch.testing.assert_close(masked, torch.where(silent, 0, plain))


@pytest.mark.parametrize("dissimilarity", ["l1", "l2", "cosine", "ncc", "mind"])
def test_cost_volume_gradcheck(dissimilarity):
    fixed, moving = (features((3, 4), 3, 1).requires_grad_() for _ in range(2))
    mask = torch.rand(1, 1, 3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda f, m: cost_volume(f, m, 1, dissimilarity, "border", mask, mask), (fixed, moving)
    )


@pytest.mark.parametrize("floor", [0.0, 0.02])
def test_entropy_is_that_of_the_softmax(floor):
    cost = torch.rand(2, 9, 3, 2, dtype=torch.float64)
    p = torch.softmax(-cost / 0.07, dim=1).clamp_min(floor)
    p = p / p.sum(1, keepdim=True)
    expected = -(p * p.log()).sum(1, keepdim=True)
    torch.testing.assert_close(cost_entropy(cost, 0.07, floor), expected)
    flat = cost_entropy(torch.zeros(1, 27, 2, 2, 2))
    torch.testing.assert_close(flat, torch.full_like(flat, math.log(27)))
    assert torch.autograd.gradcheck(lambda c: cost_entropy(c, 0.07, floor), cost.requires_grad_())


def test_sigma_follows_the_entropy_of_its_own_sample():
    entropy = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    entropy[1] *= 3
    sigma = entropy_to_sigma(entropy, 1.5)
    for b in range(2):
        expected = 1.5 * torch.log(entropy[b] / entropy[b].max() + 1)
        torch.testing.assert_close(sigma[b], expected.clamp_min(0.05))
    narrow = entropy_to_sigma(entropy, sigma_range=(0.1, 0.5))
    torch.testing.assert_close(narrow.amin((1, 2, 3)), torch.full((2,), 0.1, dtype=torch.float64))
    torch.testing.assert_close(narrow.amax((1, 2, 3)), torch.full((2,), 0.5, dtype=torch.float64))
    middle = entropy_to_sigma(torch.tensor([0.0, 1.0, 2.0]).reshape(1, 1, 3, 1), 1, (0.0, 1.0))
    torch.testing.assert_close(middle[0, 0, 1, 0].item(), math.log2(1.5))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("boundary", ["zeros", "border"])
@pytest.mark.parametrize("grad", [False, True])
def test_adaptive_gaussian_is_a_weighted_sum_along_each_axis(shape, boundary, grad):
    image, sigma = features(shape), 0.1 + 2 * torch.rand(2, 1, *shape, dtype=torch.float64)
    radius, expected = 2, image.clone()
    for axis in range(len(shape)):
        before, expected = expected, torch.zeros_like(image)
        for x in itertools.product(*map(range, shape)):
            j = torch.arange(-radius, radius + 1, dtype=torch.float64)
            w = torch.exp(-j.square() / (2 * sigma[1, 0][x] ** 2))
            for step, weight in zip(range(-radius, radius + 1), w / w.sum(), strict=True):
                y = [p + step * (a == axis) for a, p in enumerate(x)]
                expected[1][(slice(None), *x)] += weight * feature_at(before[1], y, boundary)
    smooth = adaptive_gaussian(image.requires_grad_(grad), sigma, radius, 1, boundary)
    torch.testing.assert_close(smooth[1], expected[1])


def test_adaptive_gaussian_passes_out_and_gradients():
    image, sigma = features((4, 5)), 0.3 + torch.rand(2, 1, 4, 5, dtype=torch.float64)
    twice = adaptive_gaussian(adaptive_gaussian(image, sigma), sigma)
    torch.testing.assert_close(adaptive_gaussian(image, sigma, passes=2), twice)
    ones = torch.ones_like(image)
    torch.testing.assert_close(adaptive_gaussian(ones, sigma), ones)
    leaf = image.clone().requires_grad_()
    sigma.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, s: adaptive_gaussian(x, s, 2), (leaf, sigma))
    with torch.no_grad():
        weights = gaussian_weights(sigma, radius=3)
        assert filter_with_weights(image, weights, passes=2, out=image) is image
    torch.testing.assert_close(image, twice.detach())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("coupling", [0.0, 0.3])
def test_assignment_minimises_the_energy(shape, coupling):
    d = len(shape)
    cost = torch.rand(2, 3**d, *shape, dtype=torch.float64)
    u = torch.randn(2, d, *shape, dtype=torch.float64)
    offsets = torch.tensor(search_offsets(1, d), dtype=torch.float64)
    squared = (offsets.reshape(1, -1, d, *[1] * d) - u[:, None]).square().sum(2)
    energy = cost + coupling * squared
    torch.testing.assert_close(assign(cost, u, coupling), offsets[energy.argmin(1)].movedim(-1, 1))
    soft = torch.einsum("bk...,kd->bd...", torch.softmax(-energy / 0.1, 1), offsets)
    torch.testing.assert_close(assign(cost, u, coupling, "soft", 0.1), soft)
    straight = assign(cost.requires_grad_(), u, coupling, "straight_through", 0.1)
    torch.testing.assert_close(straight.detach(), assign(cost, u, coupling).detach())
    (gradient,) = torch.autograd.grad(straight.square().sum() / 2, cost)
    (expected,) = torch.autograd.grad(
        (assign(cost, u, coupling, "soft", 0.1) * straight.detach()).sum(), cost
    )
    torch.testing.assert_close(gradient, expected)


def test_soft_assignment_tends_to_hard_ties_included():
    cost = torch.rand(1, 27, 4, 4, 4, dtype=torch.float64)
    cost[:, :, 0] = 0.5  # all offsets tie
    cost[:, [3, 7], 1] = -1  # two offsets tie
    hard = assign(cost)
    soft = [assign(cost, assignment="soft", temperature=t) for t in (0.1, 1e-3, 1e-5)]
    errors = [(estimate - hard).abs().max() for estimate in soft]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6
    assert (hard[:, :, 0] == 0).all()
    offsets = torch.tensor(search_offsets(1, 3), dtype=torch.float64)
    torch.testing.assert_close(hard[0, :, 1, 0, 0], offsets[[3, 7]].mean(0))
    torch.testing.assert_close(assign(cost, ties="sum")[0, :, 1, 0, 0], offsets[[3, 7]].sum(0))


def test_assignment_gradcheck():
    cost = torch.rand(1, 9, 3, 4, dtype=torch.float64, requires_grad=True)
    u = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    scalars = [torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in (0.3, 0.2)]
    assert torch.autograd.gradcheck(
        lambda c, v, k, t: assign(c, v, k, "soft", t), (cost, u, *scalars)
    )


IMAGE, MASK = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
COST, FIELD = torch.zeros(2, 9, 4, 4), torch.zeros(2, 2, 4, 4)


@pytest.mark.parametrize(
    ("operator", "arguments", "message"),
    [
        (cost_volume, (IMAGE, IMAGE[..., 1:]), "features must both be .* of one shape"),
        (cost_volume, (IMAGE.int(), IMAGE), "fixed features must be .* floating point, got"),
        (cost_volume, (IMAGE, IMAGE.numpy()), "moving features must be .* got ndarray"),
        (cost_volume, (IMAGE[:0], IMAGE[:0]), "no axis of length 0"),
        (cost_volume, (IMAGE, IMAGE, -1), "radius must be a whole number of at least 0, got -1"),
        (cost_volume, (IMAGE, IMAGE, 1.5), "radius must be a whole number of at least 0, got 1.5"),
        (cost_volume, (IMAGE, IMAGE, 1, "l3"), "dissimilarity must be"),
        (cost_volume, (IMAGE, IMAGE, 1, "l1", "reflect"), "boundary must be one of"),
        (
            cost_volume,
            (IMAGE, IMAGE, 1, "l1", "border", MASK[:, 0]),
            r"fixed_mask must be \(2, 1, 4",
        ),
        (
            cost_volume,
            (IMAGE, IMAGE, 1, "l1", "border", None, MASK[:1]),
            r"moving_mask must be \(2, 1, 4",
        ),
        (assign, (COST[:, :8],), r"\(2k \+ 1\)\^2 offsets, not 8"),
        (assign, (COST, FIELD.movedim(1, -1)), r"smooth must be \(2, 2, 4, 4\), for costs"),
        (assign, (COST, FIELD[0]), r"smooth must be .* got \(2, 4, 4\)"),
        (assign, (COST, None, 0.0, "argmin"), "assignment must be one of"),
        (assign, (COST, None, 0.0, "hard", 1.0, "first"), "ties must be one of"),
        (adaptive_gaussian, (COST, MASK[:, 0]), r"sigma must be \(2, 1, 4, 4\), one width"),
        (adaptive_gaussian, (COST, 1.0), "sigma must be a tensor of real numbers, got float"),
        (adaptive_gaussian, (COST, MASK, 3, 1, "reflect"), "boundary must be one of"),
    ],
)
def test_bad_arguments_are_named(operator, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        operator(*arguments)


def test_masks_of_a_cost_volume_may_be_bool():
    fixed, moving = features((4, 5)), features((4, 5))
    mask = torch.rand(2, 1, 4, 5) > 0.3
    expected = cost_volume(fixed, moving, fixed_mask=mask.double(), moving_mask=mask.double())
    assert torch.equal(cost_volume(fixed, moving, fixed_mask=mask, moving_mask=mask), expected)
