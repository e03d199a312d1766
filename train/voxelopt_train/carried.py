"""Images in the memory of other libraries: registered, and carried to the fixed image's grid.

MONAI and TorchIO keep an image as a tensor ``(C, *spatial)`` beside its affine in RAS mm.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid
from voxelopt_train.images import Image
from voxelopt_train.registered import Registration
from voxelopt_train.registration import register
from voxelopt_train.resampling import resample

Channels = tuple[Tensor, np.ndarray]  # (C, *spatial), and its affine (4, 4) in RAS mm


def register_channels(fixed: Channels, moving: Channels, **options: Any) -> Registration:
    """`register` on the first channel of both; ``options`` are those of `register`."""
    pair = [
        (_volumes(data, f"{role} image")[0].cpu().numpy(), affine)
        for role, (data, affine) in (("fixed", fixed), ("moving", moving))
    ]
    return register(*pair, **options)


def carry_channels(
    image: Channels, name: str, result: Registration, mode: Literal["linear", "nearest"]
) -> Tensor:
    """Warp all channels of an image that lies in the world of the moving one.

    Args:
        image: on any grid.
        name: what messages call it.
        result: of the registration.
        mode: ``"linear"``; or ``"nearest"`` for labels.

    Returns:
        ``(C, *fixed.shape)`` on the device of the image, in float32 or, of labels, in their type.
        Beyond the image an intensity is the least of its channel, a label 0.
    """
    volumes, affine = _volumes(image[0], name), np.asarray(image[1], dtype=np.float64)
    nx, ny, nz = volumes.shape[1:]
    grid = Grid((nx, ny, nz), affine)
    fixed, transforms = result.fixed.grid, result.transforms
    warped = []
    for volume in volumes.cpu():
        fill = float(volume.min()) if mode == "linear" else 0.0
        warped.append(resample(Image(volume, grid, name), fixed, transforms, mode, fill).data)
    return torch.stack(warped).to(image[0].device)


def _volumes(data: Tensor, name: str) -> Tensor:
    """The tensor ``(C, *spatial)`` without the class and the gradient that a library gave it."""
    if data.dim() != 4 or data.shape[0] == 0:
        raise InputError(
            f"{name}: expected a volume as (channels, x, y, z), got shape {tuple(data.shape)}"
        )
    return torch.as_tensor(data.detach()).as_subclass(Tensor)
