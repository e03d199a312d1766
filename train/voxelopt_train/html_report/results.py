"""Results of `voxelopt register` on disk: found, read, and their input files found again."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voxelopt_train.data.pair_table import read_json
from voxelopt_train.errors import InputError
from voxelopt_train.images import Image, read_image
from voxelopt_train.label_maps import read_labels
from voxelopt_train.outputs import split_prefix
from voxelopt_train.provenance import INPUTS

_REPORT = "Report.json"
_NUMBERS = ("folds", "sd_log_jacobian", "seconds")  # that every report of a registration has


@dataclass(frozen=True, eq=False)
class Results:
    """One registration on disk.

    Attributes:
        name: what the page calls it: its folder, or the start of its file names.
        folder: where the files lie.
        start: what their names start with.
        report: the content of ``Report.json``.
        notes: what could not be shown, one sentence each.
    """

    name: str
    folder: Path
    start: str
    report: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def path(self, name: str) -> Path | None:
        """The file of this name, as ``Warped.nii.gz``, if this registration has it."""
        path = self.folder / f"{self.start}{name}"
        return path if path.is_file() else None

    def image(self, name: str, labels: bool = False) -> Image | None:
        """The volume ``NAME.nii.gz``, or None."""
        path = self.path(f"{name}.nii.gz")
        return None if path is None else read_image(path, name, labels=labels)

    def inputs(self, given: Mapping[str, str | None], warped: Image) -> dict[str, Image]:
        """The images that were registered, those of them that can be found.

        Args:
            given: files that take the place of what the report names, by name.
            warped: the warped image, on whose grid the fixed image lies.

        Raises:
            InputError: a file cannot be read, or is not what was registered.
        """
        known = self.report.get("inputs")
        paths = dict(known) if isinstance(known, dict) else {}
        found: dict[str, Image] = {}
        for name in INPUTS:
            file, role = given.get(name) or paths.get(name), name.replace("_", " ")
            path = self.folder / str(file)
            if not file or (not path.is_file() and not given.get(name)):
                if name in ("fixed", "moving"):
                    where = f"is not at {path} any more" if file else "came as an array"
                    self.notes.append(f"{self.name}: the {role} image {where}, give --{name} FILE")
                continue
            if given.get(name):
                path = Path(str(file))
            if name in ("fixed", "moving"):
                found[name] = read_image(path, f"{role} image")
                if name == "fixed" and not found[name].grid.matches(warped.grid):
                    raise InputError(
                        f"{path} does not lie on the grid of {warped.name}: expected the fixed "
                        "image of this registration"
                    )
            elif image := found.get(name.removesuffix("_labels")):
                found[name] = read_labels(path, role, image)
        return found


def find_results(places: Sequence[str]) -> list[Results]:
    """All registrations at places that are each what `voxelopt register -o` was given, or above.

    Args:
        places: prefixes; folders with results; folders whose sub-folders have results.

    Returns:
        At least one for each place, each with a name of its own, in the order of the places.

    Raises:
        InputError: there is none at a place, or its report cannot be read.
    """
    files: dict[Path, None] = {}  # a set that keeps the order
    for place in places:
        found = _reports(place)
        if not found:
            raise InputError(
                f"{place}: no registration here, expected what voxelopt register --output was "
                f"given (a folder with {_REPORT}, or the start of its files' names), or a folder "
                "of such folders"
            )
        files.update(dict.fromkeys(found))
    starts = {file: file.name.removesuffix(_REPORT) for file in files}
    names = _unique_names(starts)
    return [Results(names[f], f.parent, start, _read_report(f)) for f, start in starts.items()]


def _reports(place: str) -> list[Path]:
    folder, start = split_prefix(place)
    own = folder / f"{start}{_REPORT}"
    if own.is_file() or start:
        return [own] if own.is_file() else []
    failed = _failed_cases(folder)
    below = [
        file for file in sorted(folder.glob(f"*/*{_REPORT}")) if file.parent.name not in failed
    ]
    return sorted(folder.glob(f"*{_REPORT}")) + below


def failed_cases(places: Sequence[str]) -> list[str]:
    """A sentence on each case of a cohort that failed at last, whatever older results it has.

    It goes into the page too, so that files are there by their names alone, as everywhere in it.
    """
    return [
        f"case {name} failed and is left out: {_without_folders(row)}"
        for place in places
        for name, row in _failed_cases(Path(place)).items()
    ]


def _failed_cases(folder: Path) -> dict[str, dict[str, Any]]:
    table = folder / "results.json"
    content = read_json(table) if table.is_file() else {}
    cases = content.get("cases", []) if isinstance(content, dict) else []
    rows = [row for row in cases if isinstance(row, dict) and row.get("status") == "failed"]
    return {str(row.get("case")): row for row in rows}


def _without_folders(row: Mapping[str, Any]) -> str:
    """Why a case failed; of both images the name is known, others have no space in their path."""
    error = str(row.get("error"))
    for image in ("fixed", "moving"):
        path = str(row.get(image))
        error = error.replace(path, Path(path).name)
    return re.sub(r"(?:[^\s/]*/)+(?=[^\s/])", "", error)


def _unique_names(starts: dict[Path, str]) -> dict[Path, str]:
    """The start of the file names, or the folder where there is none; the path if one is taken."""
    names = {
        file: start.strip("_-. ") or file.parent.resolve().name for file, start in starts.items()
    }
    if len(set(names.values())) == len(names):
        return names
    root = Path(os.path.commonpath([file.parent.resolve() for file in starts]))
    below = {file: file.resolve().relative_to(root) for file in starts}
    return {file: str(path).removesuffix(_REPORT).rstrip("_-. /") for file, path in below.items()}


def _read_report(path: Path) -> dict[str, Any]:
    report = read_json(path)
    if not isinstance(report, dict) or not isinstance(report.get("labels"), dict):
        raise InputError(f"{path}: this is no report of a registration")
    for key in _NUMBERS:
        if not isinstance(report.get(key), int | float):
            raise InputError(f"{path}: this report of a registration is damaged, no number {key}")
    for stage, measured in report["labels"].items():
        tables = [measured.get(k) for k in ("dice", "hd95")] if isinstance(measured, dict) else [0]
        if not all(isinstance(table, dict) for table in tables):
            raise InputError(f"{path}: this report of a registration is damaged, no Dice {stage}")
    return report
