"""Cost volumes kept in half precision: what it saves, and what it costs."""

from __future__ import annotations

import contextlib

import pytest
import torch

from kernels import needs_kernels
from memory import TrackMemory
from textures import pair, texture
from voxelopt_layers import VoxelOptLayer, cost_volume, native

halves = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
SHAPE = (24, 28, 20)


@pytest.mark.parametrize("dissimilarity", ["l1", "l2", "cosine", "ncc", lambda f, m: (f - m)[:, 0]])
@pytest.mark.parametrize("masked", [False, True])
def test_the_cost_volume_is_kept_in_what_was_asked_for(dissimilarity, masked):
    fixed, moving = texture((9, 10, 11), 4), texture((9, 10, 11), 4)
    mask = torch.rand(1, 1, 9, 10, 11).round() if masked else None
    options = {"dissimilarity": dissimilarity, "fixed_mask": mask, "moving_mask": mask}
    cost = cost_volume(fixed, moving, dtype=torch.float16, **options)
    assert cost.dtype == torch.float16
    expected = cost_volume(fixed, moving, **options)
    assert (cost - expected).abs().max() <= 2**-10 * expected.abs().max()


@halves
@pytest.mark.parametrize(
    "options", [{}, {"gradient": "checkpointed"}, {"assignment": "straight_through"}]
)
def test_displacement_and_gradients_stay_close(dtype, options, smooth_velocity):
    fixed, moving, _ = pair(SHAPE, smooth_velocity)
    options = {"levels": 3, "temperature": 0.05, "learnable": True, **options}

    def run(cast, **more):
        layer = VoxelOptLayer(**options, **more)
        inputs = [cast(x.detach()).clone().requires_grad_() for x in (fixed, moving)]
        u = layer(*inputs)
        assert u.dtype == inputs[0].dtype
        u.square().sum().backward()
        gradient = inputs[1].grad
        assert gradient is not None
        return u.detach(), gradient

    u, gradient = run(torch.Tensor.float, cost_dtype=dtype)
    reference, expected = run(torch.Tensor.double)
    error, allowed = (u - reference).norm(dim=1), 0.01 if dtype == "float16" else 0.05
    assert 0 < error.mean() < allowed
    cosine = torch.cosine_similarity(gradient.flatten().double(), expected.flatten(), dim=0)
    assert cosine > (0.95 if options.get("assignment") == "straight_through" else 0.98)


@needs_kernels
@halves
def test_the_largest_tensor_is_halved(dtype):
    features = [texture(SHAPE, 2) for _ in range(2)]
    with torch.no_grad():
        largest = []
        for cost_dtype in (None, dtype):
            with TrackMemory() as memory:
                VoxelOptLayer(levels=1, warps_per_level=1, cost_dtype=cost_dtype)(*features)
            largest.append(memory.largest)
    assert largest[0] == 2 * largest[1] == 4 * 27 * 24 * 28 * 20


def test_other_types_are_refused():
    with pytest.raises(ValueError, match="cost_dtype must be"):
        VoxelOptLayer(cost_dtype="float8")  # pyright: ignore[reportArgumentType]


@halves
def test_fields_keep_the_precision_of_the_features(dtype):
    fixed, moving = (texture((9, 10, 11), 2).double() for _ in range(2))
    result = VoxelOptLayer(cost_dtype=dtype).solve(fixed, moving)
    assert result.displacement.dtype == result.entropy[-1].dtype == torch.float64


@pytest.mark.parametrize("path", ["C++", "Triton", "PyTorch"])
@pytest.mark.parametrize("dissimilarity", ["l1", "l2", {"l1": 1.0, "l2": 0.5}, {"lncc": 1e5}])
def test_costs_that_float16_does_not_hold_are_cut_off(path, dissimilarity, request):
    if path == "Triton":
        request.getfixturevalue("triton_kernels")
    fixed, moving = (3e5 * texture((6, 7, 8), 2) for _ in range(2))
    one_step = {"levels": 1, "warps_per_level": 1, "theta": (5.0,), "integration_steps": 0}
    with native.set_aside() if path == "PyTorch" else contextlib.nullcontext():
        cost = cost_volume(fixed, moving, 1, dissimilarity, dtype=torch.float16)
        exact = cost_volume(fixed, moving, 1, dissimilarity)
        assert cost.max() == 65504 < exact.max()
        torch.testing.assert_close(cost.float(), exact.clamp(max=65504), atol=0, rtol=2e-3)
        layer = VoxelOptLayer(dissimilarity=dissimilarity, cost_dtype="float16", **one_step)
        solution = layer.solve(fixed, moving)
    assert solution.displacement.isfinite().all() and solution.entropy[0].isfinite().all()


@pytest.mark.parametrize("kernels", [True, False])
def test_a_gradient_that_overflows_in_float16_is_seen(kernels):
    """By torch.amp.GradScaler, which lowers its scale then."""
    fixed, moving = (texture((6, 7, 8), 2).float().requires_grad_() for _ in range(2))
    one_step = {"levels": 1, "warps_per_level": 1, "theta": (5.0,)}
    layer = VoxelOptLayer(cost_dtype="float16", temperature=0.1, **one_step)
    with contextlib.nullcontext() if kernels else native.set_aside():
        loss = layer(fixed, moving).square().sum()
        gradients = [
            torch.autograd.grad(scale * loss, fixed, retain_graph=True)[0] for scale in (1, 2**60)
        ]
    assert [bool(gradient.isfinite().all()) for gradient in gradients] == [True, False]
