"""Pairs listed in a CSV or JSON file."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from voxelopt_train.data.subjects import SPLITS, Cohort, Subject, check_unique
from voxelopt_train.errors import InputError
from voxelopt_train.input_files import read_text
from voxelopt_train.nifti_names import nifti_stem

_FILES = ("labels", "keypoints")
_COLUMNS = (
    "fixed",
    "moving",
    *(f"{side}_{kind}" for kind in _FILES for side in ("fixed", "moving")),
    "split",
)


def read_pair_table(path: Path) -> Cohort:
    """Subjects and pairs of a table.

    Its columns are ``fixed`` and ``moving``, and where there is more ``fixed_labels``,
    ``moving_labels``, ``fixed_keypoints``, ``moving_keypoints`` and ``split``. Every image file is
    a subject, named after the file. Paths are relative to the table. Pairs without a split test.

    Args:
        path: CSV with a header, or JSON with a list of objects.

    Raises:
        InputError: the table cannot be read, has other columns or contradicts itself.
    """
    files: dict[Path, dict[str, Path]] = {}
    listed = []
    for number, row in enumerate(read_rows(path, _COLUMNS), 1):
        place = f"{path}, pair {number}"
        if row.get("split") and row["split"] not in SPLITS:
            raise InputError(f"{place}: split {row['split']}, expected one of {', '.join(SPLITS)}")
        sides = []
        for side in ("fixed", "moving"):
            image = resolve(path, row[side])
            known = files.setdefault(image, {})
            for kind in _FILES:
                if value := row.get(f"{side}_{kind}"):
                    file = resolve(path, value)
                    if known.setdefault(kind, file) != file:
                        raise InputError(f"{place}: other {kind} of {row[side]} than before")
            sides.append(image)
        listed.append((row.get("split") or "test", sides))
    names = subject_names(files)
    return Cohort(
        {names[image]: Subject(names[image], image, **more) for image, more in files.items()},
        {s: [(names[f], names[m]) for split, (f, m) in listed if split == s] for s in SPLITS},
    )


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The pairs of a table, as they are written there; each names a fixed and a moving image.

    Args:
        path: CSV with a header, or JSON with a list of objects.
        columns: those that there may be.

    Raises:
        InputError: the table cannot be read, lists no pairs or has other columns.
    """
    rows = read_json(path) if path.suffix == ".json" else _csv_rows(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: expected a list of pairs, each with the keys fixed and moving")
    if not rows:
        raise InputError(f"{path}: no pairs are listed here")
    return [_checked(row, f"{path}, pair {number}", columns) for number, row in enumerate(rows, 1)]


def read_json(path: Path) -> Any:
    """The content of a JSON file, or InputError."""
    text = read_text(path, str(path))
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: this is no JSON file that can be read") from error


def subject_names(images: Iterable[Path]) -> dict[Path, str]:
    """A unique name for each file: its stem, else its path below the folder that all share.

    Raises:
        InputError: two files come to one name all the same.
    """
    images = list(dict.fromkeys(images))
    names = {image: nifti_stem(image.name) for image in images}
    if len(set(names.values())) < len(names):
        root = os.path.commonpath([image.parent.absolute() for image in images])
        below = {image: image.absolute().relative_to(root).as_posix() for image in images}
        names = {image: nifti_stem(path).replace("/", "_") for image, path in below.items()}
    check_unique(names)
    return names


def _csv_rows(path: Path) -> list[dict[str, str]]:
    lines = io.StringIO(read_text(path, str(path)), newline="")
    try:
        return list(csv.DictReader(lines, skipinitialspace=True))
    except csv.Error as error:
        raise InputError(f"{path}: this is no CSV file that can be read") from error


def _checked(row: dict[Any, Any], place: str, columns: Sequence[str]) -> dict[str, str]:
    unknown = [str(column) for column in row if column not in columns]
    if unknown:
        expected = ", ".join(columns)
        raise InputError(f"{place}: unknown column {unknown[0]}, expected {expected}")
    values = {column: str(value).strip() for column, value in row.items() if value is not None}
    for side in ("fixed", "moving"):
        if not values.get(side):
            raise InputError(f"{place}: no {side} image is given")
    for column, value in values.items():
        if "\0" in value:
            raise InputError(f"{place}: the {column} has a zero byte, which no name of a file has")
    return values


def resolve(table: Path, value: str) -> Path:
    """A path that is written in a table: relative to the folder that the table lies in."""
    return Path(os.path.normpath(table.parent / value))
