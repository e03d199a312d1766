"""MIND-SSC: the modality-independent neighbourhood descriptor in its self-similarity context."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from voxelopt_layers.local_correlation import volume_mean, window_mean
from voxelopt_layers.offsets import pad


def mind_ssc(image: Tensor, radius: int = 2, dilation: int = 2) -> Tensor:
    """MIND-SSC descriptors (Heinrich et al., MICCAI 2013).

    ``exp(-D(x, p) / V(x))`` for the pairs p of neighbours of x that touch (12 pairs of the six
    neighbours in 3-D, 4 of the four in 2-D): D is the mean squared difference of the patches around
    the two neighbours, less the least of the pairs; V is its mean over the pairs, kept between
    0.001 and 1000 times the sample's mean. Intensities may have any scale and
    offset, but contrast below some 1e-4 of the largest (in float32) is taken for rounding.

    Args:
        image: ``(B, 1, *spatial)``, 2-D or 3-D.
        radius: of the patches, in voxels.
        dilation: distance of the neighbours, in voxels.

    Returns:
        ``(B, 12, *spatial)`` or ``(B, 4, *spatial)`` in (0, 1], float32 at least.

    Raises:
        ValueError: the image has another number of channels or axes.
    """
    d = image.dim() - 2
    if d not in (2, 3) or image.shape[1] != 1:
        raise ValueError(f"image must be (B, 1, H, W) or (B, 1, D, H, W), got {tuple(image.shape)}")
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    # Whatever their unit is, the squares of intensities are numbers then.
    largest = image.detach().abs().amax(tuple(range(1, d + 2)), keepdim=True)
    image = image / largest.clamp_min(torch.finfo(image.dtype).tiny)
    neighbours = [(axis, sign) for axis, sign in product(range(d), (-1, 1))]
    padded = pad(image, dilation, "border")

    def shifted(neighbour: tuple[int, int]) -> Tensor:
        view = padded
        for axis, length in enumerate(image.shape[2:]):
            step = neighbour[1] * dilation if axis == neighbour[0] else 0
            view = view.narrow(2 + axis, dilation + step, length)
        return view

    def patch_distances(a: tuple[int, int]) -> Tensor:
        """To the later neighbours that ``a`` touches, together: pooling shares out channels."""
        later = [shifted(b) for b in neighbours if b[0] > a[0]]
        squares = (torch.cat(later, dim=1) - shifted(a)).square()
        return window_mean(pad(squares, radius, "border"), radius)

    distances = torch.cat([patch_distances(a) for a in neighbours if a[0] < d - 1], dim=1)
    distances = distances - distances.amin(1, keepdim=True)
    variance = distances.mean(1, keepdim=True)
    typical = volume_mean(variance, first_axis=1)
    # A constant image has no variance but that of its rounding in a warp: all descriptors are 1,
    # and their gradient is 0.
    floor = (256 * torch.finfo(image.dtype).eps) ** 2
    variance = torch.clamp(variance, typical * 1e-3, typical * 1e3).clamp_min(floor)
    return torch.exp(-distances / variance)


def descriptors_of_channels(features: Tensor) -> Tensor:
    """`mind_ssc` of each channel, of patches of 3 voxels around the neighbours of a voxel.

    Args:
        features: ``(B, C, *spatial)``.

    Returns:
        ``(B, 12 C, *spatial)``, in 2-D ``(B, 4 C, *spatial)``.
    """
    one_by_one = features.flatten(0, 1).unsqueeze(1)
    descriptors = mind_ssc(one_by_one, radius=1, dilation=1)
    return torch.unflatten(descriptors, 0, features.shape[:2]).flatten(1, 2)
