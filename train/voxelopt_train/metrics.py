"""Evaluation of a registration: overlap and surface distance of labels, regularity of the field.

Two protocols, which differ in what they do with labels that are missing somewhere:

* ``"voxelopt"`` (the paper's table): Dice of a label that is absent from either image is 0; HD95 in
  mm, and where a label vanished in warping, the unwarped one stands in for it;
  SDlogJ clips J + 3 to [1e-8, 1e8].
* ``"learn2reg"``: Dice and HD95 of a label that is absent from the fixed or the unwarped moving
  image are NaN and left out of the mean; HD95 in voxels, infinite where a label vanished in
  warping; SDlogJ clips J + 3 to [1e-9, 1e9].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from voxelopt_layers import jacobian_determinant
from voxelopt_train.errors import InputError
from voxelopt_train.files import plain
from voxelopt_train.label_metrics import Protocol, dice_per_label, hd95_per_label

LabelMap = Tensor | np.ndarray
_LOG_CLIP = {"voxelopt": (1e-8, 1e8), "learn2reg": (1e-9, 1e9)}
_CROP = 2


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        protocol: the rules it was computed by.
        dice: Dice coefficient per label.
        hd95: 95th percentile of the surface distance per label, in ``hd95_unit``.
        hd95_unit: ``"mm"`` or ``"voxels"``.
        mean_dice: mean over the labels that count.
        mean_hd95: mean over the labels that count.
        sd_log_jacobian: see `sd_log_jacobian`; None without a displacement, as all that follow.
        sd_log_jacobian_strict: see `sd_log_jacobian_strict`.
        folds: share of voxels with J <= 0, see `folds`.
        mean_displacement_mm: mean length of the displacement vectors.
    """

    protocol: Protocol
    dice: dict[int, float]
    hd95: dict[int, float]
    hd95_unit: Literal["mm", "voxels"]
    mean_dice: float
    mean_hd95: float
    sd_log_jacobian: float | None = None
    sd_log_jacobian_strict: float | None = None
    folds: float | None = None
    mean_displacement_mm: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON, which knows neither NaN nor infinity: both become None."""
        return plain(self)


def evaluate(
    fixed_labels: LabelMap,
    moving_labels: LabelMap,
    warped_labels: LabelMap,
    displacement: Tensor | None,
    spacing_mm: Sequence[float],
    protocol: Protocol = "voxelopt",
    labels: Sequence[int] | None = None,
) -> Evaluation:
    """Evaluate one registered pair; all maps lie on the fixed grid.

    For the state before registration give the moving labels as ``warped_labels`` too, and no
    displacement.

    Args:
        fixed_labels: ``(*spatial)``, integer, 0 is background.
        moving_labels: ``(*spatial)``, not warped.
        warped_labels: ``(*spatial)``, warped by nearest neighbour.
        displacement: ``(1, 3, *spatial)`` in voxels, or None.
        spacing_mm: voxel size along each axis.
        protocol: ``"voxelopt"`` or ``"learn2reg"``.
        labels: the labels that count, as ``range(1, 14)`` for the paper's table; by default all
            that the fixed or the moving image has.

    Raises:
        InputError: for maps, spacing or displacement that do not fit together, or no labels.
    """
    check_protocol(protocol)
    fixed, moving, warped = (
        _label_array(values, name)
        for values, name in (
            (fixed_labels, "fixed labels"),
            (moving_labels, "moving labels"),
            (warped_labels, "warped labels"),
        )
    )
    _check_grids(fixed, moving, warped, displacement, spacing_mm)
    if labels is None:
        labels = sorted({*np.unique(fixed).tolist(), *np.unique(moving).tolist()} - {0})
    if len(labels) == 0:
        raise InputError("There is nothing to evaluate: the label images hold only background.")
    dice = dice_per_label(fixed, moving, warped, labels, protocol)
    hd95 = hd95_per_label(fixed, moving, warped, labels, spacing_mm, protocol)
    result = Evaluation(
        protocol=protocol,
        dice=dice,
        hd95=hd95,
        hd95_unit="mm" if protocol == "voxelopt" else "voxels",
        mean_dice=_nanmean(dice),
        mean_hd95=_nanmean(hd95),
    )
    if displacement is None:
        return result
    displacement = displacement.detach().float().cpu()
    jacobian = jacobian_determinant(displacement)
    length = (displacement * torch.tensor(spacing_mm).view(1, 3, 1, 1, 1)).norm(dim=1)
    return replace(
        result,
        sd_log_jacobian=sd_log_jacobian(jacobian, protocol),
        sd_log_jacobian_strict=sd_log_jacobian_strict(jacobian),
        folds=folds(jacobian),
        mean_displacement_mm=float(length.mean()),
    )


def sd_log_jacobian(jacobian: Tensor, protocol: Protocol = "voxelopt") -> float:
    """SDlogJ of the challenges: standard deviation of ``log(clip(J + 3))`` in the interior.

    The 3 hides folds down to J = -3: never report it without `folds`.

    Args:
        jacobian: ``(1, *spatial)`` from `jacobian_determinant`; two voxels are cropped per side
            (fewer along axes of less than five voxels).
        protocol: the clip limits, see the module's head.
    """
    low, high = _LOG_CLIP[protocol]
    interior = _interior(jacobian).double()
    return float((interior + 3).clamp(low, high).log().std(correction=0))


def sd_log_jacobian_strict(jacobian: Tensor) -> float:
    """Standard deviation of `log_jacobian` in the same interior: folds count fully."""
    return float(log_jacobian(_interior(jacobian).double()).std(correction=0))


def log_jacobian(jacobian: Tensor) -> Tensor:
    """``log(max(J, 1e-3))``: symmetric in growing and shrinking, -6.9 where the field folds."""
    return jacobian.clamp(min=1e-3).log()


def folds(jacobian: Tensor) -> float:
    """Share (0 to 1) of all voxels with J <= 0, the outer ones too, which SDlogJ does not see."""
    return float((jacobian <= 0).double().mean())


def target_registration_error(mapped_mm: Tensor, target_mm: Tensor) -> Tensor:
    """Distance ``(...)`` in mm of mapped points ``(..., d)`` from where they belong."""
    return (mapped_mm - target_mm).norm(dim=-1)


def _interior(jacobian: Tensor) -> Tensor:
    crop = [min(_CROP, (n - 1) // 2) for n in jacobian.shape[1:]]
    box = tuple(slice(c, n - c) for c, n in zip(crop, jacobian.shape[1:], strict=True))
    return jacobian[(slice(None), *box)]


def _nanmean(per_label: dict[int, float]) -> float:
    values = [value for value in per_label.values() if not math.isnan(value)]
    return float(np.mean(values)) if values else math.nan


def check_protocol(protocol: str) -> None:
    if protocol not in get_args(Protocol):
        raise InputError(
            f"The evaluation protocol must be one of {', '.join(get_args(Protocol))}, "
            f"not {protocol!r}."
        )


def _label_array(values: LabelMap, name: str) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 3:
        raise InputError(f"The {name} must be a 3-D volume, not of shape {array.shape}.")
    if not np.issubdtype(array.dtype, np.integer) or array.min() < 0:
        raise InputError(f"The {name} must be whole numbers from 0 up, not {array.dtype}.")
    return array.astype(np.int32, copy=False)


def _check_grids(
    fixed: np.ndarray,
    moving: np.ndarray,
    warped: np.ndarray,
    displacement: Tensor | None,
    spacing_mm: Sequence[float],
) -> None:
    for array, name in ((moving, "moving labels"), (warped, "warped labels")):
        if array.shape != fixed.shape:
            raise InputError(
                f"The {name} have shape {array.shape}, but have to lie on the fixed grid of "
                f"shape {fixed.shape}."
            )
    if displacement is not None and tuple(displacement.shape) != (1, 3, *fixed.shape):
        raise InputError(
            f"The displacement has shape {tuple(displacement.shape)}, expected "
            f"{(1, 3, *fixed.shape)} for labels of shape {fixed.shape}."
        )
    if len(spacing_mm) != 3 or not all(0 < s < math.inf for s in spacing_mm):
        raise InputError(f"The spacing must be three positive numbers in mm, got {spacing_mm}.")
