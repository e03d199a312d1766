"""Grids that lie anywhere in the world, and smooth transforms and images between them."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from voxelopt_train.grids import Grid
from voxelopt_train.images import Image
from voxelopt_train.transforms import AffineTransform, DisplacementField


def make_grid(shape, spacing, degrees=(0, 0, 0), axes=(0, 1, 2), flips=(1, 1, 1)) -> Grid:
    """Grid centred near the world's origin: rotated, with permuted and flipped axes."""
    affine = np.eye(4)
    directions = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()[:, list(axes)]
    affine[:3, :3] = directions * np.multiply(spacing, flips)
    affine[:3, 3] = np.array([1.5, -2, 3]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


PLAIN = make_grid((24, 20, 18), (2, 2, 2))
PAIRS = {
    "unequal grids": (PLAIN, make_grid((30, 17, 22), (1.7, 2.4, 1.9))),
    "oblique fixed": (make_grid((24, 20, 18), (2, 2, 2), (20, -15, 30)), PLAIN),
    "oblique moving": (PLAIN, make_grid((24, 20, 18), (2, 2, 2), (20, -15, 30))),
    "flipped": (
        make_grid((24, 20, 18), (2, 2, 2), flips=(-1, -1, 1)),
        make_grid((24, 20, 18), (2, 2, 2), flips=(1, -1, -1)),
    ),
    "anisotropic": (
        make_grid((30, 28, 8), (1.2, 1.5, 5)),
        make_grid((9, 30, 30), (5, 1.2, 1.3)),
    ),
    "permuted": (
        make_grid((24, 20, 18), (2, 2, 2), axes=(2, 0, 1)),
        make_grid((24, 20, 18), (2, 2, 2), axes=(1, 0, 2), flips=(1, 1, -1)),
    ),
    "all together": (
        make_grid((26, 9, 22), (1.5, 4, 2), (25, 10, -40), (1, 2, 0), (-1, 1, 1)),
        make_grid((20, 24, 12), (2.2, 1.6, 3), (-30, 5, 15), (2, 1, 0), (1, -1, 1)),
    ),
}


def smooth_noise(shape, sigma, seed) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = gaussian_filter(noise, sigma)
    return (smooth / smooth.std()).astype(np.float32)


def some_image(grid: Grid) -> Image:
    return Image(torch.from_numpy(100 * smooth_noise(grid.shape, 2, 0)), grid, "moving image")


def some_field(grid: Grid) -> DisplacementField:
    mm = [2 * smooth_noise(grid.shape, 3, seed) for seed in (1, 2, 3)]
    return DisplacementField(torch.from_numpy(np.stack(mm))[None], grid)


def some_affine() -> AffineTransform:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", [5, -8, 4], degrees=True).as_matrix() * 1.05
    matrix[:3, 3] = [2, -1, 3]
    return AffineTransform(matrix)
