"""Label maps beside a registration: read with their images, and resampled as they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from voxelopt_train.errors import InputError
from voxelopt_train.images import Image, ImageLike, read_image
from voxelopt_train.resampling import resample
from voxelopt_train.transforms import AffineTransform, Transform


@dataclass(frozen=True, eq=False)
class LabelMaps:
    """Labels on the fixed grid; ``moving`` as they lie in the world, ``aligned`` initially."""

    fixed: Image
    moving: Image
    aligned: Image
    warped: Image


def read_label_pair(
    fixed_labels: ImageLike | None, moving_labels: ImageLike | None, fixed: Image, moving: Image
) -> tuple[Image, Image] | None:
    """Read the label maps of two images; None if there are none.

    Raises:
        InputError: one is missing, not on the grid of its image, negative, or both are 0.
    """
    if fixed_labels is None and moving_labels is None:
        return None
    if fixed_labels is None or moving_labels is None:
        raise InputError("labels are compared, so both the fixed and the moving ones are needed")
    pair = [
        read_labels(fixed_labels, "fixed labels", fixed),
        read_labels(moving_labels, "moving labels", moving),
    ]
    if not any(labels.data.any() for labels in pair):
        raise InputError("the labels are 0 everywhere, there is nothing to compare")
    return pair[0], pair[1]


def read_labels(source: ImageLike, name: str, image: Image) -> Image:
    """Read the label map of an image, which has to lie on its grid and be nowhere negative."""
    labels = read_image(source, name, labels=True)
    if not labels.grid.matches(image.grid):
        what = f"their affines differ (both have shape {image.grid.shape})"
        if labels.grid.shape != image.grid.shape:
            what = f"expected shape {image.grid.shape}, got {labels.grid.shape}"
        raise InputError(f"{labels.name} does not lie on the grid of {image.name}: {what}")
    if labels.data.min() < 0:
        raise InputError(f"{labels.name}: labels must be 0 or above, found {labels.data.min()}")
    return labels


def read_mask(source: ImageLike | None, name: str, image: Image) -> Image:
    """1 where a mask on the grid of ``image`` is above 0, else 0; 1 everywhere without a mask.

    Raises:
        InputError: it cannot be read, lies on another grid, is negative, or 0 everywhere.
    """
    if source is None:
        return Image(torch.ones_like(image.data), image.grid, name)
    mask = read_labels(source, name, image)
    if not mask.data.any():
        raise InputError(f"{mask.name}: the mask is 0 everywhere, nothing can be matched")
    return Image((mask.data > 0).to(image.data.dtype), image.grid, mask.name)


def warp_label_maps(
    fixed: Image, moving: Image, before: list[AffineTransform], transforms: list[Transform]
) -> LabelMaps:
    """Resample the moving labels onto the fixed grid as they lie, initially aligned and warped."""
    unaligned = resample(moving, fixed.grid, mode="nearest")
    return LabelMaps(
        fixed=fixed,
        moving=unaligned,
        aligned=resample(moving, fixed.grid, before, mode="nearest") if before else unaligned,
        warped=resample(moving, fixed.grid, transforms, mode="nearest"),
    )
