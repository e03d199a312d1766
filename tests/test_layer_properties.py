"""Whatever is given to the layer: finite fields and gradients, the same in any company."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from anything import layers, problems, shapes, values, with_and_without_kernels
from textures import texture
from voxelopt_layers import VoxelOptLayer, cost_volume, native
from voxelopt_layers.bounds import LARGEST, LARGEST_GRADIENT
from voxelopt_layers.pyramid import pyramid_shapes

both_paths = pytest.mark.parametrize("kernels", [contextlib.nullcontext, native.set_aside])


def farthest(layer: VoxelOptLayer, spatial: tuple[int, ...]) -> float:
    """How far the settings, with no refinements, let a voxel move along an axis."""
    k, d = layer.search_radius, len(spatial)
    step = k
    if layer.solver.assignment != "soft" and layer.solver.ties == "sum":
        step = (2 * k + 1) ** (d - 1) * k * (k + 1) // 2  # half of the offsets tie
    reached, before = 0.0, None
    for shape in pyramid_shapes(spatial, layer.levels):
        ratios = [1.0]
        for n, m in zip(before or shape, shape, strict=True):
            exact = (m - 1) / max(n - 1, 1) if layer.align_corners else m / n
            ratios.append(1.0 if n == m else layer.upsampling_scale or exact)
        reached, before = reached * max(ratios) + step * layer.warps_per_level, shape
    return reached


def results(layer: VoxelOptLayer, fixed: Tensor, moving: Tensor, options: Any) -> list[Tensor]:
    """All that comes out, and, where there is one, the gradients of all that went in."""
    inputs = [x.clone().requires_grad_() for x in (fixed, moving)]
    layer.zero_grad()
    solution = layer.solve(*inputs, **options)
    assert solution.inverse is not None
    found = [solution.displacement, solution.inverse, *solution.entropy]
    # Gradients in float16 overflow, for which losses are scaled.
    if solution.displacement.requires_grad and layer.cost_dtype != torch.float16:
        solution.displacement.square().mean().backward()
        gradients = [x.grad for x in (*inputs, *layer.parameters())]
        found += [g for g in gradients if g is not None]
    return [x.detach() for x in found]


@given(
    problem=problems(),
    layer=layers(),
    kernels=with_and_without_kernels,
    autocast=st.sampled_from([None, torch.bfloat16, torch.float16]),
)
def test_all_is_finite_and_the_same_again(problem, layer, kernels, autocast):
    fixed, moving, options = problem
    with kernels():
        first = results(layer, fixed, moving, options)
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            second = results(layer, fixed, moving, options)
    for a, b in zip(first, second, strict=True):
        assert not a.isnan().any()
        assert a.dtype == torch.float16 or a.isfinite().all()  # which only gradients can be
        assert torch.equal(a, b)
    if layer.refinements == 0:
        reach = farthest(layer, tuple(fixed.shape[2:]))
        start = options.get("initial_displacement")
        reach += 0.0 if start is None else float(start.abs().max())
        assert first[0].abs().max() <= reach * 1.001


@given(data=st.data(), shape=shapes(), kernels=with_and_without_kernels)
def test_a_sample_does_not_depend_on_its_company(data, shape, kernels):
    size = (1, data.draw(st.integers(1, 4)), *shape)
    one = [data.draw(values(size, (1e-6, 1.0), torch.float32)) for _ in range(2)]
    company = [data.draw(values((2, *size[1:]), dtype=torch.float32)) for _ in range(2)]
    if data.draw(st.booleans()):
        company[0].view(-1)[0] = torch.nan
    # Soft enough for rounding, which a company may change, to stay what it is.
    soft = {"assignment": "soft", "temperature": 1.0, "beta": 1.0, "cost_dtype": None}
    layer = data.draw(layers(refinements=0, **soft))
    place = data.draw(st.integers(0, 2))
    with kernels(), torch.no_grad():
        alone = layer(*one)
        order = [torch.cat([c[:place], o, c[place:]]) for o, c in zip(one, company, strict=True)]
        together = layer(*order)[place : place + 1]
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=0)


@both_paths
@pytest.mark.parametrize("dissimilarity", ["l1", "l2", "lncc", "mind"])
def test_what_marks_missing_values_leaves_the_rest_alone(dissimilarity, kernels):
    """-3.4e38 around an image, whose squares and differences float32 does not hold."""
    fixed, moving = texture((20, 24), 1), texture((20, 24), 1)
    layer = VoxelOptLayer(dissimilarity=dissimilarity, levels=2, learnable=True)
    for image in (fixed, moving):
        image[..., :6] = torch.finfo(image.dtype).min
    with kernels():
        found = results(layer, fixed, moving, {})
    assert all(x.isfinite().all() for x in found)
    if dissimilarity in ("l1", "l2"):  # others measure in units of the whole volume
        assert found[0][..., 12:].abs().max() > 0.1


@both_paths
def test_where_float16_overflowed_features_are_the_largest_there_are(kernels):
    fixed, moving = (texture((9, 10, 8), 2).half() for _ in range(2))
    finite = fixed.clone()
    fixed[0, 0, 3:5], finite[0, 0, 3:5] = torch.inf, 65504
    fixed[0, 1, 6, 6, 6], finite[0, 1, 6, 6, 6] = -torch.inf, -65504
    with kernels():
        u = VoxelOptLayer()(fixed, moving)
        assert u.isfinite().all() and torch.equal(u, VoxelOptLayer()(finite, moving))


@both_paths
def test_gradients_end_where_chains_of_warps_would_make_them_overflow(kernels):
    fixed, moving = (LARGEST * texture((8, 9), 1) for _ in range(2))
    with kernels():
        cost = cost_volume(fixed.requires_grad_(), moving, 1, "l2")
        (by_fixed,) = torch.autograd.grad(1e20 * cost.sum(), fixed)
    assert by_fixed.abs().max() == LARGEST_GRADIENT


@both_paths
def test_costs_of_a_function_end_before_they_overflow(kernels):
    layer = VoxelOptLayer(dissimilarity=lambda f, m: 1e30 * (f - m).square().mean(1), levels=1)
    with kernels():
        solution = layer.solve(1e6 * texture((8, 9)), 1e6 * texture((8, 9)))
    assert solution.displacement.isfinite().all() and solution.entropy[0].isfinite().all()
