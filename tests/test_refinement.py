"""Sub-voxel refinement: parabolas, known parts of a voxel, gradients and the inverse."""

from __future__ import annotations

import pytest
import torch

from textures import pair, texture
from voxelopt_layers import VoxelOptLayer, compose, jacobian_determinant, warp
from voxelopt_layers.displacement import resize
from voxelopt_layers.offsets import star_offsets
from voxelopt_layers.presets import PRESETS
from voxelopt_layers.refinement import FARTHEST, THETA, elastic_velocity, subvoxel_step


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 6)])
def test_the_vertex_of_a_parabola_is_found(shape):
    d = len(shape)
    vertex = torch.rand(1, d, *shape, dtype=torch.float64) - 0.5
    stiffness = torch.rand(1, d, *shape, dtype=torch.float64) + 0.5
    offsets = torch.tensor(star_offsets(d), dtype=torch.float64)
    to = offsets.reshape(1, -1, d, *[1] * d)
    cost = (stiffness[:, None] * (to - vertex[:, None]).square()).sum(2)
    found = subvoxel_step(cost, torch.zeros(1), lambda image: image)
    damped = 2 * stiffness * vertex / (2 * stiffness + 1 / THETA)
    torch.testing.assert_close(found, damped)


def test_a_step_ends_between_two_voxels_and_nothing_moves_without_signal():
    slope = torch.tensor([0.0, 1.0, -1.0, 0.0, 0.0]).reshape(1, 5, 1, 1).expand(1, 5, 3, 3)
    v = subvoxel_step(slope, torch.zeros(1), lambda image: image)
    assert torch.equal(v[:, 0], torch.full((1, 3, 3), FARTHEST)) and not v[:, 1].any()
    assert not subvoxel_step(torch.ones(1, 7, 4, 4, 4), torch.zeros(1), lambda image: image).any()


def test_costs_and_the_step_are_filtered():
    seen = []

    def smooth(image):
        seen.append(image.shape[1])
        return image.mean((2, 3, 4), keepdim=True).expand_as(image)

    v = subvoxel_step(torch.rand(1, 7, 4, 4, 4), torch.zeros(1), smooth)
    assert seen == [7, 3] and torch.equal(v, v[..., :1, :1, :1].expand_as(v))


@pytest.mark.parametrize("shape", [(12, 14), (11, 12, 13)])
def test_a_displacement_is_drawn_towards_a_smoother_one(shape):
    d = len(shape)
    along = torch.linspace(-1, 1, shape[0]).reshape(1, 1, -1, *[1] * (d - 1))
    linear = along.expand(1, d, *shape)
    inner = (..., *[slice(2, -2)] * d)
    assert elastic_velocity(linear)[inner].abs().max() < 1e-6
    rough = linear + 0.2 * torch.randn(1, d, *shape)
    smoother = compose(rough, elastic_velocity(rough))
    assert (smoother - linear)[inner].std() < 0.6 * (rough - linear)[inner].std()


def test_widths_are_smoothed():
    entropy = torch.rand(1, 1, 9, 10, 11)
    settings = {"theta": (1.0,), "alpha": 5.0, "filter_radius": 6}
    solvers = [VoxelOptLayer(**settings, sigma_smoothing=width).solver for width in (0.0, 1.0, 2.0)]
    plain, one, two = (solver.sigma(entropy) for solver in solvers)
    assert plain.std() > 2 * one.std() > 2 * two.std()
    torch.testing.assert_close(one.mean(), plain.mean(), rtol=0.05, atol=0)
    assert all(x.diff(dim=2).abs().max() < 1 for x in (one, two))


@pytest.mark.parametrize("masked", [False, True])
def test_an_image_stays_where_it_is_on_itself(masked):
    image = texture((28, 30, 26), 1).float()
    mask = torch.ones_like(image)
    mask[..., :9] = 0
    masks = {"fixed_mask": mask, "moving_mask": mask} if masked else {}
    layer = VoxelOptLayer.from_preset("intensity", levels=1)
    assert layer(image, image, **masks).abs().max() < 0.02  # without the correction 0.5 and more


def test_parts_of_a_voxel_are_found():
    image = resize(torch.rand(1, 1, 12, 10, 11), (48, 40, 44))
    truth = torch.tensor([0.3, -0.2, 1.4]).reshape(1, 3, 1, 1, 1).expand(1, 3, 48, 40, 44)
    fixed = warp(image, truth, boundary="border")
    inside = (slice(None), slice(None), *[slice(8, -8)] * 3)
    errors = []
    for refinements in (0, PRESETS["intensity"]["refinements"]):
        layer = VoxelOptLayer.from_preset("intensity", refinements=refinements)
        errors.append((layer(fixed, image) - truth)[inside].norm(dim=1).mean())
    assert errors[1] < 0.08 and errors[1] < 0.2 * errors[0]


def test_the_inverse_and_the_levels_tell_of_refinements(smooth_velocity):
    fixed, moving, _ = pair((28, 24, 26), smooth_velocity, channels=1)
    layer = VoxelOptLayer.from_preset("intensity", levels=3)
    result = layer.solve(fixed, moving)
    counts = [len(level.velocities) for level in result.levels]
    assert counts == [2, 2, 2 + layer.refinements]
    assert result.inverse is not None
    error = compose(result.displacement, result.inverse)[..., 5:-5, 5:-5, 5:-5].norm(dim=1).mean()
    assert error < 0.1
    assert jacobian_determinant(result.displacement).min() > 0


@pytest.mark.parametrize("gradient", ["unrolled", "checkpointed", "truncated"])
@pytest.mark.parametrize("shape", [(9, 8), (8, 7, 6)])
def test_gradients_reach_the_images_and_the_settings(gradient, shape, smooth_velocity):
    fixed, moving, _ = pair(shape, smooth_velocity, channels=1)
    maps = [x.double().requires_grad_() for x in (fixed, moving)]
    layer = VoxelOptLayer.from_preset(
        "intensity",
        levels=1,
        warps_per_level=1,
        refinements=1,
        assignment="soft",
        temperature=0.3,
        gradient=gradient,
        learnable=True,
    ).double()
    if gradient != "truncated":  # which leaves out a part of the gradient
        assert torch.autograd.gradcheck(layer, maps, fast_mode=True)
    layer(*maps).square().sum().backward()
    leaves = [*maps, *layer.parameters()]
    assert all(x.grad is not None and x.grad.isfinite().all() for x in leaves)
    assert all(x.grad is not None and x.grad.any() for x in maps)


@pytest.mark.skipif(
    torch.__version__ < "2.8", reason="the graphs of older PyTorch do not hold the layer"
)
def test_the_preset_compiles_into_one_graph_with_gradients():
    fixed, moving = torch.rand(2, 1, 1, 12, 12)
    few = {"levels": 2, "warps_per_level": 1, "refinements": 1, "theta": (5.0, 1.5)}
    layer = VoxelOptLayer.from_preset("intensity", assignment="soft", temperature=0.1, **few)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    found = []
    for run in (layer, compiled):
        image = fixed.clone().requires_grad_()
        found.append(torch.autograd.grad(run(image, moving).square().sum(), image)[0])
    assert (found[1] - found[0]).norm() < 1e-3 * found[0].norm()


def test_layers_do_not_share_the_weights_of_a_preset():
    one, other = (VoxelOptLayer.from_preset("intensity").dissimilarity for _ in range(2))
    weights = PRESETS["intensity"]["dissimilarity"]
    assert one == other == weights
    assert one is not other and one is not weights
