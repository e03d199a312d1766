"""Local cross-correlation as a cost volume, and sums of several dissimilarities."""

from __future__ import annotations

import itertools

import pytest
import torch

from kernels import needs_kernels
from voxelopt_layers import cost_volume, native
from voxelopt_layers.local_correlation import LEAST_VARIANCE
from voxelopt_layers.offsets import search_offsets, star_offsets

# Rows longer than a register and not a multiple of it, single slices, rows shorter than the window.
SHAPES = [(9, 6, 40), (13, 37), (1, 5, 3), (17, 4, 18)]
borders = pytest.mark.parametrize("boundary", ["zeros", "border"])


def squared(fixed, moving):
    return (fixed - moving).square().sum(1)


def patch(image, point, boundary):
    """The values of ``(*spatial)`` in the window around a point."""
    values = []
    for step in itertools.product((-1, 0, 1), repeat=image.dim()):
        at = [p + s for p, s in zip(point, step, strict=True)]
        inside = [min(max(a, 0), n - 1) for a, n in zip(at, image.shape, strict=True)]
        values.append(image[tuple(inside)] if boundary == "border" or at == inside else 0.0)
    return torch.tensor(values, dtype=image.dtype)


@pytest.mark.parametrize("shape", [(6, 7), (4, 5, 6)])
@borders
def test_it_is_the_correlation_of_the_patches(shape, boundary):
    fixed, moving = torch.randn(2, 2, 3, *shape, dtype=torch.float64)
    cost = cost_volume(fixed, moving, 2, "lncc", boundary)
    offsets = search_offsets(2, len(shape))
    assert cost.shape == (2, len(offsets), *shape)
    for x in [(0,) * len(shape), tuple(n - 1 for n in shape), tuple(n // 2 for n in shape)]:
        for i in range(0, len(offsets), 7):
            there = [a + o for a, o in zip(x, offsets[i], strict=True)]
            expected = 0.0
            for f, m in zip(fixed[1], moving[1], strict=True):
                p, q = patch(f, x, boundary), patch(m, there, boundary)
                p, q = p - p.mean(), q - q.mean()
                scale = (p.square().mean() + LEAST_VARIANCE) * (q.square().mean() + LEAST_VARIANCE)
                expected += (1 - (p * q).mean() / scale.sqrt()) / 3
            torch.testing.assert_close(cost[1, i][x], expected)


def test_contrast_and_brightness_of_one_image_do_not_matter():
    fixed, moving = torch.randn(2, 1, 1, 8, 9, 7, dtype=torch.float64)
    plain = cost_volume(fixed, moving, 1, "lncc")
    changed = cost_volume(fixed, 3 * moving + 5, 1, "lncc")
    torch.testing.assert_close(changed, plain, atol=1e-2, rtol=0)  # but for least variances
    torch.testing.assert_close(cost_volume(fixed, -moving, 1, "lncc"), 2 - plain)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernels", [False, True])
def test_several_dissimilarities_add_up(shape, kernels):
    if kernels and not native.available():
        pytest.skip("no C++ compiler here")
    kept = torch.float32 if kernels else torch.float64
    fixed, moving = torch.randn(2, 2, 3, *shape, dtype=kept)
    both = cost_volume(fixed, moving, 1, {"lncc": 2.0, "l1": 0.5, "cosine": 1.0})
    parts = [cost_volume(fixed, moving, 1, name) for name in ("lncc", "l1", "cosine")]
    torch.testing.assert_close(both, 2 * parts[0] + 0.5 * parts[1] + parts[2])


@needs_kernels
@pytest.mark.parametrize("shape", SHAPES)
@borders
@pytest.mark.parametrize(("radius", "star"), [(1, False), (2, False), (1, True)])
@pytest.mark.parametrize("kept", [torch.float32, torch.float16, torch.bfloat16])
def test_the_kernel(shape, boundary, radius, star, kept):
    fixed, moving = torch.randn(2, 2, 3, *shape)
    how = (radius, {"lncc": 1.5, "l1": 0.5}, boundary)
    cost = cost_volume(fixed, moving, *how, dtype=kept, star=star)
    expected = cost_volume(fixed.double(), moving.double(), *how, star=star)
    tolerance = {torch.float32: 5e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}[kept]
    assert cost.dtype == kept
    torch.testing.assert_close(cost.double(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("dissimilarity", ["l1", "lncc", {"cosine": 1.0, "lncc": 0.5}, squared])
@pytest.mark.parametrize("shape", [(7, 5), (6, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_star_is_a_part_of_the_cube(dissimilarity, shape, dtype):
    fixed, moving = torch.randn(2, 2, 3, *shape, dtype=dtype)
    cube = cost_volume(fixed, moving, 1, dissimilarity)
    star = cost_volume(fixed, moving, 1, dissimilarity, star=True)
    every = search_offsets(1, len(shape))
    chosen = [every.index(o) for o in star_offsets(len(shape))]
    assert len(chosen) == 2 * len(shape) + 1
    torch.testing.assert_close(star, cube[:, chosen])


@borders
@pytest.mark.parametrize("star", [False, True])
@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 3)])
def test_gradcheck(boundary, star, shape):
    maps = [torch.randn(1, 2, *shape, dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def cost(f, m):
        return cost_volume(f, m, 1, {"lncc": 1.0, "l2": 0.5}, boundary, star=star)

    assert torch.autograd.gradcheck(cost, maps, fast_mode=True)


def test_gradients_with_kernels_are_those_without():
    maps = torch.randn(2, 1, 2, 6, 7, 9)
    weights = torch.randn(1, 27, 6, 7, 9)
    found = []
    for dtype in (torch.float32, torch.float64):
        fixed, moving = (x.to(dtype).requires_grad_() for x in maps)
        cost = cost_volume(fixed, moving, 1, {"lncc": 1.0, "l1": 0.5})
        found.append(torch.autograd.grad((cost * weights.to(dtype)).sum(), (fixed, moving)))
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=1e-3)


def test_flat_patches_cost_the_same_everywhere_and_have_finite_gradients():
    flat = torch.full((1, 1, 7, 6, 20), 0.7, requires_grad=True)
    cost = cost_volume(flat, flat, 1, "lncc")
    assert torch.equal(cost, cost[:, :1].expand_as(cost))
    cost.square().sum().backward()
    assert flat.grad is not None and flat.grad.isfinite().all()


@pytest.mark.parametrize(
    ("dissimilarity", "message"),
    [
        ("mi", "dissimilarity must be one of"),
        ({"lncc": 1.0, "mi": 1.0}, "dissimilarity must be one of"),
        ({}, "dissimilarity must be one of"),
        ({"lncc": "1"}, "weights of dissimilarity must be numbers"),
        ({"lncc": float("inf")}, "weights of dissimilarity must be numbers"),
        (["l1"], "dissimilarity must be one of"),
        ({"lncc": 0.0}, "weights of dissimilarity must be numbers above 0"),
    ],
)
def test_what_is_no_dissimilarity_is_named(dissimilarity, message):
    with pytest.raises(ValueError, match=message):
        cost_volume(torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 5, 5), 1, dissimilarity)


def test_an_offset_of_the_intensities_does_not_drown_them():
    fixed, moving = torch.rand(2, 1, 1, 9, 10, 11)
    plain = cost_volume(fixed, moving, 1, "lncc")
    assert (cost_volume(fixed + 1000, moving + 1000, 1, "lncc") - plain).abs().max() < 0.02
