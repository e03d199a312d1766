"""Kernels in C++ for float32 on CPU, one beside each operator that takes time or memory.

They are compiled on the user's machine (`build`), called through `ctypes`, and known to PyTorch
as operators ``voxelopt::*``, so that ``torch.compile`` passes over them. All write into tensors
that the caller made. The operators in PyTorch remain the reference, in values and gradients, and
run wherever `suits` says no.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from voxelopt_layers.native.build import Build

SOFT, HARD_MEAN, HARD_SUM = range(3)
_build = Build()
_enabled = True


def available() -> bool:
    """Whether the kernels are there and not set aside; waits for the compiler."""
    return _enabled and _build.library() is not None


# As torch.compiler.assume_constant_result does, but without importing the compiler.
available._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def start() -> None:
    """Have the kernels compiled in the background, if they are not there yet."""
    _build.start()


def assignment_kind(assignment: str, ties: str) -> int:
    """What `assign` calls an assignment; straight-through has the values of the hard one."""
    if assignment == "soft":
        return SOFT
    return HARD_MEAN if ties == "mean" else HARD_SUM


@contextlib.contextmanager
def set_aside() -> Iterator[None]:
    """Within this context the operators run in PyTorch: the reference."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def suits(*tensors: Tensor | None) -> bool:
    """Whether the kernels take these ``(B, C, *spatial)``: float32 on CPU, in 2-D or 3-D."""
    return all(t is None or _suits(t) for t in tensors) and available()


def _suits(tensor: Tensor) -> bool:
    return (
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and tensor.dim() in (4, 5)
        and tensor.numel() > 0
        and math.prod(tensor.shape[2:]) < 2**31
    )


class _Shape(ctypes.Structure):
    _fields_ = [(n, ctypes.c_long) for n in ("batch", "channels", "depth", "height", "width")]


def _call(name: str, shape_of: Tensor, *arguments: Any) -> Any:
    """Call a kernel; ``_SHAPE`` among its arguments stands for the shape of ``shape_of``."""
    library = _build.library()
    assert library is not None
    converted = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            assert argument.is_contiguous() and argument.dtype == torch.float32
            converted.append(ctypes.c_void_p(argument.data_ptr()))
        elif argument is _SHAPE:
            spatial = shape_of.shape[2:]
            flat = [1] * (3 - len(spatial))
            converted.append(ctypes.byref(_Shape(*shape_of.shape[:2], *flat, *spatial)))
        elif isinstance(argument, float):
            converted.append(ctypes.c_float(argument))
        else:
            converted.append(None if argument is None else ctypes.c_long(argument))
    kernel = library[f"voxelopt_{name}"]
    kernel.restype = ctypes.c_float if name == "reach" else None
    # A thread costs as much to start as some ten thousand values take to go through.
    threads = min(torch.get_num_threads(), max(1, shape_of.numel() // 2**14))
    return kernel(*converted, ctypes.c_long(threads))


_SHAPE = object()


_namespace = torch.library.Library("voxelopt", "DEF")


def _operator(*mutated: str):
    """Make a function that writes into its arguments an operator of PyTorch."""

    def make(function: Any) -> Any:
        name = function.__name__
        schema = torch.library.infer_schema(function, mutates_args=mutated)
        _namespace.define(name + schema)
        _namespace.impl(name, function, "CPU")
        torch.library.register_fake(f"voxelopt::{name}", lambda *_: None, lib=_namespace)
        return getattr(torch.ops.voxelopt, name)

    return make


def _search(image: Tensor, radius: int) -> tuple[int, int]:
    """The radius along H and W, and along D: an image is a volume that is not searched along D."""
    return radius, radius if image.dim() == 5 else 0


@_operator("cost")
def cost_volume(
    fixed: Tensor,
    moving: Tensor,
    cost: Tensor,
    radius: int,
    squared: bool,
    border: bool,
    scale: float,
) -> None:
    """``cost (B, K, *spatial) = scale * sum_c phi(f_c(x) - m_c(x + o))``."""
    search = _search(fixed, radius)
    _call("cost_volume", fixed, fixed, moving, cost, _SHAPE, *search, squared, border, scale)


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
    search = _search(fixed, radius)
    _call("cost_volume_backward", fixed, *tensors, _SHAPE, *search, squared, border, scale)


@_operator("entropy")
def entropy(cost: Tensor, entropy: Tensor, beta: Tensor, floor: float) -> None:
    """``entropy (B, 1, *spatial)`` of a cost volume, in nats."""
    _call("entropy", cost, cost, entropy, _SHAPE, beta, *_floor(floor))


@_operator("grad_cost", "grad_beta")
def entropy_backward(
    cost: Tensor, grad: Tensor, grad_cost: Tensor, grad_beta: Tensor, beta: Tensor, floor: float
) -> None:
    """Write the gradients of cost and beta."""
    tensors = (cost, grad, grad_cost, grad_beta)
    _call("entropy_backward", cost, *tensors, _SHAPE, beta, *_floor(floor))


def _floor(floor: float) -> tuple[float, bool]:
    return (math.log(floor) if floor > 0 else 0.0), floor > 0


@_operator("image")
def smooth_(image: Tensor, sigma: Tensor, radius: int, border: bool) -> None:
    """The adaptive Gaussian along all axes, in place."""
    _call("smooth", image, image, sigma, _SHAPE, image.dim() == 5, radius, border)


@_operator("grad", "grad_sigma")
def smooth_backward(
    image: Tensor, sigma: Tensor, grad: Tensor, grad_sigma: Tensor, radius: int, border: bool
) -> None:
    """Turn ``grad`` into the gradient of ``image``, and add to that of sigma."""
    across = image.dim() == 5
    tensors = (image, sigma, grad, grad_sigma)
    _call("smooth_backward", image, *tensors, _SHAPE, across, radius, border)


def _radius(cost: Tensor) -> int:
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
    options = (cost.dim() - 2, _radius(cost), kind, coupling, temperature, rounding)
    _call("assign", cost, cost, smooth, out, _SHAPE, *options)


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
    tensors = (cost, smooth, grad, grad_cost, grad_smooth, grad_scalars)
    options = (cost.dim() - 2, _radius(cost), coupling, temperature, first)
    _call("assign_backward", cost, *tensors, _SHAPE, *options)


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
    _call(name, image, image, displacement, out, _SHAPE, axes, border, add)


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
    _call(name, image, *tensors, _SHAPE, displacement.shape[1], border)


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
    fields = [velocity / 2**steps]
    for _ in range(steps - 1):
        field = fields[-1]
        fields.append(torch.empty_like(field))
        warp(field, field, fields[-1], True, True, near)
    spare = torch.empty_like(grad)
    for field in reversed(fields):
        spare.copy_(grad)
        warp_backward(field, field, spare, grad, grad, True, near)
    grad /= 2**steps


def _reach(displacement: Tensor) -> float:
    """The largest component of a displacement, in voxels. Most fields stay below 1."""
    return _call("reach", displacement, displacement, _SHAPE)
