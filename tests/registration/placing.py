"""What the tests of `register` share: phantoms seen on grids that lie anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from voxelopt_train import Registration
from voxelopt_train.grids import Grid
from voxelopt_train.images import Image
from voxelopt_train.phantom import ORGANS, Pair
from voxelopt_train.resampling import resample

SIZE = {"shape": (40, 32, 36), "spacing_mm": 8.0}
WINDOW = (-200.0, 300.0)
AIR = -1000.0
ANISOTROPIC = {"shape": (56, 44, 20), "spacing": (6, 6, 14)}


def source(image: Image) -> tuple[np.ndarray, np.ndarray]:
    return image.data.numpy(), image.grid.affine


def sources(pair: Pair) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    return source(pair.fixed), source(pair.moving)


def label_sources(pair: Pair) -> dict[str, Any]:
    names = "fixed_labels", "moving_labels"
    return {name: source(getattr(pair, name)) for name in names}


def center(grid: Grid) -> np.ndarray:
    return (grid.affine @ [*(np.array(grid.shape) - 1) / 2, 1])[:3]


def place(
    like: Grid,
    shape: tuple[int, int, int] = (40, 32, 36),
    spacing: tuple[float, float, float] = (8, 8, 8),
    degrees: tuple[float, float, float] = (0, 0, 0),
    axes: tuple[int, int, int] = (0, 1, 2),
    flips: tuple[int, int, int] = (1, 1, 1),
    shift_mm: tuple[float, float, float] = (0, 0, 0),
) -> Grid:
    """Grid that shares its centre with another: rotated, with permuted and flipped axes."""
    affine = np.eye(4)
    directions = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()[:, list(axes)]
    affine[:3, :3] = directions * np.multiply(spacing, flips)
    affine[:3, 3] = center(like) + shift_mm - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def moved_to(pair: Pair, fixed: Grid | None, moving: Grid | None) -> Pair:
    """The same two patients where they were, seen on other grids."""

    def seen(image: Image, labels: Image, grid: Grid | None) -> tuple[Image, Image]:
        if grid is None:
            return image, labels
        return resample(image, grid, fill=AIR), resample(labels, grid, mode="nearest")

    return Pair(
        *seen(pair.fixed, pair.fixed_labels, fixed),
        *seen(pair.moving, pair.moving_labels, moving),
        None,
    )


def shifted(image: Image, offset_mm: list[float]) -> Image:
    affine = image.grid.affine.copy()
    affine[:3, 3] += offset_mm
    return Image(image.data, Grid(image.grid.shape, affine), image.name)


def dice(a: torch.Tensor, b: torch.Tensor) -> float:
    present = [k for k in ORGANS if (a == k).any() or (b == k).any()]
    return float(
        np.mean([2 * int(((a == k) & (b == k)).sum()) / int((a == k).sum() + (b == k).sum())
                 for k in present])
    )  # fmt: skip


def gain(result: Registration) -> float:
    """How much Dice rises over the initial alignment."""
    labels = result.labels
    assert labels is not None
    aligned, warped = (dice(labels.fixed.data, m.data) for m in (labels.aligned, labels.warped))
    return warped - aligned
