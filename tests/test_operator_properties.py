"""Whatever is given to the operators: numbers, and gradients that are numbers."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import voxelopt_layers as V
from anything import FLOATS, shapes, values, with_and_without_kernels
from voxelopt_layers.cost_volume import DISSIMILARITIES

# Up to what arithmetic in float32 can take: a soft assignment divides costs by its temperature.
SCALES = (0.0, 1e-45, 1e-30, 1.0, 1e9, 1e30)


def check(function: Any, *inputs: Tensor, gradient: bool = True) -> Tensor:
    """The result, finite, as are the gradients of its mean."""
    leaves = [x.clone().requires_grad_(gradient) for x in inputs]
    out = function(*leaves)
    assert out.isfinite().all()
    if out.requires_grad:
        out.mean().backward()
    for leaf in leaves:
        if leaf.grad is not None:
            assert not leaf.grad.isnan().any()
            assert leaf.dtype == torch.float16 or leaf.grad.isfinite().all()
    return out.detach()


wide = st.sampled_from([torch.float32, torch.float64])
boundaries = st.sampled_from(["zeros", "border"])


@given(data=st.data(), shape=shapes(), boundary=boundaries, kernels=with_and_without_kernels)
def test_displacements(data, shape, boundary, kernels):
    dtype = data.draw(wide)
    # Those of up to 20 compositions grow with the power of as much.
    gradient = data.draw(st.booleans())
    reach = (0.0, 1e-45, 1e-30, 1.0) if gradient else (1e3, 1e9, 1e30)
    u, v = (data.draw(values((2, len(shape), *shape), reach, dtype)) for _ in range(2))
    image = data.draw(values((2, 2, *shape), SCALES, dtype))
    target = [data.draw(st.integers(1, 2 * n)) for n in shape]
    align = data.draw(st.booleans())
    with kernels():
        warped = check(lambda i, w: V.warp(i, w, boundary=boundary), image, u)
        nearest = V.warp(image, u, "nearest", boundary)
        for found in (warped, nearest):
            assert found.abs().max() <= image.abs().max() * 1.001
        check(V.compose, u, v, gradient=gradient)
        exponential = check(V.exponentiate, u, gradient=gradient)
        assert exponential.abs().max() <= u.abs().max() * 1.001
        check(V.invert, u, gradient=gradient)
        check(V.jacobian_determinant, u, gradient=gradient)
        check(lambda w: V.resize_displacement(w, target, align), u)


@given(data=st.data(), shape=shapes(), boundary=boundaries, kernels=with_and_without_kernels)
def test_cost_volumes(data, shape, boundary, kernels):
    dtype = data.draw(st.sampled_from(FLOATS))
    pair = [data.draw(values((2, 2, *shape), dtype=dtype)) for _ in range(2)]
    kept = data.draw(st.sampled_from([None, torch.bfloat16]))
    radius = data.draw(st.integers(1, 2))
    names: list[Any] = list(DISSIMILARITIES)
    with kernels():
        for name in names:
            cost = check(
                lambda f, m, name=name: V.cost_volume(f, m, radius, name, boundary, dtype=kept),
                *pair,
            )
            assert cost.dtype == (kept or dtype) and cost.min() >= -1e-5


@given(data=st.data(), shape=shapes(), boundary=boundaries, kernels=with_and_without_kernels)
def test_what_is_done_with_costs(data, shape, boundary, kernels):
    dtype, d = data.draw(wide), len(shape)
    cost = data.draw(values((2, 3**d, *shape), SCALES, dtype))
    u = data.draw(values((2, d, *shape), SCALES, dtype))
    floor, sigma_range = data.draw(st.sampled_from([(0.0, None), (1e-6, (0.1, 0.5))]))
    assignment = data.draw(st.sampled_from(["hard", "soft", "straight_through"]))
    coupling = data.draw(st.sampled_from([0.0, 1e-3, 1.0]))
    with kernels():
        entropy = check(lambda c: V.cost_entropy(c, 0.1, floor), cost)
        assert entropy.min() >= -1e-5 and entropy.max() <= 3.3 + 1e-3  # log 27
        sigma = check(lambda e: V.entropy_to_sigma(e, 2.0, sigma_range), entropy)
        assert sigma.min() + 1e-6 >= 0.05 and sigma.max() <= 1.4
        smooth = check(lambda c, s: V.adaptive_gaussian(c, s, 3, 1, boundary), cost, sigma)
        assert smooth.abs().max() <= cost.abs().max() * 1.001
        v = check(lambda c, w: V.assign(c, w, coupling, assignment, 0.1), cost, u)
        assert v.abs().max() <= 1.001
