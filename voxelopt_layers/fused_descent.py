"""Coordinate descent on kernels, and its steps on their own.

Its gradient is written by hand too: that of all iterations adds up in one volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from voxelopt_layers import native
from voxelopt_layers.autograd import TensorFunction
from voxelopt_layers.fused import Remade, working_dtype


@dataclass(frozen=True)
class Descent:
    """What coordinate descent does, apart from numbers that can be learned."""

    kind: int  # native.SOFT, HARD_MEAN or HARD_SUM
    soft_gradient: bool  # whether gradients pass the v-step
    truncated: bool
    cost_filtering: bool
    radius: int
    passes: int
    border: bool

    def smooth(self, image: Tensor, sigma: Tensor, out: Tensor) -> Tensor:
        """Write to ``out``, which may be ``image``."""
        return smooth_fused(image, sigma, out, self.radius, self.passes, self.border)

    def smooth_backward(
        self, image: Tensor, sigma: Tensor, grad: Tensor, grad_sigma: Tensor
    ) -> None:
        """Turn ``grad`` into the gradient of ``image``, and add to that of sigma."""
        images = [image]
        for _ in range(self.passes - 1):
            images.append(torch.empty_like(image))
            native.smooth(images[-2], sigma, images[-1], self.radius, self.border)
        for image in reversed(images):
            native.smooth_backward(image, sigma, grad, grad_sigma, self.radius, self.border)


class FusedDescent(TensorFunction):
    """``(cost, sigma, couplings (I,), temperature (1,), Descent, Remade or None)`` to the velocity.

    ``cost`` is overwritten where it can be made again, and where no gradient is needed; then no
    iteration is kept either.
    """

    @staticmethod
    def forward(
        ctx: Any,
        cost: Tensor,
        sigma: Tensor,
        couplings: Tensor,
        temperature: Tensor,
        how: Descent,
        remade: Remade | None = None,
    ) -> Tensor:
        cost, sigma = cost.contiguous(), sigma.contiguous()
        keep = any(ctx.needs_input_grad)
        filtered = cost
        if how.cost_filtering:
            apart = keep and not remade
            filtered = how.smooth(cost, sigma, torch.empty_like(cost) if apart else cost)
        rounding = sigma.new_zeros(cost.shape[0])
        if how.kind != native.SOFT:
            rounding = tie_margin(filtered)
        v = sigma.new_empty((cost.shape[0], cost.dim() - 2, *cost.shape[2:]))
        u, spare = None, torch.empty_like(v)
        history: list[Tensor | None] = []
        for coupling in couplings.unbind():
            native.assign(filtered, u, v, how.kind, coupling, temperature, rounding)
            if keep:
                history = [*([] if how.truncated else history), u, v]
                u, v = how.smooth(v, sigma, torch.empty_like(v)), torch.empty_like(v)
            else:
                u, v = how.smooth(v, sigma, v), spare if u is None else u
        assert u is not None
        if keep:
            volumes = [] if remade else [cost, filtered]
            ctx.save_for_backward(sigma, couplings, temperature, *history, *volumes)
            ctx.options = how, remade
        return u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        how, remade = ctx.options
        sigma, couplings, temperature, *saved = ctx.saved_tensors
        history = list(saved)  # PyTorch 2.8 makes tuples of such lists in its graphs
        if remade is None:
            filtered, cost = history.pop(), history.pop()
        else:
            cost = filtered = remade.cost(last=False)
            if how.cost_filtering:
                filtered = how.smooth(cost, sigma, torch.empty_like(cost))
        # In half precision sums over the iterations would lose what the last ones add.
        by_cost = torch.empty_like(filtered, dtype=sigma.dtype) if how.soft_gradient else None
        by_sigma = torch.zeros_like(sigma)
        by_scalars = couplings.new_zeros((len(couplings), 2))
        learned = any(ctx.needs_input_grad[2:4])
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        for i in reversed(range(len(couplings))[-(len(history) // 2) :]):
            v, u = history.pop(), history.pop()
            how.smooth_backward(v, sigma, grad, by_sigma)
            if by_cost is None:  # no gradient passes the argmin
                break
            by_u, first = torch.empty_like(grad), i == len(couplings) - 1
            native.assign_backward(
                filtered,
                u,
                grad,
                by_cost,
                by_u,
                by_scalars[i] if learned else None,
                couplings[i],
                temperature,
                first,
            )
            grad = by_u
        del filtered
        if how.cost_filtering and by_cost is not None:
            how.smooth_backward(cost, sigma, by_cost, by_sigma)
        return (
            by_cost,
            by_sigma,
            by_scalars[:, 0],
            by_scalars[:, 1].sum(0, keepdim=True),
            None,
            None,
        )


def smooth_fused(
    image: Tensor, sigma: Tensor, out: Tensor, radius: int, passes: int, border: bool
) -> Tensor:
    """All passes of the filter, without a gradient, into ``out``, which may be ``image``."""
    source = None if image is out else image
    for _ in range(passes):
        native.smooth(source, sigma, out, radius, border)
        source = None
    return out


def tie_margin(cost: Tensor) -> Tensor:
    """``(B,)``: what interpolation and filtering may do to costs that are equal: they tie."""
    flat, dtype = cost.detach().flatten(1), working_dtype(cost)
    largest = torch.maximum(flat.amax(1), -flat.amin(1)).to(dtype)
    return 8 * torch.finfo(dtype).eps * largest


def assign_fused(
    cost: Tensor, smooth: Tensor | None, kind: int, coupling: Tensor, temperature: Tensor
) -> Tensor:
    """The v-step on its own, without a gradient."""
    cost = cost.contiguous()
    v = coupling.new_empty((cost.shape[0], cost.dim() - 2, *cost.shape[2:]))
    margin = coupling.new_zeros(len(cost)) if kind == native.SOFT else tie_margin(cost)
    u = None if smooth is None else smooth.contiguous()
    native.assign(cost, u, v, kind, coupling, temperature, margin)
    return v
