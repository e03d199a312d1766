"""Numbers kept within what arithmetic can take, so that no finite input makes an Inf or a NaN.

Costs are squares of features, gradients of the filters' widths are products of costs and gradients,
and ten warps or more are one chain: in float32 some of that overflows long before features do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from voxelopt_layers.autograd import TensorFunction

# Far beyond features on a scale that the layer's settings could mean anything to, and any volume.
LARGEST = 2.0**30
LARGEST_COST = 2.0**63  # of a user's function; L2 is at most 2^62
LARGEST_GRADIENT = 2.0**33


def bounded(features: Tensor) -> Tensor:
    """Features cut off at +-2^30, or at the largest number of their type; NaN stays.

    So infinite ones, into which float16 overflows in an encoder, are as large as finite ones can
    be. On CPU there is no copy where nothing is to be cut off.
    """
    most = min(LARGEST, torch.finfo(features.dtype).max)
    # To look first takes a fraction of the time of a copy, but a GPU would have to wait for it.
    eager = features.device.type == "cpu" and not torch.compiler.is_compiling()
    if eager and features.numel() > 0:
        least, largest = torch.aminmax(features.detach())
        if -most <= least and largest <= most:
            return features
    return features.clamp(-most, most)


def bounded_gradient(tensor: Tensor, cost_dtype: torch.dtype | None = None) -> Tensor:
    """The tensor itself, whose gradient is cut off at +-2^33; NaN stays.

    Not with costs in float16: losses are scaled there until some gradient becomes infinite, which
    has to be seen.
    """
    if torch.is_grad_enabled() and tensor.requires_grad and cost_dtype != torch.float16:
        return _BoundedGradient.apply(tensor)
    return tensor


def keep(cost: Tensor, dtype: torch.dtype) -> Tensor:
    """Costs in the type they are kept in: cut off at the largest number of float16."""
    if dtype == torch.float16:
        most = torch.finfo(dtype).max
        cost = cost.clamp(-most, most)
    return cost.to(dtype)


class _BoundedGradient(TensorFunction):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].clamp(-LARGEST_GRADIENT, LARGEST_GRADIENT)
