"""NIfTI's own displacement vectors: intent 1006, RAS mm."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from voxelopt_train.errors import InputError
from voxelopt_train.images import write_nifti
from voxelopt_train.transforms.maps import DisplacementField
from voxelopt_train.transforms.vectors import field_of, intent_of, read_vectors, vectors_of

INTENT_DISPLACEMENT = 1006  # NIFTI_INTENT_DISPVECT


def read_nifti_displacement(path: Path) -> DisplacementField:
    """Read a displacement field.

    Raises:
        InputError: the file is missing, damaged or no such field.
    """
    intent = intent_of(path)
    if intent.code != INTENT_DISPLACEMENT:
        raise InputError(
            f"transform {path}: expected displacements with intent {INTENT_DISPLACEMENT}, "
            f"got intent {intent.code}"
        )
    vectors, grid = read_vectors(path, "displacements", (1, 3))
    return field_of(vectors, grid, np.eye(4), np.eye(4), f"transform {path}")


def write_nifti_displacement(path: Path, field: DisplacementField) -> None:
    """Write a displacement field of shape ``(x, y, z, 1, 3)``.

    Raises:
        InputError: the file cannot be written or has another suffix.
    """
    vectors = np.moveaxis(vectors_of(field, np.eye(4), np.eye(4)), 0, -1)
    write_nifti(path, vectors[:, :, :, None], field.grid.affine, intent=INTENT_DISPLACEMENT)
