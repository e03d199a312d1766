"""The manifest of a prepared dataset: what its files hold, and which pairs they make."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxelopt_train.data.pair_table import read_json
from voxelopt_train.data.subjects import SPLITS, Cohort, Pair, Split, Subject, ordered_pairs
from voxelopt_train.errors import InputError
from voxelopt_train.files import atomic_output

NAME = "manifest.json"
_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """A prepared dataset: all images on grids of one shape and spacing.

    Attributes:
        spacing_mm: edge of the cubic voxels.
        shape: voxels along the right, anterior and superior axes.
        window: intensities that became 0 and 1; None: percentiles of each image.
        labels: numbers of the labelled structures, ascending; empty without label maps.
        cohort: prepared files, and pairs of each split.
    """

    spacing_mm: float
    shape: tuple[int, int, int]
    window: tuple[float, float] | None
    labels: tuple[int, ...]
    cohort: Cohort


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write ``manifest.json``, with paths relative to its folder.

    A split is a list of subjects, which means all their ordered pairs; only where a dataset lists
    its pairs are they written one by one.
    """
    splits: dict[Split, list[str]] = {}
    listed: dict[Split, list[Pair]] = {}
    for split in SPLITS:
        pairs, names = manifest.cohort.pairs.get(split, []), manifest.cohort.names(split)
        splits[split] = names
        if pairs != ordered_pairs(names):
            listed[split] = pairs
    content: dict[str, Any] = {
        "version": _VERSION,
        "spacing_mm": manifest.spacing_mm,
        "shape": manifest.shape,
        "window": manifest.window,
        "labels": manifest.labels,
        "splits": splits,
        **({"pairs": listed} if listed else {}),
        "subjects": [
            {"name": subject.name}
            | {
                kind: path.relative_to(folder).as_posix()
                for kind in ("image", "labels", "keypoints")
                if (path := getattr(subject, kind)) is not None
            }
            for subject in manifest.cohort.subjects.values()
        ],
    }
    path = folder / NAME
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
    return path


def read_manifest(path: str | Path) -> Manifest:
    """Read the manifest of a prepared dataset.

    Args:
        path: ``manifest.json`` or its folder.

    Raises:
        InputError: it is missing or damaged, or a pair has a subject that is not listed.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path}: no such file; voxelopt prepare makes it of a dataset")
    content = read_json(path)
    try:
        if content["version"] != _VERSION:
            raise InputError(f"{path}: version {content['version']}, expected {_VERSION}")
        subjects = {entry["name"]: _subject(path.parent, entry) for entry in content["subjects"]}
        pairs: dict[Split, list[Pair]] = {}
        for split in SPLITS:
            pairs[split] = ordered_pairs(content["splits"].get(split, []))
            if split in content.get("pairs", {}):
                pairs[split] = [(fixed, moving) for fixed, moving in content["pairs"][split]]
        nx, ny, nz = content["shape"]
        window = content["window"]
        manifest = Manifest(
            float(content["spacing_mm"]),
            (nx, ny, nz),
            None if window is None else (window[0], window[1]),
            tuple(content["labels"]),
            Cohort(subjects, pairs),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: this is no manifest that voxelopt prepare wrote") from error
    for split in SPLITS:
        missing = [name for name in manifest.cohort.names(split) if name not in subjects]
        if missing:
            raise InputError(f"{path}: {split} has a subject that is not listed: {missing[0]}")
    return manifest


def _subject(folder: Path, entry: dict[str, str]) -> Subject:
    if Path(entry["name"]).name != entry["name"]:  # results are called after it
        raise InputError(f"{folder / NAME}: subject {entry['name']}: expected a name without /")

    def path(kind: str) -> Path | None:
        return folder / entry[kind] if kind in entry else None

    return Subject(entry["name"], folder / entry["image"], path("labels"), path("keypoints"))
