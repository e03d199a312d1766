"""ITK's transforms and ours: theirs are in LPS millimetres, ours in RAS (x and y negated).

Displacement fields have their grid among the fixed parameters: size, origin, spacing, direction.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid
from voxelopt_train.headers import check_affine
from voxelopt_train.transforms.itk_file import Entry, read_entries, write_entries
from voxelopt_train.transforms.itk_linear import PARAMETERS, linear_matrix
from voxelopt_train.transforms.maps import (
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    Transform,
    flatten,
)
from voxelopt_train.transforms.vectors import field_of, vectors_of

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # its own inverse
_FIELD = "DisplacementFieldTransform"


def read_itk(path: Path) -> Transform:
    """Read a linear transform, a displacement field or a composite of them.

    Raises:
        InputError: the file is missing or damaged, or holds another type of transform.
    """
    name = f"transform {path}"
    parts = [from_entry(entry, name) for entry in reversed(read_entries(path))]
    flat = flatten(parts) or [AffineTransform(np.eye(4))]
    return flat[0] if len(flat) == 1 else CompositeTransform(tuple(flat))


def write_itk(path: Path, transforms: Sequence[Transform]) -> None:
    """Write transforms, the first of which moves a point first, as one (``.h5``, ``.tfm`` ...).

    Raises:
        InputError: the file cannot be written, a ``.mat`` file would have to hold more than one
            linear transform, or a part is neither linear nor a displacement field.
    """
    parts = flatten(transforms) or [AffineTransform(np.eye(4))]
    if path.suffix == ".mat" and not all(isinstance(part, AffineTransform) for part in parts):
        raise InputError(f"{path} cannot be written: a .mat file holds no displacement, try .h5")
    write_entries(path, [to_entry(part) for part in reversed(parts)])


def from_entry(entry: Entry, name: str) -> AffineTransform | DisplacementField:
    """Our form of one of ITK's transforms; ``name`` is what messages call it."""
    kind, *dimensions = re.sub("_(double|float)", "", entry.kind).split("_")
    known = kind in PARAMETERS or kind == _FIELD
    if not known or dimensions != ["3", "3"]:
        raise InputError(
            f"{name}: cannot use {entry.kind}, expected a 3-D linear transform such as "
            "AffineTransform or Euler3DTransform, or a displacement field"
        )
    if kind == _FIELD:
        return _field(entry, name)
    if len(entry.parameters) != PARAMETERS[kind] or not np.isfinite(entry.parameters).all():
        raise InputError(f"{name}: damaged, {entry.kind} has {PARAMETERS[kind]} finite parameters")
    matrix = linear_matrix(kind, entry.parameters, entry.fixed)
    affine = AffineTransform(RAS_TO_LPS @ matrix @ RAS_TO_LPS)
    check_affine(affine.matrix, name)
    return affine


def to_entry(transform: Transform) -> Entry:
    """What ITK keeps of a linear transform (its centre at the origin) or a displacement field."""
    if isinstance(transform, AffineTransform):
        matrix = RAS_TO_LPS @ transform.matrix @ RAS_TO_LPS
        parameters = np.concatenate([matrix[:3, :3].ravel(), matrix[:3, 3]])
        return Entry("AffineTransform_double_3_3", parameters, np.zeros(3))
    if not isinstance(transform, DisplacementField):
        raise InputError(
            "an ITK transform is linear or a displacement field; of an inverse, "
            "as_displacement_field makes one on a grid"
        )
    vectors = vectors_of(transform, RAS_TO_LPS, RAS_TO_LPS)
    return Entry(f"{_FIELD}_double_3_3", vectors.T.ravel().astype(float), geometry(transform.grid))


def _field(entry: Entry, name: str) -> DisplacementField:
    """ITK's first axis runs fastest: its arrays are ours with the axes reversed."""
    fixed, parameters = entry.fixed, entry.parameters
    if len(fixed) != 18 or not np.isfinite(fixed).all() or (fixed[:3] < 1).any():
        raise InputError(f"{name}: damaged, {entry.kind} has 18 finite fixed parameters")
    nx, ny, nz = (int(n) for n in fixed[:3])
    if parameters.size != 3 * nx * ny * nz:
        raise InputError(
            f"{name}: damaged, {parameters.size} numbers for {nx} x {ny} x {nz} voxels"
        )
    lps = np.eye(4)
    lps[:3, :3] = fixed[9:].reshape(3, 3) * fixed[6:9]
    lps[:3, 3] = fixed[3:6]
    affine = RAS_TO_LPS @ lps
    check_affine(affine, name)
    vectors = parameters.reshape(nz, ny, nx, 3).T
    return field_of(vectors, Grid((nx, ny, nz), affine), RAS_TO_LPS, RAS_TO_LPS, name)


def geometry(grid: Grid) -> np.ndarray:
    """Size, origin, spacing and direction of a grid, one after the other, LPS mm.

    Raises:
        InputError: the axes of the grid are not at right angles, which ITK cannot express.
    """
    check_right_angles(grid, "the displacement field")
    lps = RAS_TO_LPS @ grid.affine
    spacing = np.asarray(grid.spacing)
    direction = lps[:3, :3] / spacing
    return np.concatenate([grid.shape, lps[:3, 3], spacing, direction.ravel()]).astype(float)


def check_right_angles(grid: Grid, name: str) -> None:
    """Raise InputError where ITK cannot express the grid of what ``name`` calls."""
    axes = grid.affine[:3, :3] / np.asarray(grid.spacing)
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-4:
        raise InputError(
            f"{name}: its grid is sheared, which ITK and ANTs cannot express; resample the fixed "
            "image on one whose axes are at right angles"
        )
