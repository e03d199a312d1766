"""The measures of `metrics` as `torchmetrics.Metric`s: over batches, epochs and processes.

Each keeps one row of numbers per pair, so that the tables can show every pair, and so that a pair
that a distributed sampler gave out twice to fill the last round counts once. Labels, spacing and
displacement of a batch have the shapes of the dataloaders; everything lies on the fixed grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from voxelopt_layers import jacobian_determinant
from voxelopt_layers.displacement import sample
from voxelopt_train.errors import InputError
from voxelopt_train.label_metrics import Protocol, dice_per_label, hd95_per_label
from voxelopt_train.metrics import (
    check_protocol,
    folds,
    sd_log_jacobian,
    sd_log_jacobian_strict,
    target_registration_error,
)


class PairMetric(Metric):
    """Base: values in named columns for each pair, of whose means the mean over pairs is taken.

    ``compute()`` gathers the rows of all processes, once; `per_pair` and `pair_means` answer from
    them and gather if need be, so that the first call of any of the three is for all processes.

    Args:
        columns: names of the values of a pair.
        rule: what else tells two metrics of one class and the same columns apart.
    """

    is_differentiable: bool | None = False
    full_state_update: bool | None = False

    def __init__(self, columns: Sequence[str], rule: str = "") -> None:
        super().__init__()
        self.columns: tuple[str, ...] = tuple(columns)
        self._pairs: dict[int, list[float]] = {}
        # A MetricCollection merges metrics whose states look alike after the first batch, as SDlogJ
        # and folds of an identity do, unless the states have different names.
        self._state = "_".join(("rows", type(self).__name__, rule, *self.columns))
        self.add_state(self._state, [], dist_reduce_fx="cat")

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows: float64 where there is one, so that tables hold what `evaluate` says."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    def compute(self) -> Tensor:
        """Mean over pairs of each pair's mean; NaN stands for no value and is left out of both."""
        state = getattr(self, self._state)
        rows = dim_zero_cat(state).view(-1, 1 + len(self.columns)).tolist() if len(state) else []
        first = {int(index): values for index, *values in reversed(rows)}
        self._pairs = dict(sorted(first.items()))
        return self._means().nanmean()

    def per_pair(self) -> dict[int, dict[str, float]]:
        """Values by pair and column, of all processes."""
        self.compute()
        columns = self.columns
        return {i: dict(zip(columns, row, strict=True)) for i, row in self._pairs.items()}

    def pair_means(self) -> dict[int, float]:
        """Mean over the columns of each pair, of all processes."""
        self.compute()
        return dict(zip(self._pairs, self._means().tolist(), strict=True))

    def _means(self) -> Tensor:
        values = torch.tensor(list(self._pairs.values()), dtype=self.dtype, device=self.device)
        return values.view(-1, len(self.columns)).nanmean(dim=1)

    def _add(self, index: Tensor, values: Tensor) -> None:
        """Keep the values ``(B, columns)`` of the pairs ``index`` ``(B,)``."""
        both = [part.to(self.device, self.dtype) for part in (index[:, None], values)]
        # Flat, as the empty state of a process without any pair has a single axis.
        getattr(self, self._state).append(torch.cat(both, dim=1).flatten())


class PairValue(PairMetric):
    """A number per pair that is known already and named here, as the seconds it took."""

    def __init__(self, name: str) -> None:
        super().__init__([name])

    def update(self, index: Tensor, value: Tensor) -> None:
        """Take numbers ``(B,)`` of the pairs ``index`` ``(B,)``."""
        self._add(index, value[:, None])


class _LabelMetric(PairMetric):
    def __init__(self, labels: Sequence[int], protocol: Protocol = "voxelopt") -> None:
        check_protocol(protocol)
        if len(labels) == 0:
            raise InputError("There is nothing to evaluate: no labels are given that count.")
        super().__init__([str(label) for label in labels], protocol)
        self.labels: tuple[int, ...] = tuple(labels)
        self.protocol: Protocol = protocol

    def _add_each(
        self,
        index: Tensor,
        maps: Sequence[Tensor],
        measure: Callable[[int, list[np.ndarray]], dict[int, float]],
    ) -> None:
        batches = [values[:, 0].int().cpu().numpy() for values in maps]
        rows = [measure(b, [values[b] for values in batches]) for b in range(len(index))]
        self._add(index, torch.tensor([list(row.values()) for row in rows], dtype=torch.float64))


class Dice(_LabelMetric):
    """Dice coefficient per label, as in `metrics.evaluate`.

    Args:
        labels: the labels that count.
        protocol: see `metrics`.
    """

    higher_is_better: bool | None = True

    def update(
        self, index: Tensor, fixed_labels: Tensor, moving_labels: Tensor, warped_labels: Tensor
    ) -> None:
        """Take a batch; for Dice before registration give the moving labels twice.

        Args:
            index: ``(B,)`` number of the pair.
            fixed_labels: ``(B, 1, *spatial)``, whole numbers.
            moving_labels: the same, not warped.
            warped_labels: the same, warped by nearest neighbour.
        """
        self._add_each(
            index,
            (fixed_labels, moving_labels, warped_labels),
            lambda b, maps: dice_per_label(*maps, labels=self.labels, protocol=self.protocol),
        )


class HD95(_LabelMetric):
    """95th percentile of the surface distance per label, as in `metrics.evaluate`.

    Args:
        labels: the labels that count.
        protocol: see `metrics`; ``"voxelopt"`` is in mm, ``"learn2reg"`` in voxels.
    """

    higher_is_better: bool | None = False

    def update(
        self,
        index: Tensor,
        fixed_labels: Tensor,
        moving_labels: Tensor,
        warped_labels: Tensor,
        spacing_mm: Tensor,
    ) -> None:
        """Take a batch: as `Dice.update`, and the voxel size ``(B, 3)``."""
        self._add_each(
            index,
            (fixed_labels, moving_labels, warped_labels),
            lambda b, maps: hd95_per_label(
                *maps,
                labels=self.labels,
                spacing_mm=spacing_mm[b].tolist(),
                protocol=self.protocol,
            ),
        )


class _JacobianMetric(PairMetric):
    higher_is_better: bool | None = False

    def __init__(self, column: str, measure: Callable[[Tensor], float], rule: str = "") -> None:
        super().__init__([column], rule)
        self._measure = measure

    def update(self, index: Tensor, displacement: Tensor) -> None:
        """Take displacements ``(B, d, *spatial)`` in voxels of the pairs ``index`` ``(B,)``."""
        jacobian = jacobian_determinant(displacement.detach().float()).cpu()
        values = [[self._measure(of_pair)] for of_pair in jacobian.split(1)]
        self._add(index, torch.tensor(values, dtype=torch.float64))


class SDLogJacobian(_JacobianMetric):
    """Standard deviation of log J: `metrics.sd_log_jacobian`, or its strict version.

    Args:
        protocol: clip limits, see `metrics`.
        strict: `metrics.sd_log_jacobian_strict`, which is the same in both protocols.
    """

    def __init__(self, protocol: Protocol = "voxelopt", strict: bool = False) -> None:
        check_protocol(protocol)
        if strict:
            super().__init__("sd_log_jacobian_strict", sd_log_jacobian_strict)
        else:
            measure = partial(sd_log_jacobian, protocol=protocol)
            super().__init__("sd_log_jacobian", measure, protocol)


class Folds(_JacobianMetric):
    """Share (0 to 1) of voxels with J <= 0, see `metrics.folds`."""

    def __init__(self) -> None:
        super().__init__("folds", folds)


class TRE(PairMetric):
    """Target registration error: mean distance of corresponding keypoints in mm."""

    higher_is_better: bool | None = False

    def __init__(self) -> None:
        super().__init__(["tre"])

    def update(
        self,
        index: Tensor,
        displacement: Tensor,
        fixed_keypoints: Tensor,
        moving_keypoints: Tensor,
        spacing_mm: Tensor,
    ) -> None:
        """Take a batch; a fixed keypoint p belongs to the point p + u(p) of the moving image.

        Args:
            index: ``(B,)`` number of the pair.
            displacement: ``(B, d, *spatial)`` in voxels.
            fixed_keypoints: ``(B, N, d)`` in voxels, array axis order.
            moving_keypoints: ``(B, N, d)`` in voxels; the moving grid has the same voxel size.
            spacing_mm: ``(B, d)`` voxel size along each axis.
        """
        d = displacement.shape[1]
        points = fixed_keypoints.float().transpose(1, 2)
        at = points.reshape(*points.shape, *[1] * (d - 1))
        moved = points + sample(displacement.detach().float(), at, boundary="border").flatten(2)
        mapped_mm, target_mm = (
            voxels * spacing_mm[:, None] for voxels in (moved.transpose(1, 2), moving_keypoints)
        )
        error_mm = target_registration_error(mapped_mm, target_mm)
        self._add(index, error_mm.mean(dim=1, keepdim=True))
