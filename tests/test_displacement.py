"""Warping, composition, exponential, inverse and Jacobian against naive references."""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from voxelopt_layers import (
    compose,
    exponentiate,
    invert,
    jacobian_determinant,
    native,
    resize_displacement,
    sample,
    warp,
)

SHAPES = [(9, 7), (6, 7, 8)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("boundary", "scipy_mode"), [("zeros", "grid-constant"), ("border", "nearest")]
)
def test_warp_matches_scipy(shape, boundary, scipy_mode):
    moving = torch.randn(2, 3, *shape, dtype=torch.float64)
    u = 2 * torch.randn(2, len(shape), *shape, dtype=torch.float64)
    warped = warp(moving, u, boundary=boundary)
    grid = np.indices(shape)
    for b, c in itertools.product(range(2), range(3)):
        expected = map_coordinates(
            moving[b, c].numpy(), grid + u[b].numpy(), order=1, mode=scipy_mode
        )
        np.testing.assert_allclose(warped[b, c].numpy(), expected, atol=1e-9)


def test_warp_pulls_back_along_the_axis_of_the_channel():
    moving = torch.arange(5.0).reshape(1, 1, 5, 1, 1).expand(1, 1, 5, 4, 3)
    u = torch.zeros(1, 3, 5, 4, 3)
    u[:, 0] = 1
    assert warp(moving, u, boundary="border")[0, 0, :, 0, 0].tolist() == [1, 2, 3, 4, 4]


def test_nearest_keeps_labels_and_their_type():
    labels = torch.randint(0, 14, (1, 1, 6, 6, 6), dtype=torch.int32)
    labels[0, 0, 0, 0, 0] = 614454277  # float32 does not hold it
    warped = warp(labels, 0.3 * torch.ones(1, 3, 6, 6, 6), mode="nearest")
    assert warped.dtype == torch.int32
    assert torch.equal(warped, labels)


@pytest.mark.parametrize("shape", SHAPES)
def test_compose_is_two_warps(shape, smooth_velocity):
    """On a linear image, which linear interpolation represents exactly."""
    d = len(shape)
    ramp = torch.tensor(np.indices(shape), dtype=torch.float64)[None].sum(1, keepdim=True)
    outer, inner = 0.4 * smooth_velocity(shape), 0.4 * smooth_velocity(shape)
    twice = warp(warp(ramp, outer, boundary="border"), inner, boundary="border")
    once = warp(ramp, compose(outer, inner), boundary="border")
    inside = (..., *[slice(3, -3)] * d)
    torch.testing.assert_close(twice[inside], once[inside], atol=0.05, rtol=0)
    zero = torch.zeros_like(inner)
    torch.testing.assert_close(compose(zero, inner), inner)
    torch.testing.assert_close(compose(outer, zero), outer)


def test_exponential_of_a_constant_velocity_is_that_translation():
    v = torch.full((1, 2, 12, 12), 0.7)
    torch.testing.assert_close(exponentiate(v), v)


def test_exponential_matches_euler_steps(smooth_velocity):
    v = smooth_velocity((14, 12, 13))
    u = torch.zeros_like(v)
    for _ in range(2000):  # d phi / dt = v(phi)
        u = u + warp(v, u, boundary="border") / 2000
    error = (exponentiate(v) - u).norm(dim=1)
    assert error.mean() < 0.03 * v.norm(dim=1).mean()


def test_exponential_of_the_negated_velocity_is_the_inverse(smooth_velocity):
    v = smooth_velocity((20, 22, 18))
    residual = compose(exponentiate(v), exponentiate(-v))
    assert residual[..., 3:-3, 3:-3, 3:-3].norm(dim=1).mean() < 0.03 < v.norm(dim=1).mean()


def test_invert_solves_the_fixed_point(smooth_velocity):
    u = exponentiate(smooth_velocity((20, 22), 1.0))
    assert compose(u, invert(u))[..., 3:-3, 3:-3].abs().max() < 0.05


@pytest.mark.parametrize("shape", SHAPES)
def test_jacobian_of_an_affine_map_is_its_determinant(shape):
    d = len(shape)
    matrix = torch.eye(d, dtype=torch.float64) + 0.2 * torch.randn(d, d, dtype=torch.float64)
    grid = torch.tensor(np.indices(shape), dtype=torch.float64)
    u = torch.einsum("ij,j...->i...", matrix - torch.eye(d), grid)[None]
    expected = torch.linalg.det(matrix).expand(1, *shape)
    torch.testing.assert_close(jacobian_determinant(u), expected)


def test_jacobian_sees_a_fold_and_a_single_slice():
    u = torch.zeros(1, 2, 10, 1)
    u[:, 0, 5:] = -4
    assert (jacobian_determinant(u) <= 0).any()
    assert torch.equal(jacobian_determinant(torch.zeros(1, 3, 4, 4, 1)), torch.ones(1, 4, 4, 1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("boundary", ["zeros", "border"])
@pytest.mark.parametrize("size", [1e10, 3.4e38, float("inf")])
def test_what_leads_out_of_the_volume_is_outside_however_far(shape, boundary, size):
    image = torch.randn(1, 1, *shape)
    u = torch.full((1, len(shape), *shape), -size, requires_grad=True)
    corner = image[(..., *[slice(0, 1)] * len(shape))] if boundary == "border" else torch.zeros(1)
    for kernels in (contextlib.nullcontext, native.set_aside):
        with kernels():
            out = warp(image, u, boundary=boundary)
        assert torch.equal(out, corner.expand_as(out))
        (by_u,) = torch.autograd.grad(out.sum(), u)
        assert torch.equal(by_u, torch.zeros_like(u))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_jacobian_of_what_float32_does_not_hold_is_a_number(shape):
    u = (3e38 * torch.randn(1, len(shape), *shape).sign()).requires_grad_()
    determinant = jacobian_determinant(u)
    determinant.mean().backward()
    assert determinant.isfinite().all() and u.grad is not None and u.grad.isfinite().all()


@pytest.mark.parametrize("align_corners", [False, True])
def test_resized_displacement_moves_as_far(align_corners):
    """A linear field stays the same map in units of the extent, whatever the number of voxels."""
    scale = (lambda n: n - 1) if align_corners else (lambda n: n)
    old, new = (11, 6), (22, 6)
    u = torch.zeros(1, 2, *old, dtype=torch.float64)
    u[:, 0], u[:, 1] = 0.1 * scale(old[0]), 0.2 * scale(old[1])
    resized = resize_displacement(u, new, align_corners)
    torch.testing.assert_close(resized[:, 0], torch.full_like(resized[:, 0], 0.1 * scale(new[0])))
    torch.testing.assert_close(resized[:, 1], torch.full_like(resized[:, 1], 0.2 * scale(new[1])))


@pytest.mark.parametrize("operator", [warp, compose])
def test_gradcheck(operator, smooth_velocity):
    first = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    u = (0.3 * smooth_velocity((5, 6)) + 0.05).requires_grad_()
    assert torch.autograd.gradcheck(operator, (first, u))
    assert torch.autograd.gradcheck(lambda v: exponentiate(v, 3), (u,))
    assert torch.autograd.gradcheck(jacobian_determinant, (u,))


IMAGE, FIELD = torch.zeros(2, 1, 4, 5, 6), torch.zeros(2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    ("operator", "arguments", "message"),
    [
        (warp, (IMAGE, FIELD.movedim(1, -1)), r"displacement must have .* \(2, 4, 5, 6, 3\)"),
        (warp, (IMAGE, FIELD[0]), r"displacement must have shape .* got \(3, 4, 5, 6\)"),
        (warp, (IMAGE, FIELD[:, :2]), r"displacement must have .* \(2, 2, 4, 5, 6\)"),
        (warp, (IMAGE, FIELD.numpy()), "displacement must be a tensor .* got ndarray"),
        (warp, (IMAGE.numpy(), FIELD), "moving must be a tensor .* got ndarray"),
        (warp, (IMAGE[:, 0], FIELD), r"moving \(B, C, \*spatial\) .* same spatial shape"),
        (warp, (IMAGE[..., 1:], FIELD), r"same spatial shape, got \(2, 1, 4, 5, 5\) and"),
        (warp, (IMAGE, FIELD.repeat(2, 1, 1, 1, 1)), "as moving, or one, got 4 and 2"),
        (warp, (IMAGE, FIELD, "bilinear"), "mode must be one of .* got 'bilinear'"),
        (warp, (IMAGE, FIELD, "linear", "reflect"), "boundary must be one of"),
        (compose, (FIELD, FIELD[0]), "inner must have shape"),
        (compose, (FIELD[0], FIELD), "outer must have shape"),
        (compose, (FIELD[:1], FIELD), "inner must have as many samples as outer"),
        (compose, (FIELD, FIELD[..., 1:]), r"outer .* and inner .* same spatial shape"),
        (exponentiate, (FIELD.movedim(1, -1),), "velocity must have shape"),
        (exponentiate, (FIELD, -1), "steps must be a whole number of at least 0, got -1"),
        (exponentiate, (FIELD, 1.5), "steps must be a whole number of at least 0, got 1.5"),
        (invert, (FIELD[0],), "displacement must have shape"),
        (jacobian_determinant, (FIELD.movedim(1, -1),), "displacement must have shape"),
        (resize_displacement, (FIELD.movedim(1, -1), (3, 3, 3)), "displacement must have"),
        (resize_displacement, (FIELD, (3, 3)), r"shape must have 3 axes, .* got \(3, 3\)"),
        (resize_displacement, (FIELD, 3), "shape must have 3 axes, .* got 3"),
        (resize_displacement, (FIELD, (3, 0, 3)), r"shape must have .* got \(3, 0, 3\)"),
        (sample, (IMAGE, FIELD[:, :2]), "coordinates must have 3 channels"),
        (sample, (IMAGE[:1], FIELD), "coordinates must have as many samples as image"),
        (sample, (IMAGE, FIELD, "bilinear"), "mode must be one of"),
    ],
)
def test_wrong_arguments_are_named(operator, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        operator(*arguments)


def test_one_displacement_for_all_samples():
    images, u = torch.rand(3, 2, 6, 5, 4), torch.randn(1, 3, 6, 5, 4)
    torch.testing.assert_close(warp(images, u), warp(images, u.expand(3, -1, -1, -1, -1)))


def test_batches_by_vmap():
    u = torch.randn(3, 1, 3, 5, 6, 7)
    jacobian = torch.vmap(jacobian_determinant)(u)
    torch.testing.assert_close(jacobian, torch.stack([jacobian_determinant(v) for v in u]))
