"""Slicer's markups (``.mrk.json``): lists of control points, each list in its own frame, mm."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from voxelopt_train.errors import InputError
from voxelopt_train.points.point_set import (
    PointSet,
    as_coordinates,
    from_frame,
    in_frame,
    slicer_frame,
)

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/"
    "Schema/markups-schema-v1.0.3.json#"
)
# A ROI or a plane has a size and an orientation too, which no deformation keeps.
_KINDS = ("Fiducial", "Line", "Angle", "Curve", "ClosedCurve")


@dataclass(frozen=True)
class JsonDocument:
    """The content of a file."""

    content: dict[str, Any]


def parse_json(text: str, name: str) -> PointSet:
    """Points of all lists in the text of a file ``name``, one list after the other."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: this is no JSON file that can be read") from error
    positions, labels, comments = [], [], []
    for point, frame, place in _points(content, name):
        cells = point.get("position")
        coordinates = as_coordinates(cells if isinstance(cells, list) else [cells], place)
        positions.append(from_frame([coordinates], frame)[0])
        labels.append(str(point.get("label", "")))
        comments.append(str(point.get("description", "")))
    positions_mm = from_frame(positions, "ras")
    return PointSet(positions_mm, tuple(labels), tuple(comments), name, JsonDocument(content))


def render_json(points: PointSet) -> str:
    """The text of a file: the one that the points come from, or a new one with a single list."""
    document = points.document
    content = (
        copy.deepcopy(document.content) if isinstance(document, JsonDocument) else _new(points)
    )
    listed = _points(content, points.name)
    for (point, frame, _), position in zip(listed, points.positions_mm, strict=True):
        point["position"] = in_frame(position, frame)
    return json.dumps(content, indent=4, ensure_ascii=False) + "\n"


def _new(points: PointSet) -> dict[str, Any]:
    texts = zip(points.labels, points.comments, strict=True)
    listed = [
        {"id": str(n), "label": label, "description": comment}
        for n, (label, comment) in enumerate(texts, 1)
    ]
    markup = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "controlPoints": listed,
    }
    return {"@schema": _SCHEMA, "markups": [markup]}


def _points(content: Any, name: str) -> Iterator[tuple[dict[str, Any], str, str]]:
    """The control points that have a position, the frame of each, and its place for messages."""
    markups = content.get("markups") if isinstance(content, dict) else None
    if not isinstance(markups, list) or not all(isinstance(markup, dict) for markup in markups):
        raise InputError(f"{name}: expected Slicer's markups, an object with a list named markups")
    for number, markup in enumerate(markups, 1):
        place = name if len(markups) == 1 else f"{name}, list {number}"
        frame = _frame(markup, place)
        points = markup.get("controlPoints", [])
        if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
            raise InputError(f"{place}: controlPoints must be a list of objects")
        for n, point in enumerate(points, 1):
            if point.get("positionStatus", "defined") == "defined":
                yield point, frame, f"{place}, point {n}"


def _frame(markup: dict[str, Any], place: str) -> str:
    kind = markup.get("type", "Fiducial")
    if kind not in _KINDS:
        raise InputError(
            f"{place}: cannot deform a markup of type {kind}, expected one of {', '.join(_KINDS)}"
        )
    units = markup.get("coordinateUnits", "mm")
    if (units[:1] if isinstance(units, list) else [units]) != ["mm"]:
        raise InputError(f"{place}: coordinates are in {units}, expected mm")
    return slicer_frame(markup.get("coordinateSystem", "LPS"), place)  # what Slicer assumes
