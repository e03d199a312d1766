"""Target registration error (TRE): how far landmarks of the fixed image miss the moving ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from voxelopt_train.errors import InputError, warn_once
from voxelopt_train.images import ImageLike, read_grid
from voxelopt_train.metrics import target_registration_error
from voxelopt_train.points.files import read_points
from voxelopt_train.points.point_set import PointSet, map_positions
from voxelopt_train.table_formats import terminal_table
from voxelopt_train.transforms import Transform, inside, map_points


@dataclass(frozen=True, eq=False)
class LandmarkPair:
    """Corresponding points of the two images.

    Attributes:
        names: label of each pair, or its number where the order alone pairs them.
        by_label: whether it is the labels that pair them.
        fixed_mm: ``(N, 3)`` float64, RAS mm, in the world of the fixed image.
        moving_mm: the same in the world of the moving image.
    """

    names: tuple[str, ...]
    by_label: bool
    fixed_mm: np.ndarray
    moving_mm: np.ndarray

    def errors_mm(self, transforms: Sequence[Transform] = ()) -> np.ndarray:
        """TRE ``(N,)`` in mm: from a fixed point, through the transforms, to its moving point."""
        mapped = torch.from_numpy(map_positions(self.fixed_mm, transforms).copy())
        return target_registration_error(mapped, torch.from_numpy(self.moving_mm)).numpy()

    def as_dict(self, errors_mm: np.ndarray) -> dict[str, Any]:
        """Mean and per point, for JSON."""
        per_point = dict(zip(self.names, errors_mm.tolist(), strict=True))
        return {"mean": float(errors_mm.mean()), "per_point": per_point}


def read_landmarks(
    fixed: str | Path | None,
    moving: str | Path | None,
    fixed_image: ImageLike,
    moving_image: ImageLike,
) -> LandmarkPair | None:
    """Landmarks from the files of two images (CSV: in LPS); None if there are none.

    A warning says how many lie outside an image that is a file; its voxels are not read.

    Raises:
        InputError: one of the two is missing or cannot be used, or they do not belong together.
    """
    if fixed is None and moving is None:
        return None
    if fixed is None or moving is None:
        raise InputError("points are compared, so both the fixed and the moving ones are needed")
    pair = read_points(fixed), read_points(moving)
    for points, image, role in zip(
        pair, (fixed_image, moving_image), ("fixed image", "moving image"), strict=True
    ):
        if isinstance(image, str | Path):
            _warn_of_points_outside(points, image, role)
    return landmark_pair(*pair)


def _warn_of_points_outside(points: PointSet, image: str | Path, role: str) -> None:
    grid = read_grid(image, role)
    positions = torch.from_numpy(points.positions_mm.T.copy())[None]
    outside = ~inside(map_points(np.linalg.inv(grid.affine), positions), grid.shape)
    if outside.any():
        warn_once(
            f"{points.name}: {int(outside.sum())} of {outside.numel()} points lie outside the "
            f"{role} {image}, as those of another frame do (CSV: LPS)"
        )


def landmark_pair(fixed: PointSet, moving: PointSet) -> LandmarkPair:
    """Pair the points of two files.

    Where both files give every point a label of its own, and the labels are the same, they tell
    what belongs together, in whatever order. Otherwise the order does, as with ``F-1, F-2`` in one
    file and ``M-1, M-2`` in the other.

    Raises:
        InputError: there are more points in one file, or their labels agree only in part.
    """
    a, b = len(fixed.labels), len(moving.labels)
    if a != b:
        raise InputError(
            f"{fixed.name} has {a} points and {moving.name} {b}, expected as many, in pairs"
        )
    own = all(len({*points.labels} - {""}) == a for points in (fixed, moving))
    shared = {*fixed.labels} & {*moving.labels}
    if not own or not shared:
        names = tuple(str(n) for n in range(1, a + 1))
        return LandmarkPair(names, False, fixed.positions_mm, moving.positions_mm)
    alone = [label for label in fixed.labels if label not in shared]
    if alone:
        raise InputError(
            f"{moving.name} has no point {alone[0]}, which {fixed.name} has; expected the same "
            "labels in both, or others throughout"
        )
    order = [moving.labels.index(label) for label in fixed.labels]
    return LandmarkPair(fixed.labels, True, fixed.positions_mm, moving.positions_mm[order])


def landmark_table(pair: LandmarkPair, stages: Mapping[str, np.ndarray]) -> Table:
    """Statistics of the errors ``(N,)`` in mm of each stage, for the terminal."""
    how = "by label" if pair.by_label else "in order"
    title = f"TRE (mm) of {len(pair.names)} points, paired {how}"
    table = terminal_table(title, "mean", "SD", "median", "95 %", "largest")
    for stage, errors in stages.items():
        values = (errors.mean(), errors.std(), *np.percentile(errors, (50, 95)), errors.max())
        table.add_row(stage, *(f"{value:.2f}" for value in values))
    return table
