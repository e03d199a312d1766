"""What tables of points have in common, with or without a header of names."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from voxelopt_train.points.point_set import as_coordinates


def coordinates_of(
    rows: Sequence[Sequence[str]], axes: Sequence[int], name: str
) -> list[list[float]]:
    """The numbers in the columns ``axes`` of each row, or InputError."""
    return [
        as_coordinates((row[at] if at < len(row) else "" for at in axes), f"{name}, point {n}")
        for n, row in enumerate(rows, 1)
    ]


def column_of(rows: Sequence[Sequence[str]], at: int | None) -> tuple[str, ...]:
    """The cells of a column; empty ones where there is none."""
    return tuple(row[at].strip() if at is not None and at < len(row) else "" for row in rows)


def csv_lines(
    rows: Sequence[Sequence[str]], axes: Sequence[int], coordinates: Sequence[Sequence[float]]
) -> str:
    """The rows with other numbers in the columns ``axes``, as text."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row, numbers in zip(rows, coordinates, strict=True):
        moved = dict(zip(axes, map(repr, numbers), strict=True))
        writer.writerow([moved.get(n, cell) for n, cell in enumerate(row)])
    return out.getvalue()
