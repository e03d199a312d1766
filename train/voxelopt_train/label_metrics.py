"""Agreement of label maps: Dice coefficient and 95th percentile of the surface distance.

How a label counts that is missing somewhere is a matter of the protocol, see `metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.ndimage import find_objects
from surface_distance import compute_robust_hausdorff, compute_surface_distances

Protocol = Literal["voxelopt", "learn2reg"]


def dice_per_label(
    fixed: np.ndarray,
    moving: np.ndarray,
    warped: np.ndarray,
    labels: Sequence[int],
    protocol: Protocol = "voxelopt",
) -> dict[int, float]:
    """Dice coefficient ``2 |F n W| / (|F| + |W|)`` of each label of fixed and warped.

    Args:
        fixed: ``(*spatial)`` integer labels.
        moving: the same before the warp; only asked whether a label is there.
        warped: the same after the warp.
        labels: which labels.
        protocol: see `metrics`.
    """
    in_fixed, in_moving, in_warped, in_both = (
        dict(zip(*(a.tolist() for a in np.unique(values, return_counts=True)), strict=True))
        for values in (fixed, moving, warped, fixed[fixed == warped])
    )
    dice = {}
    for label in labels:
        absent = label not in in_fixed or label not in in_moving
        total = in_fixed.get(label, 0) + in_warped.get(label, 0)
        value = 2 * in_both.get(label, 0) / max(total, 1)
        dice[label] = math.nan if absent and protocol == "learn2reg" else value
    return dice


def hd95_per_label(
    fixed: np.ndarray,
    moving: np.ndarray,
    warped: np.ndarray,
    labels: Sequence[int],
    spacing_mm: Sequence[float],
    protocol: Protocol = "voxelopt",
) -> dict[int, float]:
    """Robust Hausdorff distance: the larger of the two directed 95th percentiles.

    Surfaces and their area weights are those of the ``surface-distance`` package (marching cubes at
    the voxel corners): the percentile is taken over surface area, not over voxels.

    Args:
        fixed: ``(*spatial)`` integer labels.
        moving: the same before the warp.
        warped: the same after the warp.
        labels: which labels.
        spacing_mm: voxel size along each axis; ``"learn2reg"`` counts in voxels and ignores it.
        protocol: see `metrics`.

    Returns:
        NaN for a label that is absent from fixed or moving, under either protocol.
    """
    spacing = tuple(spacing_mm) if protocol == "voxelopt" else (1.0, 1.0, 1.0)
    boxes = [find_objects(values) for values in (fixed, moving, warped)]
    hd95 = {}
    for label in labels:
        of_fixed, of_moving, of_warped = (b[label - 1] if label <= len(b) else None for b in boxes)
        other, of_other = warped, of_warped
        if of_other is None and protocol == "voxelopt":
            other, of_other = moving, of_moving
        if of_fixed is None or of_moving is None:
            hd95[label] = math.nan
        elif of_other is None:
            hd95[label] = math.inf
        else:
            box = tuple(
                slice(min(a.start, b.start), max(a.stop, b.stop))
                for a, b in zip(of_fixed, of_other, strict=True)
            )
            distances = compute_surface_distances(fixed[box] == label, other[box] == label, spacing)
            hd95[label] = float(compute_robust_hausdorff(distances, 95.0))
    return hd95
