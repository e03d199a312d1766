"""Subjects of a dataset, and which pairs of them train, validate and test."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from voxelopt_train.errors import InputError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Pair = tuple[str, str]  # names of the fixed and the moving subject

# 380, 6 and 42 ordered pairs.
_PAPER: dict[Split, range] = {
    "train": range(1, 21),
    "validation": range(21, 24),
    "test": range(24, 31),
}
_PAPER_SUBJECTS = 30


@dataclass(frozen=True)
class Subject:
    """The files of one subject.

    Attributes:
        name: unique in its dataset.
        image: NIfTI file.
        labels: NIfTI file on the grid of ``image``, or None.
        keypoints: CSV of voxel indices x, y, z of ``image``, or None; row n is the same anatomical
            point in both subjects of a pair.
        features: precomputed feature map ``(F, *spatial)``, or None.
    """

    name: str
    image: Path
    labels: Path | None = None
    keypoints: Path | None = None
    features: Path | None = None

    @property
    def files(self) -> list[Path]:
        """Those that there are."""
        return [p for p in (self.image, self.labels, self.keypoints, self.features) if p]


@dataclass(frozen=True)
class Cohort:
    """Subjects by name, and the pairs of each split."""

    subjects: dict[str, Subject]
    pairs: dict[Split, list[Pair]]

    def names(self, split: Split) -> list[str]:
        """The subjects of a split, in the order in which they first appear."""
        return list(dict.fromkeys(itertools.chain.from_iterable(self.pairs.get(split, []))))


def check_unique(names: Mapping[Path, str]) -> None:
    """Raise InputError where the names of subjects, by image file, would make two files one."""
    files: dict[str, Path] = {}
    for file, name in names.items():
        if name in files:
            raise InputError(f"{files[name]} and {file} would both be subject {name}: rename one")
        files[name] = file


def ordered_pairs(names: Iterable[str]) -> list[Pair]:
    """Every subject with every other one, in both directions."""
    return list(itertools.permutations(names, 2))


def natural_order(name: str) -> list[str | int]:
    """Sorting key by which ``img2`` comes before ``img10``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def paper_splits(names: Sequence[str]) -> dict[Split, list[str]]:
    """The paper's split of its 30 subjects: 1-20 train, 21-23 validate, 24-30 test.

    Numbers within 1-30 count as they are, in a part of the data too. 30 subjects with other
    numbers (the original BTCV archive has 1-10 and 21-40) count in their order; of anything else
    the split is not known, and empty.
    """
    numbers = [_number(name) for name in names]
    if not all(n is not None and 1 <= n <= _PAPER_SUBJECTS for n in numbers):
        if len(names) != _PAPER_SUBJECTS:
            return {}
        numbers = list(range(1, _PAPER_SUBJECTS + 1))
    return {
        split: [name for name, n in zip(names, numbers, strict=True) if n in members]
        for split, members in _PAPER.items()
    }


def select(selection: str, names: Sequence[str]) -> list[str]:
    """Names that a selection as ``"1-20,32,img40"`` means, without repetition.

    Args:
        selection: names and ranges, separated by commas; a number stands for the subject with
            this number in its name (the first one, if there are several). Empty: none.
        names: what there is to select from.

    Raises:
        InputError: an item means no subject.
    """
    chosen: list[str] = []
    for item in filter(None, map(str.strip, selection.split(","))):
        span = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", item)
        if item in names:
            found = [item]
        elif span is not None:
            first, last = int(span[1]), int(span[2] or span[1])
            found = [n for n in names if (k := _number(n)) is not None and first <= k <= last]
        else:
            found = []
        if not found:
            raise InputError(f"{item}: no such subject; there are {', '.join(names)}")
        chosen += found
    return list(dict.fromkeys(chosen))


def override(
    pairs: Mapping[Split, list[Pair]], names: Sequence[str], selections: Mapping[Split, str | None]
) -> dict[Split, list[Pair]]:
    """``pairs`` with all ordered pairs of a selection, see `select`, where one is given.

    Raises:
        InputError: a selection means no subject, or a single one.
    """
    result = dict(pairs)
    for split, selection in selections.items():
        if selection is not None:
            chosen = select(selection, names)
            if len(chosen) == 1:
                raise InputError(f"{split} {selection}: a pair takes two subjects, this is one")
            result[split] = ordered_pairs(chosen)
    return result


def check_held_out(cohort: Cohort) -> None:
    """Raise InputError if there are no pairs, or training subjects among those held out."""
    if not any(cohort.pairs.values()):
        found = ", ".join(sorted(cohort.subjects, key=natural_order))
        raise InputError(
            "which subjects train, validate and test is not known for this data: name them, as in "
            f"--train 1-20 --validation 21-23 --test 24-30; there are {found}"
        )
    for split in ("validation", "test"):
        both = set(cohort.names("train")) & set(cohort.names(split))
        if both:
            some = ", ".join(sorted(both, key=natural_order)[:5])
            raise InputError(f"subjects to train on must not be in {split} too: {some}")


def _number(name: str) -> int | None:
    found = re.search(r"\d+", name)
    return int(found[0]) if found else None
