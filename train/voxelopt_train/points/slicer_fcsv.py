"""Slicer's older fiducials (``.fcsv``): comments that name frame and columns, then cells."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass

from voxelopt_train.errors import InputError
from voxelopt_train.points.cells import column_of, coordinates_of, csv_lines
from voxelopt_train.points.point_set import PointSet, from_frame, in_frame, slicer_frame

_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
_HEADER = [
    "# Markups fiducial file version = 4.11",
    "# CoordinateSystem = LPS",
    f"# columns = {_COLUMNS}",
]


@dataclass(frozen=True)
class FcsvDocument:
    """The comments of a file, and the cells of its other lines."""

    header: list[str]
    rows: list[list[str]]

    def setting(self, key: str) -> str | None:
        """What the header says after ``# key =``."""
        found = (re.match(rf"#\s*{key}\s*=\s*(.*)", line) for line in self.header)
        return next((match[1].strip() for match in found if match), None)

    def column(self, name: str) -> int | None:
        """Where a column is; None if it is not there."""
        names = [column.strip() for column in (self.setting("columns") or _COLUMNS).split(",")]
        return names.index(name) if name in names else None


def parse_fcsv(text: str, name: str) -> PointSet:
    """Points from the text of a file ``name``."""
    lines = [line for line in text.splitlines() if line.strip()]
    header = [line for line in lines if line.startswith("#")]
    document = FcsvDocument(header, list(csv.reader(line for line in lines if line[0] != "#")))
    coordinates = coordinates_of(document.rows, _axes(document, name), name)
    return PointSet(
        from_frame(coordinates, _frame(document, name)),
        column_of(document.rows, document.column("label")),
        column_of(document.rows, document.column("desc")),
        name,
        document,
    )


def render_fcsv(points: PointSet) -> str:
    """The text of a file: the one that the points come from, or a new one in LPS."""
    document = points.document
    if not isinstance(document, FcsvDocument):
        texts = zip(points.labels, points.comments, strict=True)
        rows = [
            [str(n), "", "", "", "0", "0", "0", "1", "1", "1", "0", label, comment, ""]
            for n, (label, comment) in enumerate(texts, 1)
        ]
        document = FcsvDocument(_HEADER, rows)
    coordinates = in_frame(points.positions_mm, _frame(document, points.name))
    body = csv_lines(document.rows, _axes(document, points.name), coordinates)
    return "".join(f"{line}\n" for line in document.header) + body


def _frame(document: FcsvDocument, name: str) -> str:
    code = document.setting("CoordinateSystem")
    if code is None:
        raise InputError(
            f"{name}: no line says the coordinate system, expected # CoordinateSystem = LPS or RAS"
        )
    return slicer_frame(code, name)


def _axes(document: FcsvDocument, name: str) -> list[int]:
    axes = [at for at in map(document.column, "xyz") if at is not None]
    if len(axes) < 3:
        columns = document.setting("columns")
        raise InputError(f"{name}: the columns are {columns}, expected x,y,z among them")
    return axes
