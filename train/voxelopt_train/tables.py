"""Table of results of one method, pair by pair: as an object, and as CSV, JSON and Markdown.

Numbers are kept and written in full and rounded only where they are shown. A value that is NaN (not
measured, or no label counts) or infinite (HD95 of a label that vanished, under ``"learn2reg"``) is
an empty cell in CSV and null in JSON; it is left out of means, which say how many pairs they hold.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from voxelopt_train.errors import InputError
from voxelopt_train.files import plain
from voxelopt_train.input_files import read_text
from voxelopt_train.label_metrics import Protocol
from voxelopt_train.table_formats import (
    MEASURES,
    Statistics,
    csv_text,
    markdown_text,
    statistics_of,
    write_table,
)


@dataclass(frozen=True)
class PairResult:
    """What was measured on one pair; NaN where nothing was. ``folds`` is a share from 0 to 1."""

    fixed: str
    moving: str
    dice_before: float = math.nan
    dice: float = math.nan
    hd95: float = math.nan
    sd_log_jacobian: float = math.nan
    sd_log_jacobian_strict: float = math.nan
    folds: float = math.nan
    tre: float = math.nan
    seconds: float = math.nan
    dice_per_label: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ResultTable:
    """Results of one method.

    Attributes:
        protocol: the rules that the pairs were measured by, see `metrics`.
        pairs: one row each.
        label_names: names of organs, for those labels that have one.
    """

    protocol: Protocol
    pairs: list[PairResult]
    label_names: dict[int, str] = field(default_factory=dict)

    def summary(self) -> dict[str, Statistics]:
        """Statistics over pairs of each of `MEASURES` that was measured."""
        return statistics_of({name: [getattr(p, name) for p in self.pairs] for name in MEASURES})

    def dice_per_label(self) -> dict[str, Statistics]:
        """Statistics over pairs of the Dice of each organ, by its name or number."""
        return statistics_of(
            {
                self._label_name(label): [p.dice_per_label.get(label, math.nan) for p in self.pairs]
                for label in self._labels()
            }
        )

    def write(self, folder: Path, stem: str) -> list[Path]:
        """Write ``STEM.csv`` (pairs), ``STEM.json`` (all) and ``STEM.md`` (statistics), or none.

        Raises:
            InputError: they cannot be written.
        """
        return write_table(folder, stem, self.csv(), self.as_dict(), self.markdown())

    @classmethod
    def read(cls, path: Path) -> ResultTable:
        """Read what `write` wrote to ``STEM.json``.

        Raises:
            InputError: there is no such file, or it is another kind of file.
        """
        text = read_text(path, str(path))
        try:
            stored = json.loads(text)
            names = {int(label): name for label, name in stored["label_names"].items()}
            return cls(stored["protocol"], [_pair(row) for row in stored["pairs"]], names)
        except (RecursionError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is no table of results that this program wrote") from error

    @classmethod
    def pooled(cls, tables: Sequence[ResultTable]) -> ResultTable:
        """The pairs of all tables: of one method, on the folds of a cross-validation.

        Raises:
            InputError: a pair is in two of them, or their protocols or names of labels differ.
        """
        first = tables[0]
        for table in tables:
            if (table.protocol, table.label_names) != (first.protocol, first.label_names):
                raise InputError("the tables differ in protocol or labels: they cannot be pooled")
        pairs = [pair for table in tables for pair in table.pairs]
        for (fixed, moving), times in Counter((p.fixed, p.moving) for p in pairs).items():
            if times > 1:
                raise InputError(
                    f"the pair of {fixed} and {moving} is in {times} of the tables: expected other "
                    "pairs in each"
                )
        return cls(first.protocol, pairs, first.label_names)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        statistics = {**self.summary(), "dice_per_label": self.dice_per_label()}
        return {
            "protocol": self.protocol,
            "hd95_unit": self.hd95_unit,
            "label_names": {str(label): name for label, name in self.label_names.items()},
            "summary": plain(statistics),
            "pairs": [plain(asdict(pair)) for pair in self.pairs],
        }

    def csv(self) -> str:
        """One line per pair."""
        labels = self._labels()
        organs = [f"dice_{self._label_name(label)}" for label in labels]
        rows = [
            [p.fixed, p.moving, *(getattr(p, name) for name in MEASURES)]
            + [p.dice_per_label.get(label) for label in labels]
            for p in self.pairs
        ]
        return csv_text(["fixed", "moving", *MEASURES, *organs], rows)

    def markdown(self) -> str:
        """Statistics over pairs of the measures, and of the Dice of each organ."""
        columns = ["mean", "std", "min", "max", "pairs"]
        measures = [[self.heading(name), *s.shown(name)] for name, s in self.summary().items()]
        text = markdown_text([f"protocol {self.protocol}", *columns], measures)
        organs = [[name, *s.shown("dice")] for name, s in self.dice_per_label().items()]
        return text + "\n" + markdown_text(["Dice of", *columns], organs) if organs else text

    @property
    def hd95_unit(self) -> str:
        """``"mm"`` or ``"voxels"``."""
        return "mm" if self.protocol == "voxelopt" else "voxels"

    def heading(self, measure: str) -> str:
        """Of a row or column with one of `MEASURES`."""
        return MEASURES[measure].heading.format(unit=self.hd95_unit)

    def _labels(self) -> list[int]:
        return sorted({label for pair in self.pairs for label in pair.dice_per_label})

    def _label_name(self, label: int) -> str:
        return self.label_names.get(label, str(label))


def _pair(row: Mapping[str, Any]) -> PairResult:
    numbers = {name: _number(row[name]) for name in MEASURES}
    per_label = {int(label): _number(value) for label, value in row["dice_per_label"].items()}
    return PairResult(row["fixed"], row["moving"], **numbers, dice_per_label=per_label)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
