"""Files of points, by their suffix."""

from __future__ import annotations

import csv
from pathlib import Path

from voxelopt_train.errors import InputError
from voxelopt_train.files import atomic_output
from voxelopt_train.input_files import read_text
from voxelopt_train.points.ants_csv import parse_csv, render_csv
from voxelopt_train.points.point_set import PointSet
from voxelopt_train.points.slicer_fcsv import parse_fcsv, render_fcsv
from voxelopt_train.points.slicer_json import parse_json, render_json

SUFFIXES = (".csv", ".json", ".fcsv")


def check_suffix(path: Path) -> None:
    """Raise InputError unless the name of the file says its format."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: expected a file of points, .csv, .mrk.json or .fcsv")


def read_points(path: str | Path, frame: str = "lps") -> PointSet:
    """Read points: ANTs' CSV, or Slicer's ``.mrk.json`` or ``.fcsv``.

    Args:
        path: the file; its suffix tells the format.
        frame: ``"lps"`` or ``"ras"``, of the coordinates in a CSV; Slicer's files say it.

    Raises:
        InputError: the file cannot be read, or holds anything else than points in 3-D.
    """
    path = Path(path)
    check_suffix(path)
    try:
        text = read_text(path, str(path))
        if path.suffix.lower() == ".csv":
            points = parse_csv(text, str(path), frame)
        elif path.suffix.lower() == ".json":
            points = parse_json(text, str(path))
        else:
            points = parse_fcsv(text, str(path))
    except csv.Error as error:
        raise InputError(f"{path}: this is no text file that can be read") from error
    if len(points.positions_mm) == 0:
        raise InputError(f"{path}: there are no points in this file")
    return points


def write_points(path: str | Path, points: PointSet, frame: str = "lps") -> None:
    """Write points; all that their own file held beside positions stays, in the same format.

    To another format go positions, labels and comments (Slicer: descriptions).

    Args:
        path: the file; its suffix tells the format.
        points: what is written.
        frame: ``"lps"`` or ``"ras"``, of the coordinates in a CSV. Slicer's files keep the frame
            that they had; new ones are in LPS.

    Raises:
        InputError: the file cannot be written, or its suffix is not known.
    """
    path = Path(path)
    check_suffix(path)
    if path.suffix.lower() == ".csv":
        text = render_csv(points, frame)
    elif path.suffix.lower() == ".json":
        text = render_json(points)
    else:
        text = render_fcsv(points)
    with atomic_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
