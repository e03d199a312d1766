"""The operators ``voxelopt::*``, as PyTorch knows them: how each kernel is called, and on what."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from voxelopt_layers.native.libraries import SHAPE, call, fresh

_Function = TypeVar("_Function", bound=Callable[..., None])
_library: Any = torch.library  # whose types are unknown in part
_namespace = _library.Library("voxelopt", "DEF")


def on_gpu(name: str, function: Any = None) -> Any:
    """The kernel in Triton; ``function`` itself where it is made of other operators."""

    def launch(*args: Any) -> None:
        from voxelopt_layers import gpu  # with the first tensor there

        somewhere = next(x for x in args if isinstance(x, Tensor))  # the first may be None
        with torch.cuda.device_of(somewhere):
            getattr(gpu, name, function)(*args)

    return launch


def _nothing_new(*_: Any) -> None:
    """What an operator that writes into its arguments does where tensors have shapes alone."""


def _operator(*mutated: str) -> Callable[[_Function], _Function]:
    """Make a function that writes into its arguments an operator of PyTorch."""

    def make(function: _Function) -> _Function:
        name = function.__name__
        schema = _library.infer_schema(function, mutates_args=mutated)
        _namespace.define(name + schema)
        _namespace.impl(name, function, "CPU")
        _namespace.impl(name, on_gpu(name, function), "CUDA")
        _library.register_fake(f"voxelopt::{name}", _nothing_new, lib=_namespace)
        return getattr(torch.ops.voxelopt, name)

    return make


def _search(image: Tensor, radius: int) -> tuple[int, int]:
    """The radius along H and W, and along D: an image is a volume that is not searched along D."""
    return radius, radius if image.dim() == 5 else 0


@_operator("out")
def clear(out: Tensor) -> None:
    """Zeros in a tensor that nothing was written to yet."""
    fresh(out).zero_()


def zeros_like(tensor: Tensor) -> Tensor:
    """As that of PyTorch, in huge pages."""
    out = torch.empty_like(tensor)
    clear(out)
    return out


@_operator("cost", "entropy")
def cost_volume(
    fixed: Tensor,
    moving: Tensor,
    cost: Tensor,
    radius: int,
    squared: bool,
    border: bool,
    scale: float,
    entropy: Tensor | None = None,
    beta: Tensor | None = None,
    floor: float = 0.0,
) -> None:
    """``cost (B, K, *spatial) = scale * sum_c phi(f_c(x) - m_c(x + o))``, and its ``entropy``."""
    search = _search(fixed, radius)
    options = (*search, squared, border, scale)
    call("cost_volume", fixed, fixed, moving, fresh(cost), SHAPE, *options, kept_in=cost.dtype)
    if entropy is not None and beta is not None:
        options = (beta, *_floor(floor))
        call("entropy", cost, cost, entropy, SHAPE, *options, kept_in=cost.dtype)


@_operator("grad_fixed", "grad_moving")
def cost_volume_backward(
    fixed: Tensor,
    moving: Tensor,
    grad: Tensor,
    grad_fixed: Tensor,
    grad_moving: Tensor,
    radius: int,
    squared: bool,
    border: bool,
    scale: float,
) -> None:
    """Add to the gradients of both maps."""
    tensors = (fixed, moving, grad, grad_fixed, grad_moving)
    options = (*_search(fixed, radius), squared, border, scale)
    call("cost_volume_backward", fixed, *tensors, SHAPE, *options, kept_in=grad.dtype)


@_operator("cost")
def local_correlation(
    fixed: Tensor,
    moving: Tensor,
    cost: Tensor,
    radius: int,
    window_radius: int,
    star: bool,
    border: bool,
    scale: float,
    least_variance: float,
    add: bool,
) -> None:
    """``scale * (1 - correlation)`` of patches, written or added to ``cost``. On CPU alone."""
    options = (*_search(fixed, radius), *_search(fixed, window_radius), star, border)
    tensors = (fixed, moving, cost if add else fresh(cost))
    rest = (scale, least_variance, add)
    call("local_correlation", fixed, *tensors, SHAPE, *options, *rest, kept_in=cost.dtype)


@_operator("entropy")
def entropy(cost: Tensor, entropy: Tensor, beta: Tensor, floor: float) -> None:
    """``entropy (B, 1, *spatial)`` of a cost volume, in nats."""
    options = (beta, *_floor(floor))
    call("entropy", cost, cost, entropy, SHAPE, *options, kept_in=cost.dtype)


@_operator("grad_cost", "grad_beta")
def entropy_backward(
    cost: Tensor,
    grad: Tensor,
    grad_cost: Tensor,
    grad_beta: Tensor,
    beta: Tensor,
    floor: float,
    add: bool,
) -> None:
    """Write the gradients of cost (or add to it, where ``add``) and beta."""
    tensors = (cost, grad, grad_cost if add else fresh(grad_cost), grad_beta)
    options = (beta, *_floor(floor), add)
    call("entropy_backward", cost, *tensors, SHAPE, *options, kept_in=cost.dtype)


def _floor(floor: float) -> tuple[float, bool]:
    return (math.log(floor) if floor > 0 else 0.0), floor > 0


@_operator("out")
def smooth(image: Tensor | None, sigma: Tensor, out: Tensor, radius: int, border: bool) -> None:
    """The adaptive Gaussian along all axes of ``image``; if None, of ``out`` in place."""
    tensors = (out, sigma, out) if image is None else (image, sigma, fresh(out))
    options = (out.dim() == 5, radius, border)
    call("smooth", out, *tensors, SHAPE, *options, kept_in=out.dtype)


@_operator("grad", "grad_sigma")
def smooth_backward(
    image: Tensor, sigma: Tensor, grad: Tensor, grad_sigma: Tensor, radius: int, border: bool
) -> None:
    """Turn ``grad`` into the gradient of ``image``, and add to that of sigma."""
    tensors, options = (image, sigma, grad, grad_sigma), (image.dim() == 5, radius, border)
    call("smooth_backward", image, *tensors, SHAPE, *options, kept_in=image.dtype)


def search_radius(cost: Tensor) -> int:
    """Within which a cost volume ``(B, K, *spatial)`` was searched."""
    return (round(cost.shape[1] ** (1 / (cost.dim() - 2))) - 1) // 2


@_operator("out")
def assign(
    cost: Tensor,
    smooth: Tensor | None,
    out: Tensor,
    kind: int,
    coupling: Tensor,
    temperature: Tensor,
    rounding: Tensor,
) -> None:
    """The v-step, SOFT, HARD_MEAN or HARD_SUM; costs closer than ``rounding (B,)`` tie."""
    options = (cost.dim() - 2, search_radius(cost), kind, coupling, temperature, rounding)
    call("assign", cost, cost, smooth, fresh(out), SHAPE, *options, kept_in=cost.dtype)


@_operator("grad_cost", "grad_smooth", "grad_scalars")
def assign_backward(
    cost: Tensor,
    smooth: Tensor | None,
    grad: Tensor,
    grad_cost: Tensor,
    grad_smooth: Tensor,
    grad_scalars: Tensor | None,
    coupling: Tensor,
    temperature: Tensor,
    first: bool,
) -> None:
    """Backward of the soft v-step.

    Add to the gradients of the cost (write it, where ``first``) and of (coupling, temperature),
    write that of u.
    """
    by_cost = fresh(grad_cost) if first else grad_cost
    tensors = (cost, smooth, grad, by_cost, fresh(grad_smooth), grad_scalars)
    options = (cost.dim() - 2, search_radius(cost), coupling, temperature, first)
    call("assign_backward", cost, *tensors, SHAPE, *options, kept_in=cost.dtype)


@_operator("out")
def warp(
    image: Tensor,
    displacement: Tensor,
    out: Tensor,
    border: bool,
    add: bool,
    near: bool | None = None,
) -> None:
    """``out(x) = image(x + u(x))``, and ``+ u(x)`` where ``add``; ``near`` where |u| <= 1."""
    near = _reach(displacement) <= 1 if near is None else near
    name, axes = "warp_near" if near else "warp", displacement.shape[1]
    call(name, image, image, displacement, fresh(out), SHAPE, axes, border, add)


@_operator("grad_image", "grad_displacement")
def warp_backward(
    image: Tensor,
    displacement: Tensor,
    grad: Tensor,
    grad_image: Tensor | None,
    grad_displacement: Tensor | None,
    border: bool,
    near: bool | None = None,
) -> None:
    """Add to the gradients of image and displacement, which may be one; either may be None."""
    near = _reach(displacement) <= 1 if near is None else near
    tensors = (image, displacement, grad, grad_image, grad_displacement)
    name = "warp_near_backward" if near else "warp_backward"
    call(name, image, *tensors, SHAPE, displacement.shape[1], border)


@_operator("out")
def exponentiate(velocity: Tensor, out: Tensor, steps: int) -> None:
    """Scaling and squaring, ``steps`` > 0 of them."""
    # No field but the last is longer than half the velocity, so all are near if that is.
    near = _reach(velocity) <= 2
    spare, field = torch.empty_like(out), velocity / 2**steps
    for step in range(steps):
        target = out if (steps - step) % 2 else spare
        warp(field, field, target, True, True, near)
        field = target


@_operator("grad")
def exponentiate_backward(velocity: Tensor, grad: Tensor, steps: int) -> None:
    """Turn the gradient of the exponential into that of the velocity; its fields are made again."""
    near = _reach(velocity) <= 2
    spare, *fields = fresh(velocity.new_empty((steps + 1, *velocity.shape)))
    torch.div(velocity, 2**steps, out=fields[0])
    for field, following in itertools.pairwise(fields):
        warp(field, field, following, True, True, near)
    for field in reversed(fields):
        spare.copy_(grad)
        warp_backward(field, field, spare, grad, grad, True, near)
    grad /= 2**steps


def _reach(displacement: Tensor) -> float:
    """The largest component of a displacement, in voxels. Most fields stay below 1."""
    if displacement.device.type != "cpu":  # near or far is all the same on a GPU
        return math.inf
    return call("reach", displacement, displacement, SHAPE)
