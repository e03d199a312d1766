"""FLIRT's matrices: text of 4 lines with 4 numbers, from the moving to the fixed image.

In FSL's coordinates of the two images (see `voxelopt_train.transforms.fsl`), which are not in the
file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from voxelopt_train.errors import InputError
from voxelopt_train.files import atomic_output
from voxelopt_train.grids import Grid
from voxelopt_train.headers import check_affine
from voxelopt_train.input_files import check_file, read_text
from voxelopt_train.transforms.fsl import world_to_fsl
from voxelopt_train.transforms.maps import AffineTransform, Transform, flatten

SUFFIX = ".mat"  # of ITK's too, which are no text


def is_matrix(path: Path) -> bool:
    """Whether a file begins with a line of numbers in plain text.

    Raises:
        InputError: it is no file that can be read.
    """
    check_file(path, f"transform {path}")
    try:
        with path.open("rb") as file:
            start = file.read(1000).decode("ascii").strip()
        return bool([float(number) for number in start.partition("\n")[0].split()])
    except (OSError, ValueError):
        return False


def read_flirt(path: Path, fixed: Grid, moving: Grid) -> AffineTransform:
    """Read the matrix that ``flirt -in MOVING -ref FIXED -omat FILE`` writes.

    Args:
        path: the file.
        fixed: grid of the image that FLIRT had as ``-ref``.
        moving: grid of the image that it had as ``-in``.

    Returns:
        A map from the fixed to the moving world: the other way than the matrix leads.

    Raises:
        InputError: the file is missing or holds another thing, the matrix cannot be inverted, or
            the header of an image contradicts itself.
    """
    name = f"transform {path}"
    text = read_text(path, name, "latin-1")  # in which all bytes are letters
    try:
        rows = [line.split() for line in text.splitlines() if line.strip()]
        matrix = np.array(rows, dtype=np.float64)
    except ValueError:
        matrix = np.empty(0)
    if matrix.shape != (4, 4):
        raise InputError(f"{name}: expected a matrix of FLIRT, 4 lines of 4 numbers")
    if not np.allclose(matrix[3], [0, 0, 0, 1]):
        last = " ".join(f"{number:g}" for number in matrix[3])
        raise InputError(f"{name}: the last row of the matrix is {last}, expected 0 0 0 1")
    check_affine(matrix, name)
    to_fixed, to_moving = world_to_fsl(fixed), world_to_fsl(moving)
    return AffineTransform(np.linalg.inv(to_moving) @ np.linalg.inv(matrix) @ to_fixed)


def write_flirt(path: Path, transforms: Sequence[Transform], fixed: Grid, moving: Grid) -> None:
    """Write a matrix for ``flirt -in MOVING -ref FIXED -applyxfm -init FILE``.

    Raises:
        InputError: the file cannot be written, a part is not linear, or the header of an image
            contradicts itself.
    """
    affine, *others = flatten([AffineTransform(np.eye(4)), *transforms])
    if others or not isinstance(affine, AffineTransform):
        raise InputError(
            f"{path} cannot be written: a matrix of FLIRT holds no displacement, try .nii.gz"
        )
    to_fixed, to_moving = world_to_fsl(fixed), world_to_fsl(moving)
    matrix = to_fixed @ np.linalg.inv(affine.matrix) @ np.linalg.inv(to_moving)
    with atomic_output(path) as temporary:
        np.savetxt(temporary, matrix, fmt="%.15g")
