"""Random features to register."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from voxelopt_layers import exponentiate, warp


def texture(shape, channels=4, batch=1, smooth=True):
    """Random features, smooth enough to be registered."""
    image = torch.randn(batch, channels, *shape)
    if smooth:
        pool = F.avg_pool2d if len(shape) == 2 else F.avg_pool3d
        image = pool(image, 3, stride=1, padding=1)
    return image


def pair(shape, smooth_velocity, strength=1.5, channels=4):
    """Moving features, and fixed ones that are the moving ones warped by a known displacement."""
    moving = texture(shape, channels)
    truth = exponentiate(smooth_velocity(shape, strength).float())
    return warp(moving, truth, boundary="border"), moving, truth
