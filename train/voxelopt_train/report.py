"""The numbers of one registration: as an object, as JSON, as a table in the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Group
from rich.table import Table

from voxelopt_layers import compose, jacobian_determinant
from voxelopt_train.label_metrics import Protocol
from voxelopt_train.metrics import (
    Evaluation,
    evaluate,
    folds,
    sd_log_jacobian,
    sd_log_jacobian_strict,
)
from voxelopt_train.registration import Registration
from voxelopt_train.transforms import mm_to_voxels

_OF_LABELS = ("protocol", "dice", "hd95", "hd95_unit", "mean_dice", "mean_hd95")


@dataclass(frozen=True)
class Report:
    """Numbers of one registration.

    Attributes:
        labels: evaluation of the label maps by stage: ``before`` (as they lie in the world),
            ``aligned`` (where there was an initial alignment) and ``registered``.
        sd_log_jacobian: of the protocol, see `voxelopt_train.metrics`.
        sd_log_jacobian_strict: of log J clipped at 1e-3.
        folds: share of voxels with J <= 0.
        displacement_mm: mean and largest displacement.
        inverse_error_voxels: mean length of ``compose(u, inverse)`` in the interior.
        working_grid: shape and spacing in mm of the grid the layer ran on.
        seconds: time of features and layer.
    """

    labels: dict[str, Evaluation]
    sd_log_jacobian: float
    sd_log_jacobian_strict: float
    folds: float
    displacement_mm: tuple[float, float]
    inverse_error_voxels: float
    working_grid: tuple[tuple[int, ...], tuple[float, ...]]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        shape, spacing = self.working_grid
        return {
            # The field is one for all stages, and below.
            "labels": {
                stage: {k: v for k, v in value.as_dict().items() if k in _OF_LABELS}
                for stage, value in self.labels.items()
            },
            "sd_log_jacobian": self.sd_log_jacobian,
            "sd_log_jacobian_strict": self.sd_log_jacobian_strict,
            "folds": self.folds,
            "mean_displacement_mm": self.displacement_mm[0],
            "max_displacement_mm": self.displacement_mm[1],
            "inverse_error_voxels": self.inverse_error_voxels,
            "working_grid": {"shape": list(shape), "spacing_mm": list(spacing)},
            "seconds": self.seconds,
        }


def make_report(result: Registration, protocol: Protocol = "voxelopt") -> Report:
    """Evaluate a registration by one of the two protocols of `voxelopt_train.metrics`."""
    displacement = result.displacement
    jacobian = jacobian_determinant(displacement)
    inverse = mm_to_voxels(result.inverse_field.displacement_mm, result.inverse_field.grid)
    length = result.field.displacement_mm.norm(dim=1)
    return Report(
        labels=_evaluations(result, protocol),
        sd_log_jacobian=sd_log_jacobian(jacobian, protocol),
        sd_log_jacobian_strict=sd_log_jacobian_strict(jacobian),
        folds=folds(jacobian),
        displacement_mm=(float(length.mean()), float(length.max())),
        inverse_error_voxels=_inverse_error(displacement, inverse),
        working_grid=(result.working_grid.shape, result.working_grid.spacing),
        seconds=result.seconds,
    )


def _evaluations(result: Registration, protocol: Protocol) -> dict[str, Evaluation]:
    maps, spacing = result.labels, result.fixed.grid.spacing
    if maps is None:
        return {}
    stages = {"before": maps.moving, "registered": maps.warped}
    if result.initial is not None:
        stages = {"before": maps.moving, "aligned": maps.aligned, "registered": maps.warped}
    # All rows count the same labels, whatever part of them lies on the fixed grid.
    present = torch.cat([m.data.unique() for m in (maps.fixed, maps.moving, maps.aligned)])
    labels = [label for label in present.unique().tolist() if label]
    evaluations = {}
    for stage, moved in stages.items():
        unwarped = maps.moving if stage == "before" else maps.aligned
        evaluations[stage] = evaluate(
            maps.fixed.data, unwarped.data, moved.data, None, spacing, protocol, labels
        )
    return evaluations


def _inverse_error(displacement: torch.Tensor, inverse: torch.Tensor) -> float:
    """Over the inner half of each axis: the border maps to points that the grid does not hold."""
    residual = compose(displacement, inverse).norm(dim=1)[0]
    inner = tuple(slice(n // 4, n - n // 4) for n in residual.shape)
    return float(residual[inner].mean())


def summary_table(report: Report) -> Group:
    """The table that ends `voxelopt register`, and a sentence on the displacement."""
    table = Table(show_edge=False, pad_edge=False)
    if report.labels:
        unit = report.labels["registered"].hd95_unit
        for heading in ("", "Dice", f"HD95 ({unit})", "SDlogJ", "folds"):
            table.add_column(heading, justify="right" if heading else "left")
        for stage, value in report.labels.items():
            field = ("-", "-") if stage != "registered" else _regularity(report)
            table.add_row(stage, f"{value.mean_dice:.3f}", f"{value.mean_hd95:.2f}", *field)
    else:
        table.add_column("SDlogJ", justify="right")
        table.add_column("folds", justify="right")
        table.add_row(*_regularity(report))
    mean, largest = report.displacement_mm
    shape, spacing = report.working_grid
    sentence = (
        f"displacement {mean:.1f} mm on average, {largest:.1f} mm at most "
        "(whole grid, without the initial alignment); "
        f"inverse off by {report.inverse_error_voxels:.3f} voxels (mean, inner half); "
        f"grid {' x '.join(map(str, shape))} at {' x '.join(f'{s:.3g}' for s in spacing)} mm; "
        f"{report.seconds:.1f} s"
    )
    return Group(table, "", sentence)


def _regularity(report: Report) -> tuple[str, str]:
    return f"{report.sd_log_jacobian:.3f}", f"{100 * report.folds:.4f} %"
