"""NiftyReg's fields: positions (``-def``) or displacements (``-disp``), RAS mm.

Both have the intent 1007 of ITK's fields, and tell themselves by the intent's name and parameter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from voxelopt_train.errors import InputError
from voxelopt_train.images import write_nifti
from voxelopt_train.transforms.itk_field import INTENT_VECTOR
from voxelopt_train.transforms.maps import DisplacementField
from voxelopt_train.transforms.vectors import field_of, intent_of, read_vectors, vectors_of

INTENT_NAME = "NREG_TRANS"
_KINDS = {"deformation": 0.0, "displacement": 1.0}  # the intent's first parameter
_NOWHERE = np.diag([0.0, 0.0, 0.0, 1.0])  # the origin of positions


def read_niftyreg(path: Path) -> DisplacementField:
    """Read either kind.

    Raises:
        InputError: the file is missing, damaged or no dense field (a control-point grid: make one
            with ``reg_transform -def``).
    """
    code, name, kind = intent_of(path)
    if code != INTENT_VECTOR or name != INTENT_NAME or kind not in _KINDS.values():
        raise InputError(
            f"transform {path}: expected a deformation or displacement field of NiftyReg, got "
            f'intent {code} "{name}" {kind:g}; reg_transform -def makes one of control points'
        )
    vectors, grid = read_vectors(path, "a field of NiftyReg", (1, 3))
    to_fixed = _NOWHERE if kind == _KINDS["deformation"] else np.eye(4)
    return field_of(vectors, grid, to_fixed, np.eye(4), f"transform {path}")


def write_niftyreg(
    path: Path, field: DisplacementField, kind: Literal["deformation", "displacement"]
) -> None:
    """Write positions or displacements of shape ``(x, y, z, 1, 3)``.

    Raises:
        InputError: the file cannot be written or has another suffix.
    """
    to_fixed = _NOWHERE if kind == "deformation" else np.eye(4)
    vectors = np.moveaxis(vectors_of(field, to_fixed, np.eye(4)), 0, -1)
    write_nifti(
        path,
        vectors[:, :, :, None],
        field.grid.affine,
        intent=INTENT_VECTOR,
        intent_name=INTENT_NAME,
        intent_parameter=_KINDS[kind],
    )
