"""All measures of a test set, batch by batch, and the table made of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from itertools import compress
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn

from voxelopt_layers import warp
from voxelopt_train.label_metrics import Protocol
from voxelopt_train.learning.lookups import both_have
from voxelopt_train.pair_metrics import (
    HD95,
    TRE,
    Dice,
    Folds,
    PairMetric,
    PairValue,
    SDLogJacobian,
)
from voxelopt_train.tables import PairResult, ResultTable


class PairEvaluation(nn.Module):
    """The metrics of `pair_metrics` that a batch has the data for.

    Args:
        labels: the labels that count.
        protocol: of the evaluation, see `voxelopt_train.metrics`.
        brief: only what is quick: Dice, SDlogJ and folds, as for validation.
    """

    def __init__(self, labels: Sequence[int], protocol: Protocol, brief: bool = False) -> None:
        super().__init__()
        self.protocol: Protocol = protocol
        metrics: dict[str, nn.Module] = {
            "sd_log_jacobian": SDLogJacobian(protocol),
            "folds": Folds(),
        }
        if labels:
            metrics["dice"] = Dice(labels, protocol)
        if not brief:
            metrics["sd_log_jacobian_strict"] = SDLogJacobian(protocol, strict=True)
            metrics["tre"] = TRE()
            metrics["seconds"] = PairValue("seconds")
            if labels:
                metrics["dice_before"] = Dice(labels, protocol)
                metrics["hd95"] = HD95(labels, protocol)
        self.metrics: nn.ModuleDict = nn.ModuleDict(metrics)

    def update(self, batch: dict[str, Any], displacement: Tensor, seconds: float = 0.0) -> None:
        """Measure the displacements ``(B, 3, *spatial)`` in voxels of one batch.

        Args:
            batch: what the dataloaders give, see `voxelopt_train.data`.
            displacement: of its pairs.
            seconds: time per pair.
        """
        index, spacing_mm = batch["index"], batch["spacing_mm"]
        given: dict[str, tuple[Any, ...]] = dict.fromkeys(
            ("sd_log_jacobian", "sd_log_jacobian_strict", "folds"), (displacement,)
        )
        given["seconds"] = (torch.full(index.shape, seconds, dtype=torch.float64),)
        if both_have(batch, "labels"):
            fixed, moving = batch["fixed_labels"], batch["moving_labels"]
            warped = warp(moving, displacement, mode="nearest")
            given["dice"] = fixed, moving, warped
            given["dice_before"] = fixed, moving, moving
            given["hd95"] = fixed, moving, warped, spacing_mm
        if both_have(batch, "keypoints"):
            keypoints = batch["fixed_keypoints"], batch["moving_keypoints"]
            given["tre"] = displacement, *keypoints, spacing_mm
        for name, metric in self.metrics.items():
            if name in given:
                cast(PairMetric, metric).update(index, *given[name])

    def means(self) -> dict[str, Tensor]:
        """Mean over all pairs of all processes of each measure; to be called by all of them."""
        with self._shared() as metrics:
            return {name: metric.compute().float() for name, metric in metrics.items()}

    def table(
        self, names: Sequence[tuple[str, str]], label_names: Mapping[int, str] | None = None
    ) -> ResultTable:
        """The table of all pairs of all processes; to be called by all of them.

        Args:
            names: fixed and moving subject of each pair, by its index.
            label_names: names of labels that have one.
        """
        with self._shared() as metrics:
            by_measure = {name: metric.pair_means() for name, metric in metrics.items()}
            dice = metrics["dice"].per_pair() if "dice" in metrics else {}
        pairs = [
            PairResult(
                *names[index],
                **{name: values.get(index, math.nan) for name, values in by_measure.items()},
                dice_per_label={int(k): v for k, v in dice.get(index, {}).items()},
            )
            for index in by_measure["folds"]
        ]
        return ResultTable(self.protocol, pairs, dict(label_names or {}))

    @contextmanager
    def _shared(self) -> Generator[dict[str, PairMetric]]:
        """The metrics that any process has pairs for: computing one takes all processes."""
        metrics = {name: cast(PairMetric, metric) for name, metric in self.metrics.items()}
        used = [metric.update_called for metric in metrics.values()]
        if distributed.is_available() and distributed.is_initialized():
            flags = torch.tensor(used, dtype=torch.int32, device=metrics["folds"].device)
            distributed.all_reduce(flags, distributed.ReduceOp.MAX)
            used = flags.tolist()
        with warnings.catch_warnings():
            # Of a process that has no pairs for one of them.
            warnings.filterwarnings("ignore", "The ``compute`` method of metric")
            yield {name: metrics[name] for name in compress(metrics, used)}
