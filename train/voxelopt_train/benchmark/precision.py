"""What keeping cost volumes in half precision costs, against float64.

On two phantom patients, since the error depends on the images: where costs are nearly equal,
rounding decides between neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from voxelopt_layers import VoxelOptLayer
from voxelopt_models import MINDSSC, RawIntensity
from voxelopt_train.phantom import CT_WINDOW, phantom_pair
from voxelopt_train.phantom.patients import SHAPE, SPACING_MM


@torch.no_grad()
def measure_precision(
    size: list[int], settings: dict[str, Any], device: str
) -> list[dict[str, Any]]:
    """Features, ``cost_dtype``, mean and largest error in voxels of each.

    The error is the length of the difference to the displacement found in float64.
    """
    rows = []
    for features, (fixed, moving) in _features(size, device).items():
        exact = VoxelOptLayer(**settings)(fixed.double(), moving.double())
        for dtype in ("float32", "float16", "bfloat16"):
            kept = {} if dtype == "float32" else {"cost_dtype": dtype}
            error = (VoxelOptLayer(**{**settings, **kept})(fixed, moving) - exact).norm(dim=1)
            errors = {"mean_error": error.mean().item(), "max_error": error.max().item()}
            rows.append({"features": features, "cost_dtype": dtype, **errors})
    return rows


def _features(size: list[int], device: str) -> dict[str, list[Tensor]]:
    """Features of two patients, whose trunk fills the volume at any size."""
    spacing = max(n * SPACING_MM / own for n, own in zip(SHAPE, size, strict=True))
    pair = phantom_pair(0, size, spacing)
    raw = [
        RawIntensity(CT_WINDOW)(image.data[None, None].to(device))
        for image in (pair.fixed, pair.moving)
    ]
    mind = MINDSSC().to(device)
    return {"raw": raw, "MIND": [mind(image) for image in raw]}
