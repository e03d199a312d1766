"""Message passing: a separable Gaussian whose width differs from voxel to voxel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from voxelopt_layers import native
from voxelopt_layers.arguments import check_choice, check_tensor
from voxelopt_layers.displacement import BOUNDARIES, Boundary
from voxelopt_layers.fused_descent import smooth_fused

# Elements handled at a time: enough to share among threads, or to fill a GPU, and no more.
_BLOCK = {"cpu": 2**20, "cuda": 2**23}


def gaussian_weights(sigma: Tensor, radius: int) -> list[Tensor]:
    """Weights of the taps 0, 1, ..., ``radius`` of a Gaussian truncated there, per voxel.

    Args:
        sigma: width ``(B, 1, *spatial)`` in voxels, above 0.
        radius: number of taps on each side.

    Returns:
        ``radius + 1`` maps ``(B, 1, *spatial)``; tap 0 plus twice the others is 1.
    """
    exponent = -0.5 / sigma.square()
    taps = [torch.exp(exponent * j * j) for j in range(1, radius + 1)]
    centre = 1 / (1 + 2 * sum(taps, torch.zeros_like(sigma)))
    return [centre, *[tap * centre for tap in taps]]


def adaptive_gaussian(
    image: Tensor,
    sigma: Tensor,
    radius: int = 3,
    passes: int = 1,
    boundary: Boundary = "border",
) -> Tensor:
    """Smooth along each axis in turn with the Gaussian that each voxel asks for.

    ``y(x) = sum_j w_j(sigma(x)) image(x + j e_axis)``, ``|j| <= radius``.

    Args:
        image: ``(B, C, *spatial)``: a cost volume or a displacement.
        sigma: ``(B, 1, *spatial)`` in voxels, above 0, see `entropy_to_sigma`; or that of all
            samples, ``(1, 1, *spatial)``.
        radius: taps on each side.
        passes: how often the sequence of axes is gone through.
        boundary: beyond the volume ``image`` is 0 (``"zeros"``) or repeats (``"border"``).

    Returns:
        ``(B, C, *spatial)``.
    """
    check_tensor(image, "image")
    check_tensor(sigma, "sigma")
    check_choice(boundary, "boundary", BOUNDARIES)
    expected = (image.shape[0], 1, *image.shape[2:])
    if sigma.shape not in (expected, (1, *expected[1:])):  # or the same for all samples
        raise ValueError(
            f"sigma must be {expected}, one width for each voxel, got {tuple(sigma.shape)}"
        )
    needs_grad = torch.is_grad_enabled() and (image.requires_grad or sigma.requires_grad)
    fits = sigma.shape == expected
    if fits and not needs_grad and native.suits(sigma, cost=image):
        image, sigma = image.contiguous(), sigma.contiguous()
        out = torch.empty_like(image)
        return smooth_fused(image, sigma, out, radius, passes, boundary == "border")
    return filter_with_weights(image, gaussian_weights(sigma, radius), passes, boundary)


def filter_with_weights(
    image: Tensor,
    weights: list[Tensor],
    passes: int = 1,
    boundary: Boundary = "border",
    out: Tensor | None = None,
) -> Tensor:
    """`adaptive_gaussian` with the weights of `gaussian_weights`, which one level uses often.

    Where no gradient is needed the result is written to ``out``, which may be ``image`` itself.
    """
    dtype = weights[0].dtype  # a cost volume may be kept in less
    if torch.is_grad_enabled() and (image.requires_grad or weights[0].requires_grad):
        return _all_axes(image.to(dtype), weights, passes, boundary).to(image.dtype)
    out = torch.empty_like(image) if out is None else out
    channels = image.shape[1]
    group = max(1, _BLOCK.get(image.device.type, 2**23) // max(1, image[:, 0].numel()))
    group = channels if torch.compiler.is_compiling() else group  # a graph would hold every part
    # A few channels go through all axes while they are in cache; none depends on another.
    for start in range(0, channels, group):
        part = slice(start, start + group)
        out[:, part] = _all_axes(image[:, part].to(dtype), weights, passes, boundary)
    return out


def _all_axes(image: Tensor, weights: list[Tensor], passes: int, boundary: Boundary) -> Tensor:
    for _ in range(passes):
        for axis in range(2, image.dim()):
            image = _along_axis(image, weights, axis, boundary)
    return image


def _along_axis(image: Tensor, weights: list[Tensor], axis: int, boundary: Boundary) -> Tensor:
    radius, length = len(weights) - 1, image.shape[axis]
    pad = [0] * (2 * (image.dim() - 2))
    from_last = image.dim() - 1 - axis
    pad[2 * from_last] = pad[2 * from_last + 1] = radius
    padded = F.pad(image, pad, mode="constant" if boundary == "zeros" else "replicate")
    result = image * weights[0]
    in_place = not result.requires_grad
    for j in range(1, radius + 1):
        for start in (radius - j, radius + j):
            neighbour = padded.narrow(axis, start, length)
            if in_place:
                result.addcmul_(neighbour, weights[j])
            else:
                result = torch.addcmul(result, neighbour, weights[j])
    return result
