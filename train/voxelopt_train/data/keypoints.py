"""Files of keypoints: one voxel index ``x,y,z`` a line, as in Learn2Reg."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from voxelopt_train.errors import InputError
from voxelopt_train.files import atomic_output
from voxelopt_train.input_files import read_text


def read_keypoints(path: Path, shape: tuple[int, int, int] | None = None) -> np.ndarray:
    """Keypoints ``(N, 3)`` float64, in voxels of their image, in array axis order.

    Args:
        path: CSV with three numbers a line; a header is skipped.
        shape: of the image; keypoints must lie in it, which those in mm hardly do.

    Raises:
        InputError: the file is something else, or keypoints lie outside the image.
    """
    lines = [line for line in read_text(path, str(path)).splitlines() if line.strip()]
    try:
        if lines and any(c.isalpha() and c not in "eE" for c in lines[0]):
            del lines[0]
        points = np.array([line.split(",") for line in lines], dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{path}: expected a CSV of numbers x,y,z") from error
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise InputError(f"{path}: expected a CSV of numbers x,y,z, three a line")
    if shape is not None:
        outside = ((points < -0.5) | (points > np.asarray(shape) - 0.5)).any(axis=1)
        if outside.any():
            raise InputError(
                f"{path}: keypoint {np.flatnonzero(outside)[0] + 1} lies outside the image of "
                f"{shape} voxels; expected voxel indices, not mm"
            )
    return points


def write_keypoints(path: Path, points: np.ndarray) -> None:
    """Write keypoints ``(N, 3)`` as `read_keypoints` reads them."""
    with atomic_output(path) as temporary:
        np.savetxt(temporary, points, fmt="%.4f", delimiter=",")
