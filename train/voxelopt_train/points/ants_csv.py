"""CSV as antsApplyTransformsToPoints reads it: a header with x,y,z and any further columns, mm."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

from voxelopt_train.errors import InputError
from voxelopt_train.points.cells import column_of, coordinates_of, csv_lines
from voxelopt_train.points.point_set import PointSet, from_frame, in_frame

_COLUMNS = ["x", "y", "z", "t", "label", "comment"]


@dataclass(frozen=True)
class CsvDocument:
    """The cells of a file."""

    header: list[str]
    rows: list[list[str]]

    def column(self, name: str) -> int | None:
        """Where a column is, in whatever case its name is written; None if it is not there."""
        names = [cell.strip().lower() for cell in self.header]
        return names.index(name) if name in names else None


def parse_csv(text: str, name: str, frame: str) -> PointSet:
    """Points from the text of a file ``name`` whose coordinates are in ``frame``."""
    rows = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
    if not rows:
        raise InputError(f"{name}: the file is empty, expected a CSV with a header x,y,z")
    document = CsvDocument(rows[0], rows[1:])
    for number, row in enumerate(document.rows, 1):
        if len(row) > len(document.header):
            raise InputError(
                f"{name}, point {number}: {len(row)} cells, expected the {len(document.header)} of "
                "the header (a decimal point, not a comma?)"
            )
    coordinates = coordinates_of(document.rows, _axes(document, name), name)
    label = document.column("label")
    return PointSet(
        from_frame(coordinates, frame),
        column_of(document.rows, document.column("name") if label is None else label),
        column_of(document.rows, document.column("comment")),
        name,
        document,
    )


def render_csv(points: PointSet, frame: str) -> str:
    """The text of a file: the one that the points come from, or a new one with ANTs' columns."""
    document = points.document
    if not isinstance(document, CsvDocument):
        texts = zip(points.labels, points.comments, strict=True)
        rows = [["", "", "", "0", label, comment] for label, comment in texts]
        document = CsvDocument(_COLUMNS, rows)
    coordinates = in_frame(points.positions_mm, frame)
    body = csv_lines(document.rows, _axes(document, points.name), coordinates)
    return csv_lines([document.header], [], [[]]) + body


def _axes(document: CsvDocument, name: str) -> list[int]:
    names = [cell.strip().lower() for cell in document.header]
    for axis in "xyz":
        if names.count(axis) > 1:
            raise InputError(f"{name}: the header has the column {axis} more than once")
    found = {axis: document.column(axis) for axis in "xyz"}
    missing = [axis for axis, at in found.items() if at is None]
    if missing == ["z"]:
        raise InputError(f"{name}: the points have no column z, expected points in 3-D")
    if missing:
        header = ",".join(document.header)
        raise InputError(f"{name}: no column {missing[0]} in the header {header}, expected x,y,z")
    return [at for at in found.values() if at is not None]
