"""Displacements in voxels: MONAI's DDF and this package's own convention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid
from voxelopt_train.transforms.maps import DisplacementField, Transform, as_displacement_field
from voxelopt_train.transforms.vectors import field_of, vectors_of


def to_ddf(transforms: Sequence[Transform], fixed: Grid, moving: Grid | None = None) -> Tensor:
    """Displacement in voxels of the transforms, the first first.

    Args:
        transforms: from the fixed to the moving world.
        fixed: grid of the fixed image.
        moving: grid of the image that the displacement is to warp, as it lies in its array; None
            for one that was resampled on ``fixed``.

    Returns:
        ``(1, 3, *fixed.shape)`` float32: ``warped(x) = moving(x + u(x))``, x in voxels of the
        fixed grid and ``x + u(x)`` in voxels of the moving one. As MONAI's ``Warp`` wants it.
    """
    field = as_displacement_field(transforms, fixed)
    to_moving = np.linalg.inv((moving or fixed).affine)
    return torch.from_numpy(vectors_of(field, np.linalg.inv(fixed.affine), to_moving))[None]


def from_ddf(displacement: Tensor, fixed: Grid, moving: Grid | None = None) -> DisplacementField:
    """The transform of a displacement in voxels: the inverse of `to_ddf`.

    Raises:
        InputError: the displacement is not ``(1, 3, *fixed.shape)`` or has NaN or infinite values.
    """
    if displacement.shape != (1, 3, *fixed.shape):
        raise InputError(
            f"the displacement: expected shape {(1, 3, *fixed.shape)}, got "
            f"{tuple(displacement.shape)}"
        )
    vectors = displacement.detach().cpu().numpy()[0]
    to_moving = np.linalg.inv((moving or fixed).affine)
    return field_of(vectors, fixed, np.linalg.inv(fixed.affine), to_moving, "the displacement")
