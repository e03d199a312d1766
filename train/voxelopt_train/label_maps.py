"""Label maps beside a registration: read with their images, and resampled as they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from voxelopt_train.errors import InputError, warn_once
from voxelopt_train.images import Image, ImageLike, read_image
from voxelopt_train.resampling import resample
from voxelopt_train.transforms import AffineTransform, Transform

# FreeSurfer's maps of the brain have up to some 190 (up to 14175, so it is not the largest that
# counts), TotalSegmentator's of the body 117; images of 8 bits mostly more than 200 intensities.
_MOST_LABELS = 200
_LARGEST_COUNTED = 2**16  # counting takes memory by the largest, sorting takes time


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

    A warning says where they have fewer than half of their labels in common.

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
    _check_common(pair[0], pair[1])
    return pair[0], pair[1]


def _check_common(fixed: Image, moving: Image) -> None:
    a, b = distinct_labels(fixed), distinct_labels(moving)
    common = len(a & b)
    if 2 * common < max(min(len(a), len(b)), 1):
        warn_once(
            f"{fixed.name} and {moving.name} have {common or 'no'} labels in common, of {len(a)} "
            f"and {len(b)}: expected the same numbers for the same structures"
        )


def distinct_labels(labels: Image) -> set[int]:
    """All labels of a map but 0."""
    values = labels.data.flatten()
    low, high = values.aminmax()
    counted = low >= 0 and high < _LARGEST_COUNTED
    found = values.bincount().nonzero() if counted else values.unique()
    return set(found.flatten().tolist()) - {0}


def refuse_intensities(labels: Image) -> None:
    """Raise InputError for an image of intensities: many values, of which most neighbours differ.

    Many alone get a warning: no common segmentation has as many, parcellations of the cortex do.
    """
    count = len(distinct_labels(labels))
    if count > _MOST_LABELS:
        if _most_neighbours_differ(labels.data):
            raise InputError(
                f"{labels.name}: {count} different values, and most voxels differ from the next: "
                "this is an image of intensities, expected a label map"
            )
        warn_once(
            f"{labels.name}: {count} different labels, where label maps have some {_MOST_LABELS} "
            "at most; is this an image of intensities?"
        )


def _most_neighbours_differ(labels: Tensor) -> bool:
    """Where there are labels, along each axis with several voxels."""
    equal = pairs = 0
    for axis in (n for n in range(labels.dim()) if labels.shape[n] > 1):
        first = labels.narrow(axis, 0, labels.shape[axis] - 1)
        second = labels.narrow(axis, 1, labels.shape[axis] - 1)
        labelled = (first != 0) & (second != 0)
        pairs += int(labelled.sum())
        equal += int((labelled & (first == second)).sum())
    return 2 * equal < pairs


def read_labels(source: ImageLike, name: str, image: Image) -> Image:
    """Read the label map of an image, which has to lie on its grid and be nowhere negative.

    A warning says where it looks like an image of intensities.
    """
    labels = _read_beside(source, name, image)
    refuse_intensities(labels)
    return labels


def _read_beside(source: ImageLike, name: str, image: Image) -> Image:
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
    mask = _read_beside(source, name, image)
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
