"""ITK's displacement fields in NIfTI files, as ANTs' ``1Warp.nii.gz``: intent 1007, LPS mm."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from voxelopt_train.errors import InputError
from voxelopt_train.images import write_nifti
from voxelopt_train.transforms.itk import RAS_TO_LPS, geometry
from voxelopt_train.transforms.maps import DisplacementField
from voxelopt_train.transforms.vectors import field_of, intent_of, read_vectors, vectors_of

INTENT_VECTOR = 1007  # NIFTI_INTENT_VECTOR


def read_itk_field(path: Path) -> DisplacementField:
    """Read a displacement field.

    Raises:
        InputError: the file is missing, damaged or no such field.
    """
    intent = intent_of(path)
    vectors, grid = read_vectors(path, "an ITK displacement field", (1, 3))
    if intent.code != INTENT_VECTOR or intent.name == "Mapping":
        kind = "SPM's deformation" if intent.name == "Mapping" else f"intent {intent.code}"
        raise InputError(
            f"transform {path}: expected an ITK displacement field (intent {INTENT_VECTOR}), got "
            f"{kind}; a field that does not tell its format wants it named, as fsl:FILE"
        )
    return field_of(vectors, grid, RAS_TO_LPS, RAS_TO_LPS, f"transform {path}")


def write_displacement_field(path: str | Path, field: DisplacementField) -> None:
    """Write an ITK displacement field: NIfTI, 5-D, intent 1007, components in LPS mm.

    Raises:
        InputError: the file cannot be written or has another suffix, or the grid is sheared.
    """
    geometry(field.grid)  # NIfTI can express more
    vectors = np.moveaxis(vectors_of(field, RAS_TO_LPS, RAS_TO_LPS), 0, -1)
    write_nifti(Path(path), vectors[:, :, :, None], field.grid.affine, intent=INTENT_VECTOR)
