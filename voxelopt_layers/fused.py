"""The operators on kernels, with their gradients written by hand.

Autograd would keep every temporary of every operator; these functions keep their inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from voxelopt_layers import native
from voxelopt_layers.autograd import TensorFunction, TensorsFunction, without_autocast


class FusedCostVolume(TensorFunction):
    """``(fixed, moving, dtype, radius, squared, border, scale)`` to a cost volume."""

    @staticmethod
    def forward(
        ctx: Any, fixed: Tensor, moving: Tensor, dtype: torch.dtype, *options: Any
    ) -> Tensor:
        fixed, moving = fixed.contiguous(), moving.contiguous()
        ctx.save_for_backward(fixed, moving)
        ctx.options = options
        cost = _empty_cost(fixed, options[0], dtype)
        native.cost_volume(fixed, moving, cost, *options)
        return cost

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        fixed, moving = ctx.saved_tensors
        by_fixed, by_moving = native.zeros_like(fixed), native.zeros_like(moving)
        grad = grads[0].contiguous()
        native.cost_volume_backward(fixed, moving, grad, by_fixed, by_moving, *ctx.options)
        return by_fixed, by_moving, None, None, None, None, None


def _empty_cost(fixed: Tensor, radius: int, dtype: torch.dtype) -> Tensor:
    batch, _, *spatial = fixed.shape
    offsets = (2 * radius + 1) ** len(spatial)
    return fixed.new_empty((batch, offsets, *spatial), dtype=dtype)


def match(
    fixed: Tensor, moving: Tensor, dtype: torch.dtype, beta: Tensor, floor: float, *options: Any
) -> tuple[Tensor, Tensor]:
    """Cost volume and its entropy in one pass, without a gradient."""
    fixed = fixed.contiguous()
    cost, entropy = _empty_cost(fixed, options[0], dtype), torch.empty_like(fixed[:, :1])
    native.cost_volume(
        fixed, moving.contiguous(), cost, *options, entropy=entropy, beta=beta, floor=floor
    )
    return cost, entropy


class Remade:
    """A cost volume that is not kept for the backward pass but made again when it comes to it.

    ``shared`` says that the entropy has a gradient too where the descent has one, and after it.
    """

    def __init__(self, make: Callable[[], Tensor], device: torch.device, shared: bool) -> None:
        self._make = make
        self._shared = shared
        self._device = device
        self._cost: Tensor | None = None

    def cost(self, last: bool) -> Tensor:
        """The volume; it is given up with the last who needs it."""
        cost = self._cost
        if cost is None:
            with torch.no_grad(), without_autocast(self._device):
                cost = self._make().contiguous()
        self._cost = cost if self._shared and not last else None
        return cost


class FusedEntropy(TensorsFunction):
    """``(cost, beta (1,), probability_floor, Remade or None)`` to entropy (nats) and cost.

    What is done with that cost sends its gradient back through here, to be added to in place.
    """

    @staticmethod
    def forward(
        ctx: Any, cost: Tensor, beta: Tensor, floor: float, remade: Remade | None = None
    ) -> tuple[Tensor, Tensor]:
        cost = cost.contiguous()
        ctx.save_for_backward(beta, *([] if remade else [cost]))
        ctx.options = floor, remade
        ctx.set_materialize_grads(False)
        entropy = beta.new_empty((cost.shape[0], 1, *cost.shape[2:]))
        native.entropy(cost, entropy, beta, floor)
        return entropy, cost

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        floor, remade = ctx.options
        beta, *saved = ctx.saved_tensors
        by_entropy, by_cost = grads
        if by_entropy is None:
            return by_cost, None, None, None
        cost = saved[0] if saved else remade.cost(last=True)
        add = by_cost is not None
        if by_cost is None:
            # A volume that was made for this pass alone takes the gradient in its place.
            by_cost = torch.empty_like(cost) if saved else cost
        by_beta = torch.zeros_like(beta)
        native.entropy_backward(cost, by_entropy.contiguous(), by_cost, by_beta, beta, floor, add)
        return by_cost, by_beta, None, None


class FusedWarp(TensorFunction):
    """``(image, displacement, border, add)`` to ``image(x + u(x))``, ``+ u(x)`` where ``add``."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, displacement: Tensor, border: bool, add: bool) -> Tensor:
        image, displacement = image.contiguous(), displacement.contiguous()
        ctx.save_for_backward(image, displacement)
        ctx.options = border, add
        out = torch.empty_like(image)
        native.warp(image, displacement, out, border, add)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        image, displacement = ctx.saved_tensors
        border, add = ctx.options
        wanted = ctx.needs_input_grad
        by_image = native.zeros_like(image) if wanted[0] else None
        grad = grads[0].contiguous()
        by_displacement = None
        if wanted[1]:
            by_displacement = grad.clone() if add else native.zeros_like(displacement)
        native.warp_backward(image, displacement, grad, by_image, by_displacement, border)
        return by_image, by_displacement, None, None


class FusedExponential(TensorFunction):
    """``(velocity, steps)`` to its exponential, whose fields are not kept but made again."""

    @staticmethod
    def forward(ctx: Any, velocity: Tensor, steps: int) -> Tensor:
        velocity = velocity.contiguous()
        ctx.save_for_backward(velocity)
        ctx.steps = steps
        out = torch.empty_like(velocity)
        native.exponentiate(velocity, out, steps)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (velocity,) = ctx.saved_tensors
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        native.exponentiate_backward(velocity, grad, ctx.steps)
        return grad, None


def working_dtype(cost: Tensor) -> torch.dtype:
    """What to compute in, whatever a cost volume is kept in: float32 at least."""
    return torch.promote_types(cost.dtype, torch.float32)


def as_tensor(value: Tensor | float, cost: Tensor) -> Tensor:
    """A number, or a parameter to be learned, as a tensor of one element."""
    if isinstance(value, Tensor):
        return value.to(working_dtype(cost)).reshape(1)
    return cost.new_full((1,), value, dtype=working_dtype(cost))
