"""What the tables of results share: the measures, their statistics, and the formats of files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from voxelopt_train.files import all_or_none, plain


class Display(NamedTuple):
    """How a measure is shown; ``{unit}`` in a heading stands for that of HD95."""

    heading: str
    digits: int
    factor: float = 1.0


MEASURES = {
    "dice_before": Display("Dice before", 3),
    "dice": Display("Dice", 3),
    "hd95": Display("HD95 ({unit})", 2),
    "sd_log_jacobian": Display("SDlogJ", 3),
    "sd_log_jacobian_strict": Display("SDlogJ strict", 3),
    "folds": Display("folds (%)", 4, 100.0),
    "tre": Display("TRE (mm)", 2),
    "seconds": Display("s", 2),
}


@dataclass(frozen=True)
class Statistics:
    """Of the ``pairs`` with a finite value; ``std`` is that of the population."""

    mean: float
    std: float
    minimum: float
    maximum: float
    pairs: int

    def shown(self, measure: str) -> list[str]:
        """Mean, std, minimum and maximum in the digits of one of `MEASURES`, and the pairs."""
        _, digits, factor = MEASURES[measure]
        values = (self.mean, self.std, self.minimum, self.maximum)
        return [*(f"{factor * value:.{digits}f}" for value in values), str(self.pairs)]


def statistics_of(columns: Mapping[str, Iterable[float]]) -> dict[str, Statistics]:
    """Statistics of each column that holds any finite value."""
    statistics = {}
    for name, column in columns.items():
        x = np.array([value for value in column if math.isfinite(value)])
        if x.size:
            mean, std, low, high = (float(f(x)) for f in (np.mean, np.std, np.min, np.max))
            statistics[name] = Statistics(mean, std, low, high, x.size)
    return statistics


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV file; what is None, NaN or infinite is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([plain(cell) for cell in row] for row in rows)
    return text.getvalue()


def markdown_text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left, numbers to the right."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"

    rule = "|---|" + "---:|" * (len(header) - 1) + "\n"
    return line(header) + rule + "".join(map(line, rows))


def write_table(
    folder: Path, stem: str, table: str, data: Mapping[str, Any], text: str
) -> list[Path]:
    """Write ``STEM.csv``, ``STEM.json`` and ``STEM.md``, all or none; InputError if none."""
    contents = {
        f"{stem}.csv": table,
        f"{stem}.json": json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n",
        f"{stem}.md": text,
    }
    with all_or_none(folder) as temporary:
        for name, content in contents.items():
            (temporary / name).write_text(content, encoding="utf-8")
    return [folder / name for name in contents]


def terminal_table(title: str, *columns: str) -> Table:
    """A table for the terminal whose first column, of names, has no heading."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table
