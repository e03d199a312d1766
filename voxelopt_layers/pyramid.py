"""Feature pyramids, and features that are known only where a mask says so."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from voxelopt_layers.displacement import Boundary, resize, warp

# No axis is halved to fewer voxels than this.
_SHORTEST_AXIS = 4
# A mask of less is the rounding of interpolation weights.
_LEAST_KNOWN = 1e-3


def pyramid_shapes(spatial: Sequence[int], levels: int) -> list[tuple[int, ...]]:
    """Spatial shapes from coarse to fine; an axis that would get shorter than 4 stays as it is."""
    shapes = [tuple(spatial)]
    for _ in range(levels - 1):
        halved = tuple((n + 1) // 2 if (n + 1) // 2 >= _SHORTEST_AXIS else n for n in shapes[0])
        shapes.insert(0, halved)
    return shapes


def feature_pyramid(
    features: Tensor,
    mask: Tensor | None,
    shapes: Sequence[Sequence[int]],
    align_corners: bool = False,
) -> list[tuple[Tensor, Tensor | None]]:
    """Features and masks of all levels, each the linear halving of the next.

    What is masked has no part in the averages that a coarser level is made of, unless all is.

    Args:
        features: ``(B, C, *spatial)``.
        mask: ``(B, 1, *spatial)`` in [0, 1], or None.
        shapes: from `pyramid_shapes`.
        align_corners: see `resize`.

    Returns:
        Pairs of features and mask, from coarse to fine.
    """
    pyramid = [(features, mask)]
    for shape in reversed(shapes[:-1]):
        if mask is None:
            features = resize(features, shape, align_corners)
        else:
            weighted = resize(features * mask, shape, align_corners)
            features = resize(features, shape, align_corners)
            mask = resize(mask, shape, align_corners)
            features = _known(weighted, mask, features)
        pyramid.insert(0, (features, mask))
    return pyramid


def warp_features(
    features: Tensor, mask: Tensor | None, displacement: Tensor, boundary: Boundary
) -> tuple[Tensor, Tensor | None]:
    """Warp features and their mask, which continues beyond the volume with its border."""
    if mask is None:
        return warp(features, displacement, boundary=boundary), None
    weighted = warp(features * mask, displacement, boundary=boundary)
    features = warp(features, displacement, boundary=boundary)
    mask = warp(mask, displacement, boundary="border")
    return _known(weighted, mask, features), mask


def _known(weighted: Tensor, mask: Tensor, features: Tensor) -> Tensor:
    """Features from their product with the mask; where nothing is known, as they are.

    There they cost nothing themselves, but patches reach across: zeros would be an edge in them.
    """
    return torch.where(mask > _LEAST_KNOWN, weighted / mask.clamp_min(_LEAST_KNOWN), features)
