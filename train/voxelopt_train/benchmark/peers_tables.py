"""The tables of ``voxelopt peers``: a row per tool, for each set of pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.markup import escape
from rich.text import Text

from voxelopt_train.benchmark.peers import absence, voxels
from voxelopt_train.table_formats import (
    MEASURES,
    Display,
    csv_text,
    markdown_text,
    statistics_of,
    terminal_table,
    write_table,
)

Rows = dict[str, dict[str, Any]]  # measures by tool

BEFORE = "before"
_SHOWN = {
    **{name: MEASURES[name] for name in ("dice", "hd95", "sd_log_jacobian")},
    "error_mm": Display("error (mm)", 2),
    "folds": Display("folds, largest (%)", 4, 100.0),
    "seconds": Display("s, median", 2),
    "peak_mb": Display("MB, median", 0),
}
_WIDTH = 110  # characters that hold a row of all measures
_SINGLE = {"folds": max, "seconds": np.median, "peak_mb": np.median}  # others: mean ± sd


def report(output: Path, results: Mapping[str, Any]) -> None:
    """Print a table per set, and write ``peers.csv``, ``peers.json`` and ``peers.md``."""
    console, text, lines = Console(), "", []
    narrow = console.width < _WIDTH
    for name, pair_set in results["sets"].items():
        pairs = pair_set["pairs"]
        title = (
            f"{name}: {pair_set['title']}; {voxels(pairs[0])}; pairs: {len(pairs)}, "
            f"threads: {results['threads']}"
        )
        header, rows = _table([pair["rows"] for pair in pairs])
        table = terminal_table(escape(title), *(heading.replace(" ", "\n") for heading in header))
        for row in rows:
            cells = [cell.replace(" ± ", "\n±") for cell in row] if narrow else row
            table.add_row(*map(escape, cells))
        failures = [
            f"{tool} failed on {pair['fixed']} and {pair['moving']}: {row['failed']}"
            for pair in pairs
            for tool, row in pair["rows"].items()
            if "failed" in row
        ]
        console.print(Group(table, *map(Text, failures)))
        text += f"## {title}\n\n{markdown_text(['', *header], rows)}\n"
        text += "".join(f"- {failure}\n" for failure in failures) + "\n" * bool(failures)
        lines += [
            [name, n, pair["fixed"], pair["moving"], tool]
            + [row.get(column) for column in (*_SHOWN, "failed")]
            for n, pair in enumerate(pairs)
            for tool, row in pair["rows"].items()
        ]
    notes = [
        "mean ± standard deviation over pairs; memory is the peak of the whole process",
        *(
            f"{tool} {made['version']}: {made['settings']}"
            for tool, made in results["tools"].items()
        ),
        *absence(results["not_installed"]),
    ]
    console.print(*map(Text, notes), sep="\n")
    text += "".join(f"- {note}\n" for note in notes)
    columns = ["set", "pair", "fixed", "moving", "tool", *_SHOWN, "failed"]
    written = write_table(output, "peers", csv_text(columns, lines), results, text)
    print("wrote", *written, sep="\n  ")


def _table(pairs: Sequence[Rows]) -> tuple[list[str], list[list[str]]]:
    """Headings and, for each tool, its name and what its measures come to over the pairs."""
    shown = {
        name: display
        for name, display in _SHOWN.items()
        if name != "error_mm" or name in pairs[0][BEFORE]
    }
    rows = [
        [tool, *(_cell([rows[tool].get(name) for rows in pairs], name) for name in shown)]
        for tool in pairs[0]
    ]
    return [display.heading.format(unit="mm") for display in shown.values()], rows


def _cell(values: Sequence[float | None], name: str) -> str:
    statistics = statistics_of({name: [math.nan if v is None else v for v in values]}).get(name)
    if statistics is None:
        return "-"
    _, digits, factor = _SHOWN[name]
    if name in _SINGLE:
        value = _SINGLE[name]([v for v in values if v is not None])
        return f"{factor * value:.{digits}f}"
    total = len(values)
    cell = f"{factor * statistics.mean:.{digits}f}"
    if total > 1:
        cell += f" ± {factor * statistics.std:.{digits}f}"
    return cell if statistics.pairs == total else f"{cell} ({statistics.pairs} of {total})"
