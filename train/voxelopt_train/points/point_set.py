"""Points as they are in memory, whatever file they come from: RAS millimetres."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from voxelopt_train.errors import InputError
from voxelopt_train.transforms import (
    DisplacementField,
    InverseDisplacementField,
    Transform,
    flatten,
    inside,
    map_points,
)

_LONGEST = 40  # letters of a cell that a message shows
_LPS = np.array([-1.0, -1.0, 1.0])
# Slicer's files have the name of their coordinate system, older ones its number.
_FRAMES = {"RAS": "ras", "0": "ras", "LPS": "lps", "1": "lps"}


@dataclass(frozen=True, eq=False)
class PointSet:
    """Points of one file.

    Attributes:
        positions_mm: ``(N, 3)`` float64, RAS mm.
        labels: name of each point, empty where it has none.
        comments: free text beside each point, empty where there is none.
        name: what messages call it: its file.
        document: all of the file, for writing it again with other positions.
    """

    positions_mm: np.ndarray
    labels: tuple[str, ...]
    comments: tuple[str, ...]
    name: str
    document: object = None


def map_positions(positions_mm: np.ndarray, transforms: Sequence[Transform]) -> np.ndarray:
    """Positions ``(N, 3)`` in RAS mm through ``transforms[0]``, then ``transforms[1]``, ..."""
    points = torch.from_numpy(positions_mm.T.copy())[None]
    for transform in transforms:
        points = transform(points)
    return points[0].numpy().T


def outside_notes(positions_mm: np.ndarray, transforms: Sequence[Transform]) -> list[str]:
    """A sentence for each displacement field that points pass by, as those of a wrong frame do."""
    notes = []
    points = torch.from_numpy(positions_mm.T.copy())[None]
    for transform in flatten(transforms):
        field = transform.field if isinstance(transform, InverseDisplacementField) else transform
        if isinstance(field, DisplacementField):
            voxels = map_points(np.linalg.inv(field.grid.affine), points)
            missed = int((~inside(voxels, field.grid.shape)).sum())
            if missed:
                notes.append(
                    f"{missed} of {len(positions_mm)} points lie outside the grid of a "
                    "displacement field, which leaves them where they are"
                )
        points = transform(points)
    return notes


def as_coordinates(cells: Iterable[Any], place: str) -> list[float]:
    """Three finite numbers, or InputError that names the ``place`` in the file."""
    cells = list(cells)
    try:
        numbers = [float(cell) for cell in cells]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        found = ", ".join(str(cell).strip()[:_LONGEST] or "nothing" for cell in cells[:4])
        raise InputError(f"{place}: expected three finite numbers x, y, z, got {found}")
    return numbers


def from_frame(coordinates: Sequence[Sequence[float]], frame: str) -> np.ndarray:
    """Coordinates in ``"lps"`` or ``"ras"`` mm as ``(N, 3)`` float64 in RAS mm."""
    positions = np.array(coordinates, dtype=np.float64).reshape(-1, 3)
    return positions * _LPS if frame == "lps" else positions


def in_frame(positions_mm: np.ndarray, frame: str) -> list[list[float]]:
    """The other way, to nanometres: digits beyond those are rounding alone."""
    positions = positions_mm * _LPS if frame == "lps" else positions_mm
    return (positions.round(6) + 0.0).tolist()  # no -0.0


def slicer_frame(code: object, place: str) -> str:
    """``"lps"`` or ``"ras"`` from what a file of Slicer calls it, or InputError."""
    frame = _FRAMES.get(str(code).strip().upper())
    if frame is None:
        raise InputError(f"{place}: the coordinate system is {code}, expected LPS or RAS")
    return frame
