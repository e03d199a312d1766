"""Whether two images can be registered at all, and what their user may have meant otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from numbers import Real

import numpy as np
from torch import Tensor

from voxelopt_train.errors import InputError, warn_once
from voxelopt_train.grids import Grid, shared_part
from voxelopt_train.images import Image
from voxelopt_train.transforms import AffineTransform

_FEW_VALUES = 64  # that are whole: those of a label map
_LITTLE = 0.3  # of a field of view, below which two headers hardly speak of the same place


def cut_off(image: Image, window: tuple[float, float] | None) -> Image:
    """The image with its intensities within the window, all of them if there is none."""
    # On the image's own grid: resampled first, what lies far outside would bleed into the window.
    return image if window is None else replace(image, data=image.data.clamp(*window))


def check_window(window: tuple[float, float] | None) -> None:
    """Raise InputError for a window that leaves nothing of any image."""
    if window is None:
        return
    bounds = tuple(window) if isinstance(window, Iterable) else ()
    if len(bounds) != 2 or not all(isinstance(bound, Real) for bound in bounds):
        raise InputError(f"the window must be two numbers, low and high, got {window!r}")
    if not bounds[0] < bounds[1]:
        raise InputError(f"the window must go from low to high, got {bounds[0]:g} {bounds[1]:g}")


def check_pair(fixed: Image, moving: Image, window: tuple[float, float] | None) -> None:
    """Raise InputError for what can be read and yet has nothing to register."""
    for image in (fixed, moving):
        if image.data.min() == image.data.max():
            place = "" if window is None else f" within the window {window[0]:g} {window[1]:g}"
            raise InputError(f"{image.name}: all voxels are equal{place}, nothing can be matched")
    slices = [1 in image.grid.shape for image in (fixed, moving)]
    if slices[0] != slices[1]:
        flat, solid = (fixed, moving) if slices[0] else (moving, fixed)
        raise InputError(f"{flat.name} is a single slice and {solid.name} a volume, expected alike")


def check_kinds(fixed: Image, moving: Image) -> None:
    """Warn where one of both looks like a label map, and the other does not."""
    looks = [_like_labels(image) for image in (fixed, moving)]
    if looks[0] != looks[1]:
        labels, other = (fixed, moving) if looks[0] else (moving, fixed)
        warn_once(
            f"{labels.name} has a few whole numbers alone, as label maps have, and {other.name} "
            "intensities: is it the image? Labels are given as fixed and moving labels, beside it"
        )


def _like_labels(image: Image) -> bool:
    values = image.data.numpy().ravel()
    for some in (values[:: 1 + len(values) // 2**14], values):  # mostly a few tell
        found = np.unique(some)
        if len(found) > _FEW_VALUES or (found != np.rint(found)).any():
            return False
    return True


def check_masks(masks: Mapping[str, Tensor]) -> None:
    """Raise InputError where nothing is seen in both images."""
    seen = 1.0
    for mask in masks.values():
        seen = seen * mask
    if isinstance(seen, Tensor) and not seen.any():
        raise InputError(
            "the masks, and the parts of the world that the images show, leave no voxel of the "
            "working grid where both can be matched"
        )


def check_overlap(fixed: Image, moving: Image, alignment: AffineTransform | None) -> None:
    """Raise InputError for images that lie apart in the world, and warn of those that nearly do."""
    to_fixed = np.eye(4) if alignment is None else np.linalg.inv(alignment.matrix)
    moved = Grid(moving.grid.shape, to_fixed @ moving.grid.affine)
    shared = shared_part(fixed.grid, moved)
    hint = " (try an initial alignment, as center-of-mass)" if alignment is None else ""
    if shared == 0:
        raise InputError(f"{fixed.name} and {moving.name} do not overlap in world space{hint}")
    if shared < _LITTLE:
        warn_once(
            f"{fixed.name} and {moving.name} share {100 * shared:.0f} % of the smaller field of "
            f"view in world space, so that most of it has nothing to be matched with{hint}"
        )
