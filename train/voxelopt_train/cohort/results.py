"""The table of results of a cohort: a row for each case, and the means over those that are done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from voxelopt_train.files import plain
from voxelopt_train.label_metrics import Protocol
from voxelopt_train.table_formats import (
    MEASURES,
    Display,
    Statistics,
    csv_text,
    markdown_text,
    statistics_of,
    terminal_table,
    write_table,
)

STEM = "results"
FILES = tuple(f"{STEM}.{suffix}" for suffix in ("csv", "json", "md"))
_MEASURES = {
    "dice_before": MEASURES["dice_before"],
    "dice_aligned": Display("Dice aligned", 3),
    **{name: MEASURES[name] for name in ("dice", "hd95", "sd_log_jacobian", "folds")},
    "tre_mm": Display("TRE (mm)", 2),
    "nmi_before": Display("NMI before", 3),
    "nmi_aligned": Display("NMI aligned", 3),
    "nmi": Display("NMI", 3),
    "inverse_error_voxels": Display("inverse (voxels)", 3),
    "seconds": MEASURES["seconds"],
}


@dataclass(frozen=True)
class CaseResult:
    """What became of a case; numbers as in its ``Report.json``, NaN where nothing was measured.

    Attributes:
        case: its name.
        fixed: the fixed image.
        moving: the moving image.
        status: whether its results are complete.
        dice_before: mean over labels, as they lie in the world.
        dice_aligned: the same after the initial alignment, where there was one.
        dice: mean over labels after the registration.
        hd95: mean over labels, in mm, or in voxels under the protocol ``"learn2reg"``.
        sd_log_jacobian: of the protocol, see `voxelopt_train.metrics`.
        folds: share of voxels with J <= 0, from 0 to 1.
        tre_mm: mean over landmarks after the registration.
        nmi_before: normalised mutual information of the images, where nothing aligned them first.
        nmi_aligned: the same after the initial alignment.
        nmi: the same after the registration.
        inverse_error_voxels: see `voxelopt_train.report.Report`.
        seconds: of features and layer, without reading, resampling and writing.
        error: a sentence, empty where nothing failed.
    """

    case: str
    fixed: str
    moving: str
    status: Literal["done", "failed"]
    dice_before: float = math.nan
    dice_aligned: float = math.nan
    dice: float = math.nan
    hd95: float = math.nan
    sd_log_jacobian: float = math.nan
    folds: float = math.nan
    tre_mm: float = math.nan
    nmi_before: float = math.nan
    nmi_aligned: float = math.nan
    nmi: float = math.nan
    inverse_error_voxels: float = math.nan
    seconds: float = math.nan
    error: str = ""

    @classmethod
    def done(cls, case: str, fixed: str, moving: str, report: Mapping[str, Any]) -> CaseResult:
        """The row of a case with this ``Report.json``."""
        numbers: dict[str, Any] = {name: report.get(name) for name in _MEASURES}
        if labels := report["labels"]:
            after = labels["registered"]
            numbers["dice_before"] = labels["before"]["mean_dice"]
            numbers["dice_aligned"] = labels.get("aligned", {}).get("mean_dice")
            numbers |= {"dice": after["mean_dice"], "hd95": after["mean_hd95"]}
        similarity = report.get("normalised_mutual_information", {})
        numbers["nmi"] = similarity.get("registered")
        for stage in ("before", "aligned"):
            numbers[f"nmi_{stage}"] = similarity.get(stage)
        numbers["tre_mm"] = report.get("tre_mm", {}).get("registered", {}).get("mean")
        measured = {name: n for name, n in numbers.items() if n is not None}
        return cls(case, fixed, moving, "done", **measured)


@dataclass(frozen=True)
class CohortResults:
    """Results of a cohort.

    Attributes:
        protocol: the rules that the cases were measured by, see `voxelopt_train.metrics`.
        cases: one row each, in the order of the cohort.
        kept: how many of them had been complete before.
    """

    protocol: Protocol
    cases: list[CaseResult]
    kept: int = 0

    @property
    def failed(self) -> list[CaseResult]:
        """The cases that are not complete."""
        return [case for case in self.cases if case.status == "failed"]

    def summary(self) -> dict[str, Statistics]:
        """Statistics over the cases that are done of each measure."""
        return statistics_of({name: [getattr(c, name) for c in self.cases] for name in _MEASURES})

    def table(self) -> Table:
        """The means and their spread over the cases that are done, for the terminal."""
        header, *rows = self._rows()
        done = len(self.cases) - len(self.failed)
        table = terminal_table(f"{done} of {len(self.cases)} cases are done", *header[1:])
        for row in rows:
            table.add_row(*row)
        return table

    def write(self, folder: Path) -> list[Path]:
        """Write ``results.csv`` (cases), ``results.json`` (all) and ``results.md`` (means).

        Raises:
            InputError: they cannot be written; older ones are left as they are.
        """
        header, *rows = self._rows()
        columns = [field.name for field in fields(CaseResult)]
        table = csv_text(columns, [[getattr(c, name) for name in columns] for c in self.cases])
        data = {
            "protocol": self.protocol,
            "hd95_unit": self._unit,
            "summary": plain(self.summary()),
            "cases": [plain(asdict(case)) for case in self.cases],
        }
        return write_table(folder, STEM, table, data, markdown_text(header, rows))

    @property
    def _unit(self) -> str:
        return "mm" if self.protocol == "voxelopt" else "voxels"

    def _rows(self) -> list[list[str]]:
        """A row for each measure: as columns they would not fit a narrow terminal."""
        summary = self.summary()
        rows = [["", "mean", "std", "cases"]]
        for name, statistics in summary.items():
            heading, digits, factor = _MEASURES[name]
            several = statistics.pairs > 1
            spread = f"{factor * statistics.std:.{digits}f}" if several else "-"
            mean = f"{factor * statistics.mean:.{digits}f}"
            rows.append([heading.format(unit=self._unit), mean, spread, str(statistics.pairs)])
        return rows
