"""The numbers of one registration: as an object, as JSON, as a table in the terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Group
from rich.table import Table

from voxelopt_layers import jacobian_determinant, sample
from voxelopt_layers.displacement import identity_coordinates
from voxelopt_train.label_metrics import Protocol
from voxelopt_train.metrics import (
    Evaluation,
    evaluate,
    folds,
    sd_log_jacobian,
    sd_log_jacobian_strict,
)
from voxelopt_train.points import LandmarkPair
from voxelopt_train.registered import Registration
from voxelopt_train.similarity import normalised_mutual_information
from voxelopt_train.transforms import Transform, mm_to_voxels, voxels_to_mm

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
        inverse_error_voxels: mean length of ``compose(u, inverse)`` in the inner half.
        inverse_error_mm: mean and largest length of the same, in mm.
        working_grid: shape and spacing in mm of the grid the layer ran on.
        seconds: time of features and layer.
        similarity: normalised mutual information of the images by stage, those of labels but for
            ``before`` where there was an initial alignment, see `normalised_mutual_information`.
        tre_mm: target registration error of landmarks, by stage as for labels: the mean, and that
            of each point.
    """

    labels: dict[str, Evaluation]
    sd_log_jacobian: float
    sd_log_jacobian_strict: float
    folds: float
    displacement_mm: tuple[float, float]
    inverse_error_voxels: float
    inverse_error_mm: tuple[float, float]
    working_grid: tuple[tuple[int, ...], tuple[float, ...]]
    seconds: float
    similarity: dict[str, float]
    tre_mm: dict[str, dict[str, Any]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        shape, spacing = self.working_grid
        return {
            # The field is one for all stages, and below.
            "labels": {
                stage: {k: v for k, v in value.as_dict().items() if k in _OF_LABELS}
                for stage, value in self.labels.items()
            },
            "tre_mm": self.tre_mm,
            "normalised_mutual_information": self.similarity,
            "sd_log_jacobian": self.sd_log_jacobian,
            "sd_log_jacobian_strict": self.sd_log_jacobian_strict,
            "folds": self.folds,
            "mean_displacement_mm": self.displacement_mm[0],
            "max_displacement_mm": self.displacement_mm[1],
            "inverse_error_voxels": self.inverse_error_voxels,
            "mean_inverse_error_mm": self.inverse_error_mm[0],
            "max_inverse_error_mm": self.inverse_error_mm[1],
            "working_grid": {"shape": list(shape), "spacing_mm": list(spacing)},
            "seconds": self.seconds,
        }


def make_report(
    result: Registration, protocol: Protocol = "voxelopt", landmarks: LandmarkPair | None = None
) -> Report:
    """Evaluate a registration by one of the two protocols of `voxelopt_train.metrics`."""
    displacement = result.displacement
    jacobian = jacobian_determinant(displacement)
    inverse = mm_to_voxels(result.inverse_field.displacement_mm, result.inverse_field.grid)
    length = result.field.displacement_mm.norm(dim=1)
    error = _inverse_error(displacement, inverse)
    error_mm = voxels_to_mm(error, result.fixed.grid).norm(dim=1)
    return Report(
        labels=_evaluations(result, protocol),
        sd_log_jacobian=sd_log_jacobian(jacobian, protocol),
        sd_log_jacobian_strict=sd_log_jacobian_strict(jacobian),
        folds=folds(jacobian),
        displacement_mm=(float(length.mean()), float(length.max())),
        inverse_error_voxels=float(error.norm(dim=1).mean()),
        inverse_error_mm=(float(error_mm.mean()), float(error_mm.max())),
        working_grid=(result.working_grid.shape, result.working_grid.spacing),
        seconds=result.seconds,
        similarity=_similarities(result),
        tre_mm={} if landmarks is None else _landmark_errors(result, landmarks),
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


def _similarities(result: Registration) -> dict[str, float]:
    start = "before" if result.initial is None else "aligned"
    moved = {start: result.aligned, "registered": result.warped}
    fixed = result.fixed.data
    return {stage: normalised_mutual_information(fixed, x.data) for stage, x in moved.items()}


def _landmark_errors(result: Registration, landmarks: LandmarkPair) -> dict[str, dict[str, Any]]:
    stages: dict[str, list[Transform]] = {"before": []}
    if result.initial is not None:
        stages["aligned"] = [result.initial]
    stages["registered"] = result.transforms
    return {
        stage: landmarks.as_dict(landmarks.errors_mm(transforms))
        for stage, transforms in stages.items()
    }


def _inverse_error(displacement: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """``compose(displacement, inverse)`` in the inner half of each axis, in voxels.

    (The border maps to points that the grid does not hold.)
    """
    inner = [slice(n // 4, n - n // 4) for n in displacement.shape[2:]]
    step = inverse[(..., *inner)]
    first = step.new_tensor([half.start for half in inner]).reshape(1, -1, 1, 1, 1)
    moved = identity_coordinates(step) + first + step
    return step + sample(displacement, moved, boundary="border")


def summary_table(report: Report) -> Group:
    """The table that ends `voxelopt register`, and a sentence on the displacement."""
    table = Table(show_edge=False, pad_edge=False)
    for heading in _headings(report):
        table.add_column(heading, justify="right" if heading else "left")
    for stage in report.labels or report.tre_mm or report.similarity:
        table.add_row(*_row(report, stage))
    mean, largest = report.displacement_mm
    shape, spacing = report.working_grid
    sentence = (
        f"displacement {mean:.1f} mm on average, {largest:.1f} mm at most "
        "(whole grid, on top of any initial alignment); "
        f"inverse off by {report.inverse_error_mm[0]:.2f} mm on average, "
        f"{report.inverse_error_mm[1]:.2f} mm at most (inner half); "
        f"grid {' x '.join(map(str, shape))} at {' x '.join(f'{s:.3g}' for s in spacing)} mm; "
        f"{report.seconds:.1f} s for features and layer"
    )
    return Group(table, "", sentence)


def _headings(report: Report) -> list[str]:
    headings = [""]
    if report.labels:
        headings += ["Dice", f"HD95 ({report.labels['registered'].hd95_unit})"]
    return [*headings, *(["TRE (mm)"] if report.tre_mm else []), "NMI", "SDlogJ", "folds"]


def _row(report: Report, stage: str) -> list[str]:
    row = [stage]
    if report.labels:
        value = report.labels[stage]
        row += [f"{value.mean_dice:.3f}", f"{value.mean_hd95:.2f}"]
    if report.tre_mm:
        row.append(f"{report.tre_mm[stage]['mean']:.2f}")
    similarity = report.similarity.get(stage)
    row.append("-" if similarity is None else f"{similarity:.3f}")
    if stage != "registered":
        return [*row, "-", "-"]
    return [*row, f"{report.sd_log_jacobian:.3f}", f"{100 * report.folds:.4f} %"]
