"""The method as its equations read, in plain PyTorch: what the layer is measured against.

Every step is one expression over whole volumes, as a first implementation would have it: all
offsets of all channels at once, all taps of a filter at once, the coupling of all offsets at once.
Nothing here is slow on purpose, and nothing of the layer's operators is used but the shapes of the
pyramid and the resizing between its levels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from voxelopt_layers import VoxelOptLayer
from voxelopt_layers.displacement import resize, resize_displacement
from voxelopt_layers.offsets import search_offsets
from voxelopt_layers.pyramid import pyramid_shapes


def naive_registration(layer: VoxelOptLayer, fixed: Tensor, moving: Tensor) -> Tensor:
    """The displacement ``(1, 3, *spatial)`` in voxels that ``layer`` would find.

    Args:
        layer: whose settings are followed: L1 dissimilarity, 3-D, unmasked, one pair.
        fixed: features ``(1, C, D, H, W)``.
        moving: features of the same shape.
    """
    pyramids = [[fixed], [moving]]
    for shape in reversed(pyramid_shapes(fixed.shape[2:], layer.levels)[:-1]):
        for pyramid in pyramids:
            pyramid.insert(0, resize(pyramid[0], shape, layer.align_corners))
    u = fixed.new_zeros((1, 3, *pyramids[0][0].shape[2:]))
    for f, m in zip(*pyramids, strict=True):
        shape = f.shape[2:]
        u = resize_displacement(u, shape, layer.align_corners, layer.upsampling_scale)
        for _ in range(layer.warps_per_level):
            v = _velocity(layer, f, _warp(m, u, layer.boundary)) / 2**layer.integration_steps
            for _ in range(layer.integration_steps):
                v = v + _warp(v, v, "border")
            u = v + _warp(u, v, "border")
    return u


def _velocity(layer: VoxelOptLayer, fixed: Tensor, moving: Tensor) -> Tensor:
    solver, radius = layer.solver, layer.search_radius
    offsets = fixed.new_tensor(search_offsets(radius, 3))
    padded = _pad(moving, [radius] * 6, layer.boundary)
    D, H, W = fixed.shape[2:]
    windows = [
        padded[:, :, radius + a : radius + a + D, radius + b : radius + b + H,
               radius + c : radius + c + W]
        for a, b, c in search_offsets(radius, 3)
    ]  # fmt: skip
    cost = (fixed[:, :, None] - torch.stack(windows, 2)).abs().mean(1)
    probability = torch.softmax(-cost / solver.value("beta"), 1)
    probability = probability.clamp_min(max(solver.probability_floor, 1e-30))
    probability = probability / probability.sum(1, keepdim=True)
    entropy = -(probability * probability.log()).sum(1, keepdim=True)
    sigma = _sigma(layer, entropy)
    taps = torch.arange(-solver.filter_radius, solver.filter_radius + 1).to(sigma)
    weights = torch.exp(-0.5 * (taps.reshape(1, -1, 1, 1, 1) / sigma) ** 2)
    weights = weights / weights.sum(1, keepdim=True)

    def smooth(image: Tensor) -> Tensor:
        for _ in range(solver.filter_passes):
            for axis in (2, 3, 4):
                pad = [0] * 6
                pad[2 * (4 - axis)] = pad[2 * (4 - axis) + 1] = solver.filter_radius
                extended = _pad(image, pad, layer.boundary)
                n = image.shape[axis]
                shifted = [extended.narrow(axis, j, n) for j in range(len(taps))]
                image = (torch.stack(shifted, 2) * weights[:, None]).sum(2)
        return image

    if solver.cost_filtering:
        cost = smooth(cost)
    u = torch.zeros_like(fixed[:, :1]).expand(-1, 3, -1, -1, -1)
    columns = offsets.reshape(1, -1, 3, 1, 1, 1)
    for theta in solver.value("theta"):
        distance = (columns - u[:, None]).square().sum(2)
        energy = cost + distance / (2 * theta)
        if solver.assignment == "soft":
            chosen = torch.softmax(-energy / solver.value("temperature"), 1)
        else:
            chosen = (energy == energy.amin(1, keepdim=True)).to(energy)
            if solver.ties == "mean":
                chosen = chosen / chosen.sum(1, keepdim=True)
        u = smooth((chosen[:, :, None] * columns).sum(1))
    return u


def _sigma(layer: VoxelOptLayer, entropy: Tensor) -> Tensor:
    solver = layer.solver
    if solver.sigma_range is None:
        sigma = solver.value("alpha") * torch.log(entropy / entropy.max() + 1)
        return sigma.clamp_min(0.05)
    low, high = solver.sigma_range
    relative = (entropy - entropy.min()) / (entropy.max() - entropy.min())
    return low + (high - low) * torch.log(relative + 1) / math.log(2)


def _warp(image: Tensor, displacement: Tensor, boundary: str) -> Tensor:
    axes = [torch.arange(n, dtype=image.dtype, device=image.device) for n in image.shape[2:]]
    identity = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    sizes = identity.new_tensor(image.shape[2:]).reshape(1, 3, 1, 1, 1)
    grid = (2 * (identity + displacement) + 1) / sizes - 1
    grid = grid.permute(0, 2, 3, 4, 1).flip(-1)
    return F.grid_sample(image, grid, padding_mode=boundary, align_corners=False)


def _pad(image: Tensor, pad: list[int], boundary: str) -> Tensor:
    return F.pad(image, pad, mode="constant" if boundary == "zeros" else "replicate")
