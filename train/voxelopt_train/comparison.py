"""Methods side by side: the table that `voxelopt` prints and writes of several results."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from voxelopt_train.errors import InputError
from voxelopt_train.files import plain
from voxelopt_train.table_formats import (
    MEASURES,
    Statistics,
    csv_text,
    markdown_text,
    write_table,
)
from voxelopt_train.tables import ResultTable


class Comparison:
    """A row per method, with means over the same pairs.

    Args:
        tables: results by the name of the method, in the order of the rows.

    Raises:
        InputError: no tables, or tables of different pairs or protocols.
    """

    def __init__(self, tables: Mapping[str, ResultTable]) -> None:
        if not tables:
            raise InputError("There is nothing to compare: no results are given.")
        name, self._first = next(iter(tables.items()))
        for other, table in tables.items():
            if table.protocol != self._first.protocol:
                raise InputError(
                    f"{name} was measured by the protocol {self._first.protocol} and {other} by "
                    f"{table.protocol}: they cannot be compared."
                )
            if _pair_names(table) != _pair_names(self._first):
                raise InputError(
                    f"{name} and {other} were measured on different pairs: they cannot be compared."
                )
        self._rows = {name: table.summary() for name, table in tables.items()}

    def write(self, folder: Path, stem: str) -> list[Path]:
        """Write ``STEM.csv``, ``STEM.json`` and ``STEM.md``, or none; InputError if none."""
        return write_table(folder, stem, self.csv(), self.as_dict(), self.markdown())

    def as_dict(self) -> dict[str, Any]:
        """Statistics of each method, for JSON."""
        return {
            "protocol": self._first.protocol,
            "hd95_unit": self._first.hd95_unit,
            "pairs": len(self._first.pairs),
            "methods": plain(self._rows),
        }

    def csv(self) -> str:
        """Mean and standard deviation of every measure, a line per method."""
        parts = [(measure, part) for measure in MEASURES for part in ("mean", "std")]
        rows = [
            [name, *(getattr(row.get(measure), part, None) for measure, part in parts)]
            for name, row in self._rows.items()
        ]
        return csv_text(["method", *(f"{measure}_{part}" for measure, part in parts)], rows)

    def markdown(self) -> str:
        """The table for people to read: what any method has been measured by."""
        return markdown_text(*self._shown())

    def rich(self) -> Table:
        """The same for the terminal."""
        header, rows = self._shown()
        table = Table(show_edge=False, pad_edge=False)
        for n, heading in enumerate(header):
            lines = Text(heading.replace(" ", "\n"))  # 80 columns hold all measures
            table.add_column(lines, justify="right" if n else "left", no_wrap=True)
        for row in rows:
            table.add_row(*map(Text, row))
        return table

    def _shown(self) -> tuple[list[str], list[list[str]]]:
        measured = {measure for row in self._rows.values() for measure in row}
        measures = [m for m in MEASURES if m in measured and m != "sd_log_jacobian_strict"]
        rows = [
            [name, *(self._cell(row.get(measure), measure) for measure in measures)]
            for name, row in self._rows.items()
        ]
        return ["", *map(self._first.heading, measures)], rows

    def _cell(self, statistics: Statistics | None, measure: str) -> str:
        if statistics is None:
            return "-"
        mean, std, *_ = statistics.shown(measure)
        cell = f"{mean} ± {std}" if measure == "dice" else mean
        total = len(self._first.pairs)
        return cell if statistics.pairs == total else f"{cell} ({statistics.pairs} of {total})"


def row_folder(name: str) -> str:
    """The folder, beside the comparison, that holds the table of one method."""
    return re.sub(r"[ /]+", "_", name)


def _pair_names(table: ResultTable) -> list[tuple[str, str]]:
    return sorted((pair.fixed, pair.moving) for pair in table.pairs)
