"""The whole layer: what comes out for any input that users have."""

from __future__ import annotations

import math

import pytest
import torch

from textures import pair, texture
from voxelopt_layers import VoxelOptLayer, compose, jacobian_determinant, native, warp
from voxelopt_layers.axes import turned
from voxelopt_layers.presets import PRESETS
from voxelopt_layers.pyramid import feature_pyramid, pyramid_shapes, warp_features


@pytest.mark.parametrize("preset", [None, "paper", "released"])
@pytest.mark.parametrize("shape", [(48, 40), (28, 32, 24)])
def test_it_recovers_a_known_displacement(preset, shape, smooth_velocity):
    fixed, moving, truth = pair(shape, smooth_velocity)
    layer = VoxelOptLayer() if preset is None else VoxelOptLayer.from_preset(preset)
    solution = layer.solve(fixed, moving)
    u = solution.displacement
    before = (fixed - moving).abs().mean()
    after = (fixed - warp(moving, u, boundary="border")).abs().mean()
    inside = (..., *[slice(4, -4)] * len(shape))
    error = (u - truth)[inside].norm(dim=1).mean()
    assert after < 0.6 * before
    assert error < 0.5 * truth[inside].norm(dim=1).mean()
    assert (jacobian_determinant(u) <= 0).float().mean() < 0.01
    assert solution.inverse is not None
    residual = compose(u, solution.inverse)[inside].norm(dim=1).mean()
    # Doubling the field between levels of 7 and 14 voxels is far from exact.
    share = 0.4 if preset == "released" else 0.2
    assert residual < share * truth[inside].norm(dim=1).mean()


def test_forward_is_the_displacement_of_solve(smooth_velocity):
    fixed, moving, _ = pair((20, 24), smooth_velocity)
    layer = VoxelOptLayer()
    done = []
    solution = layer.solve(fixed, moving, progress=done.append)
    torch.testing.assert_close(layer(fixed, moving), solution.displacement)
    torch.testing.assert_close(solution.levels[-1].displacement, solution.displacement)
    assert done == [1, 2, 3, 4, 5]
    leaner = layer.solve(fixed, moving, velocities=False)
    torch.testing.assert_close(leaner.inverse, solution.inverse)
    assert not any(level.velocities for level in leaner.levels)
    shapes = [level.shape for level in solution.levels]
    assert shapes == pyramid_shapes((20, 24), 5)
    assert shapes == [(5, 6), (5, 6), (5, 6), (10, 12), (20, 24)]
    for level, entropy in zip(solution.levels, solution.entropy, strict=True):
        assert entropy.shape == (1, 1, *level.shape)
        assert len(level.velocities) == layer.warps_per_level
        assert entropy.min() >= 0 and entropy.max() <= math.log(9) + 1e-5


@pytest.mark.parametrize("shape", [(31, 17, 10), (5, 40, 3), (12, 1, 12), (2, 2), (1, 9)])
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_any_size(shape, preset):
    fixed, moving = texture(shape, smooth=False), texture(shape, smooth=False)
    u = VoxelOptLayer.from_preset(preset)(fixed, moving)
    assert u.shape == (1, len(shape), *shape)
    assert u.isfinite().all()
    assert u.abs().amax() > 0


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_slices_may_be_stacked_along_any_axis(axes, smooth_velocity):
    """The kernels turn volumes whose last axis is thin: all that is found must be turned back."""
    fixed, moving, _ = pair((10, 24, 28), smooth_velocity)
    mask = torch.ones(1, 1, 10, 24, 28)
    mask[..., :8] = 0
    start = torch.full((1, 3, 10, 24, 28), 0.25)
    start[:, 1] = -0.5
    layer = VoxelOptLayer(levels=2, temperature=0.1)
    expected = layer.solve(fixed, moving, fixed_mask=mask, initial_displacement=start)
    maps = [turned(x, axes) for x in (fixed, moving, mask)]
    found = layer.solve(
        *maps[:2], fixed_mask=maps[2], initial_displacement=turned(start, axes, vectors=True)
    )
    assert found.displacement.shape[2:] == maps[0].shape[2:]
    back = [axes.index(axis) for axis in range(3)]
    for a, b in zip(found.levels, expected.levels, strict=True):
        assert a.shape == tuple(b.shape[axis] for axis in axes)
        for x, y in zip(a.velocities, b.velocities, strict=True):
            torch.testing.assert_close(turned(x, back, vectors=True), y, atol=0.05, rtol=0)
        torch.testing.assert_close(turned(a.entropy, back), b.entropy, atol=0.05, rtol=0)
    for x, y in ((found.displacement, expected.displacement), (found.inverse, expected.inverse)):
        assert x is not None and y is not None
        torch.testing.assert_close(turned(x, back, vectors=True), y, atol=0.05, rtol=0)


def test_a_thin_axis_does_not_distort_the_others(smooth_velocity):
    """A volume of equal slices has, in each slice, the displacement of its 2-D image."""
    fixed, moving, _ = pair((40, 36), smooth_velocity)
    flat = VoxelOptLayer(alpha=0.05)(fixed, moving)  # filters of no width act alike in 2-D and 3-D
    slices = (x[..., None].expand(-1, -1, -1, -1, 10) for x in (fixed, moving))
    thick = VoxelOptLayer(alpha=0.05)(*slices)
    assert thick[:, 2].abs().max() < 1e-5
    for z in range(10):
        torch.testing.assert_close(thick[:, :2, ..., z], flat, atol=1e-3, rtol=1e-3)


def test_a_batch_equals_its_single_pairs():
    fixed, moving = texture((14, 18, 12), 3, 3), texture((14, 18, 12), 3, 3)
    fixed[1] *= 10  # strengths differ, so a maximum over the batch would show
    layer = VoxelOptLayer(temperature=0.1)  # colder, rounding decides between equals
    together = layer(fixed, moving)
    for b in range(3):
        alone = layer(fixed[b : b + 1], moving[b : b + 1])
        torch.testing.assert_close(together[b : b + 1], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cost_dtype", [None, "bfloat16"])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_features_may_lie_in_memory_in_any_order(gradient, cost_dtype, channels_last):
    """As those made of arrays in Fortran order, which nibabel reads, or by convolutions."""
    layer = VoxelOptLayer(cost_dtype=cost_dtype)
    fixed, moving = (texture((22, 20, 18), 5) for _ in range(2))
    if channels_last:
        fixed, moving = (
            x.contiguous(memory_format=torch.channels_last_3d) for x in (fixed, moving)
        )
    else:
        fixed, moving = (x.mT.contiguous().mT for x in (fixed, moving))
    assert not fixed.is_contiguous()
    with torch.set_grad_enabled(gradient):
        u = layer(fixed.requires_grad_(gradient), moving)
        assert torch.equal(u, layer(fixed.contiguous(), moving.contiguous()))


@pytest.mark.parametrize("shape", [(9, 10), (6, 7, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_nan_is_handed_on(shape, dtype):
    """Rather than end the process, as a backward pass of PyTorch in 2-D does."""
    fixed, moving = (torch.rand(1, 2, *shape, dtype=dtype) for _ in range(2))
    fixed[0, 0, 3, 3] = torch.nan
    u = VoxelOptLayer()(fixed.requires_grad_(), moving)
    u.sum().backward()
    assert u.isnan().any()


def test_precision(smooth_velocity):
    fixed, moving, _ = pair((16, 20, 12), smooth_velocity)
    layer = VoxelOptLayer(assignment="soft")
    exact = layer(fixed.double(), moving.double())
    assert exact.dtype == torch.float64
    single = layer(fixed, moving)
    assert single.dtype == torch.float32
    assert (single - exact).abs().max() < 1e-2
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            torch.testing.assert_close(layer(fixed, moving), single)
            half = layer(fixed.to(dtype), moving.to(dtype))
        assert half.dtype == torch.float32
        assert (half - single).abs().mean() < 0.1


@pytest.mark.parametrize("preset", ["paper", "released", "intensity"])
@pytest.mark.parametrize("assignment", ["hard", "soft"])
@pytest.mark.parametrize("on_kernels", [False, True])
def test_nothing_leaves_the_device(preset, assignment, on_kernels, monkeypatch):
    """Tried on ``meta``, which has no values: none is read back, none comes from elsewhere."""
    monkeypatch.setattr(native, "suits", lambda *_, cost=None: on_kernels)
    fixed, moving = (torch.rand(1, 2, 24, 20, 28, device="meta").requires_grad_() for _ in range(2))
    mask = fixed.new_ones(1, 1, 24, 20, 28)
    # (Each level, and each refinement, is like the first.)
    few = {"levels": 2, "refinements": 1} if preset == "intensity" else {}
    layer = VoxelOptLayer.from_preset(preset, assignment=assignment, learnable=True, **few)
    layer = layer.to("meta")
    solution = layer.solve(fixed, moving, fixed_mask=mask, moving_mask=mask, inverse=True)
    u = solution.displacement
    warp(moving, u, boundary="border").sum().backward()
    inverse = solution.inverse
    assert inverse is not None and moving.grad is not None
    assert u.is_meta and inverse.is_meta and moving.grad.is_meta and u.shape == (1, 3, 24, 20, 28)


def test_a_masked_part_does_not_move_the_rest():
    moving, shift = texture((48, 48)), torch.zeros(1, 2, 48, 48)
    shift[:, 0] = 3
    fixed = warp(moving, shift, boundary="border")
    fixed[..., :20] = warp(moving, -shift, boundary="border")[..., :20]  # pulls the other way
    mask = torch.ones(1, 1, 48, 48)
    mask[..., :20] = 0
    error = {}
    for name, fixed_mask in (("masked", mask), ("not", None)):
        u = VoxelOptLayer()(fixed, moving, fixed_mask=fixed_mask)
        error[name] = (u - shift)[..., 6:-6, 22:].norm(dim=1).mean()
    assert error["masked"] < 0.75 * error["not"]


def test_a_moving_image_cut_short_does_not_drag_the_rest_along(smooth_velocity):
    shape = (48, 48)
    fixed, moving, truth = pair(shape, smooth_velocity)
    mask = torch.ones(1, 1, *shape)
    mask[..., 30:] = 0
    cut = torch.where(mask.bool(), moving, moving[..., 29:30])  # goes on as it ends
    inside = (..., slice(4, -4), slice(4, 26))
    whole = (VoxelOptLayer()(fixed, moving) - truth)[inside].norm(dim=1).mean()
    u = VoxelOptLayer()(fixed, cut, moving_mask=mask)
    assert (u - truth)[inside].norm(dim=1).mean() < 1.5 * whole


def test_initial_displacement_is_kept_and_inverted(smooth_velocity):
    shape = (40, 44)
    moving = texture(shape)
    initial = torch.zeros(1, 2, *shape)
    initial[:, 0] = 6.0
    fixed = warp(moving, initial, boundary="border")
    solution = VoxelOptLayer(levels=2).solve(fixed, moving, initial_displacement=initial)
    inside = (..., slice(8, -8), slice(8, -8))
    assert (solution.displacement - initial)[inside].abs().mean() < 0.1
    assert solution.inverse is not None
    assert compose(solution.displacement, solution.inverse)[inside].abs().mean() < 0.1


@pytest.mark.parametrize("assignment", ["hard", "soft"])
def test_runs_are_deterministic(assignment):
    fixed, moving = texture((20, 18, 16)), texture((20, 18, 16))
    first, second = (VoxelOptLayer(assignment=assignment)(fixed, moving) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("preset", [None, *sorted(PRESETS)])
def test_a_mask_of_ones_is_no_mask(preset, smooth_velocity):
    fixed, moving, _ = pair((28, 24, 20), smooth_velocity)
    layer = VoxelOptLayer() if preset is None else VoxelOptLayer.from_preset(preset)
    ones = torch.ones(1, 1, 28, 24, 20)
    masked = layer(fixed, moving, fixed_mask=ones, moving_mask=ones)
    # On average: a hard choice between nearly equal costs turns on their last digits.
    assert (masked - layer(fixed, moving)).norm(dim=1).mean() < 2e-3


def test_ties_in_flat_background_survive_rounding():
    """Flat but not zero: after a warp the costs differ in their last digits."""
    fixed, moving = (texture((36, 32, 28), 2) for _ in range(2))
    for features in (fixed, moving):
        features[..., :14] = 1.0
    uncoupled_first = PRESETS["released"]["theta"]
    layer = VoxelOptLayer(assignment="hard", theta=uncoupled_first)
    single, double = layer(fixed, moving), layer(fixed.double(), moving.double())
    assert (single - double)[..., :8].norm(dim=1).mean() < 0.05


@pytest.mark.parametrize("shift", [0.0, 3e-7, 0.3, -0.6])
def test_what_is_masked_leaves_no_edge(shift):
    ones, mask = torch.ones(1, 1, 16, 16), torch.ones(1, 1, 16, 16)
    mask[..., :8] = 0
    features, warped = warp_features(ones, mask, torch.full((1, 2, 16, 16), shift), "border")
    torch.testing.assert_close(features, ones)
    assert warped is not None and warped.max() == 1 and warped.min() == 0
    (coarse, _), _ = feature_pyramid(ones, mask, [(8, 8), (16, 16)])
    torch.testing.assert_close(coarse, torch.ones(1, 1, 8, 8))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float64])
def test_masks_may_be_of_any_type(dtype, smooth_velocity):
    fixed, moving, _ = pair((12, 14), smooth_velocity)
    mask = torch.ones(1, 1, 12, 14)
    mask[..., :5] = 0
    layer = VoxelOptLayer(levels=2)
    expected = layer(fixed, moving, fixed_mask=mask, moving_mask=mask)
    u = layer(fixed, moving, fixed_mask=mask.to(dtype), moving_mask=mask.to(dtype))
    assert torch.equal(u, expected)
