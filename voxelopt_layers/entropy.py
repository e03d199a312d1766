"""Entropy of a cost volume, and the filter width that follows from it (equations 4 and 6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from voxelopt_layers import native
from voxelopt_layers.fused import FusedEntropy, as_tensor, working_dtype

# A narrower Gaussian leaves a voxel as it is, and its derivative by sigma stays finite.
_MIN_SIGMA = 0.05


def cost_entropy(
    cost: Tensor, beta: Tensor | float = 0.1, probability_floor: float = 0.0
) -> Tensor:
    """``E(x) = -sum_o P log P`` with ``P = softmax_o(-C / beta)`` (equation 4).

    Low entropy is a strong signal (one offset stands out); ``log K`` is none at all.

    Args:
        cost: cost volume ``(B, K, *spatial)``.
        beta: softmax temperature, in units of the cost.
        probability_floor: probabilities are raised to it and normalised again.

    Returns:
        ``(B, 1, *spatial)``, in nats, between 0 and ``log K``.
    """
    single = not isinstance(beta, Tensor) or beta.numel() == 1
    if single and native.suits(cost=cost):
        return FusedEntropy.apply(cost, as_tensor(beta, cost), float(probability_floor))[0]
    # Streamed over the offsets, so that neither P nor P log P is ever a whole volume.
    slices = cost.unbind(1)
    least = cost.detach().amin(1).to(working_dtype(cost))
    z = torch.zeros_like(least)
    for slice_cost in slices:
        z = z + ((least - slice_cost) / beta).exp()
    log_z = z.log()
    total, weighted = torch.zeros_like(z), torch.zeros_like(z)
    for slice_cost in slices:
        log_p = (least - slice_cost) / beta - log_z
        if probability_floor > 0:
            log_p = log_p.clamp_min(math.log(probability_floor))
        p = log_p.exp()
        total, weighted = total + p, weighted + p * log_p
    return (total.log() - weighted / total)[:, None].clamp_min(0)


def entropy_to_sigma(
    entropy: Tensor,
    alpha: Tensor | float = 1.5,
    sigma_range: tuple[float, float] | None = None,
) -> Tensor:
    """Width of the message-passing Gaussian: the weaker the signal, the wider (equation 6).

    Args:
        entropy: ``(B, 1, *spatial)``.
        alpha: ``sigma = alpha * ln(E / max E + 1)``, the maximum taken in each sample.
        sigma_range: ``(low, high)``; if given, the entropy's range in each sample is mapped to
            ``e`` in [0, 1] and ``sigma = low + (high - low) * log2(e + 1)`` instead.

    Returns:
        ``(B, 1, *spatial)``, in voxels, at least 0.05.
    """
    axes = tuple(range(1, entropy.dim()))
    least = torch.finfo(entropy.dtype).eps  # flat entropy: no division by 0, forward or backward
    highest = entropy.amax(axes, keepdim=True)
    if sigma_range is None:
        return (alpha * torch.log1p(entropy / highest.clamp_min(least))).clamp_min(_MIN_SIGMA)
    lowest = entropy.amin(axes, keepdim=True)
    relative = (entropy - lowest) / (highest - lowest).clamp_min(least)
    low, high = sigma_range
    return (low + (high - low) * torch.log2(relative + 1)).clamp_min(_MIN_SIGMA)
