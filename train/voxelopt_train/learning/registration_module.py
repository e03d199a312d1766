"""`RegistrationModule`: a registration network in Lightning's hands, trained or not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from voxelopt_layers import Solution, VoxelOptLayer, jacobian_determinant
from voxelopt_models import RegistrationNet
from voxelopt_train.errors import InputError
from voxelopt_train.label_metrics import Protocol
from voxelopt_train.learning.evaluation import PairEvaluation
from voxelopt_train.learning.layouts import suit_convolutions
from voxelopt_train.learning.lookups import (
    both_have,
    data_labels,
    label_names,
    pair_names,
    training_steps,
)
from voxelopt_train.learning.losses import RegistrationLoss, organ_maps
from voxelopt_train.learning.pictures import log_picture
from voxelopt_train.learning.predictions import missing, write_warp
from voxelopt_train.tables import ResultTable

Batch = dict[str, Any]
NOTHING_TO_TRAIN = (
    "there is nothing to train: the encoder is frozen or has no weights, and no parameter of the "
    "layer is learnable; test and predict need no training"
)


class RegistrationModule(lightning.LightningModule):
    """Encoder and `VoxelOptLayer`, trained end to end or, where training-free, tested alone.

    To be trained, a batch holds ``fixed`` and ``moving`` ``(B, 1, *spatial)`` and, where the data
    have them, ``fixed_labels`` and ``moving_labels`` of this shape, ``fixed_features`` and
    ``moving_features`` ``(B, F, *spatial)``; to be evaluated, ``index (B,)``, the number of the
    pair, ``spacing_mm (B, 3)`` and, where there are, ``fixed_keypoints`` and ``moving_keypoints``
    ``(B, N, 3)``; to be predicted, lists ``fixed_name`` and ``moving_name``, and ``fixed_affine``
    and ``moving_affine (B, 4, 4)``. The data module has ``labels``, the numbers of the organs, and
    ``pair_names(split)``; `voxelopt_train.data.pair_module.PairModule` has all this.

    ``fit`` logs every term of the loss, Dice, SDlogJ and folds, and a picture of the first
    validation pair. ``test`` writes ``test.csv``, ``test.json`` and ``test.md`` to the trainer's
    ``default_root_dir``; ``predict`` writes the ITK displacement field of each pair to its folder
    ``warps`` and skips those that are there.

    Args:
        encoder: from images to features, see `voxelopt_models`.
        layer: the layer; with its defaults if None.
        loss: what training minimises; unsupervised (NCC and diffusion) if None.
        learning_rate: of Adam.
        temperature: temperatures of the soft assignment at the first and the last step of the
            training, geometric in between, so that it goes from soft to hard; afterwards the last
            one stays. None leaves the layer's own.
        protocol: of the evaluation, see `voxelopt_train.metrics`.
        layer_learning_rate: of Adam for the layer's learnable settings, which are few and bear far
            larger steps than a trained encoder; None: the same.

    Raises:
        ValueError: the temperatures or the loss do not fit the layer.
    """

    def __init__(
        self,
        encoder: nn.Module,
        layer: VoxelOptLayer | None = None,
        loss: RegistrationLoss | None = None,
        learning_rate: float = 1e-4,
        temperature: tuple[float, float] | None = None,
        protocol: Protocol = "voxelopt",
        layer_learning_rate: float | None = None,
    ) -> None:
        super().__init__()
        self.net: RegistrationNet = RegistrationNet(encoder, layer)
        self.loss: RegistrationLoss = RegistrationLoss() if loss is None else loss
        weights, levels = len(self.loss.level_weights), self.net.layer.levels
        if weights > levels:
            raise ValueError(f"{weights} level_weights for {levels} pyramid levels")
        self.learning_rate = learning_rate
        self.layer_learning_rate: float = (
            learning_rate if layer_learning_rate is None else layer_learning_rate
        )
        self.protocol: Protocol = protocol
        self.temperature = temperature
        if temperature is not None:
            if not min(temperature) > 0:
                raise ValueError(f"temperatures must be above 0, got {temperature}")
            if "temperature" in self.net.layer.solver.log_parameters:
                raise ValueError("a temperature that is learned cannot follow a schedule too")
            if self.net.layer.solver.assignment == "hard":
                raise ValueError("a hard assignment has no temperature to follow a schedule")
            self._set_temperature(temperature[1])  # what test and predict use

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Displacement ``(B, 3, *spatial)`` in voxels of two images ``(B, 1, *spatial)``."""
        return self.net(fixed, moving)

    def solve(self, batch: Batch) -> Solution:
        """Register a batch, from its feature maps where it has them, else through the encoder."""
        if not both_have(batch, "features"):
            return self.net.solve(batch["fixed"], batch["moving"], velocities=False)
        features = batch["fixed_features"], batch["moving_features"]
        return self.net.solve_features(*features, batch["fixed"].shape[2:], velocities=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        of_layer = set(self.net.layer.parameters())
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p not in of_layer], "lr": self.learning_rate},
            {"params": [p for p in trained if p in of_layer], "lr": self.layer_learning_rate},
        ]
        if not trained:
            raise InputError(NOTHING_TO_TRAIN)
        return torch.optim.Adam(groups)

    def setup(self, stage: str) -> None:
        if stage == "fit":
            suit_convolutions(self)

    def on_train_start(self) -> None:
        # A training that goes on may be given other rates than the checkpoint's.
        rates = (self.learning_rate, self.layer_learning_rate)
        for group, rate in zip(self.trainer.optimizers[0].param_groups, rates, strict=True):
            group["lr"] = rate

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self.temperature is None:
            return
        done = min(1.0, self.global_step / max(1, training_steps(self.trainer) - 1))
        start, end = self.temperature
        self._set_temperature(start ** (1 - done) * end**done)

    def _set_temperature(self, temperature: float) -> None:
        self.net.layer.solver.constants["temperature"] = temperature

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        solution = self.solve(batch)
        # The final field is on the image's grid; the coarser ones keep their own.
        fields = [solution.displacement, *(level.displacement for level in solution.levels[-2::-1])]
        organs = (None, None)
        if self.loss.label_weight > 0:
            organs = self._organs(batch)
        terms = self.loss(fields, batch["fixed"], batch["moving"], *organs)
        size = batch["fixed"].shape[0]
        with torch.no_grad():
            jacobian = jacobian_determinant(solution.displacement.detach())
            logged = {**terms, "folds": (jacobian <= 0).float().mean()}
        self.log_dict({f"train/{k}": v for k, v in logged.items()}, batch_size=size)
        self.log_dict({f"layer/{k}": v for k, v in self._settings().items()}, batch_size=size)
        self.log("train/loss_step", terms["loss"], prog_bar=True, logger=False, batch_size=size)
        return terms["loss"]

    def _settings(self) -> dict[str, Tensor | float]:
        """Of the layer: what changes while it is trained."""
        solver, changing = self.net.layer.solver, {}
        if self.temperature is not None:
            changing["temperature"] = solver.constants["temperature"]
        for name, logarithms in solver.log_parameters.items():
            values = logarithms.detach().exp().reshape(-1)
            for number, value in enumerate(values, 1):
                changing[f"{name}{number}" if len(values) > 1 else name] = value
        return changing

    def _organs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if not both_have(batch, "labels"):
            raise InputError(
                f"label_weight is {self.loss.label_weight:g}, but the training pair "
                f"{batch['fixed_name'][0]}, {batch['moving_name'][0]} has no labels"
            )
        labels = data_labels(self.trainer)
        fixed, moving = (organ_maps(batch[f"{x}_labels"], labels) for x in ("fixed", "moving"))
        return fixed, moving

    def on_validation_epoch_start(self) -> None:
        self._evaluation = self._new_evaluation(brief=True)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        solution = self.solve(batch)
        self._evaluation.update(batch, solution.displacement)
        if batch_index == 0 and self.trainer.is_global_zero:
            log_picture(self.logger, batch, solution, self.global_step)

    def on_validation_epoch_end(self) -> None:
        self._log_means("validation")

    def on_test_epoch_start(self) -> None:
        self._evaluation = self._new_evaluation()

    def test_step(self, batch: Batch, batch_index: int) -> None:
        start = self._now()
        displacement = self.solve(batch).displacement
        seconds = (self._now() - start) / displacement.shape[0]
        self._evaluation.update(batch, displacement, seconds)

    def on_test_epoch_end(self) -> None:
        self.table: ResultTable = self._evaluation.table(
            pair_names(self.trainer, "test"), label_names(self.trainer)
        )
        self._log_means("test")
        if self.trainer.is_global_zero:
            self.table.write(Path(self.trainer.default_root_dir), "test")

    def on_predict_epoch_start(self) -> None:
        self._skipped = 0

    def predict_step(self, batch: Batch, batch_index: int) -> list[Path]:
        """Write the displacement fields that are not there yet; returns their paths."""
        todo = missing(Path(self.trainer.default_root_dir) / "warps", batch)
        self._skipped += len(batch["fixed_name"]) - len(todo)
        if not todo:
            return []
        displacement = self.solve(batch).displacement
        for number, path in todo.items():
            write_warp(path, displacement[number : number + 1], batch, number)
        return list(todo.values())

    def on_predict_epoch_end(self) -> None:
        skipped = torch.tensor(self._skipped, device=self.device)
        total = int(self.trainer.strategy.reduce(skipped, reduce_op="sum"))
        if total:  # maybe of another training: whoever wants new ones has to know
            rank_zero_info(f"{total} warps were there already and are left as they are")

    def _new_evaluation(self, brief: bool = False) -> PairEvaluation:
        return PairEvaluation(data_labels(self.trainer), self.protocol, brief).to(self.device)

    def _log_means(self, stage: str) -> None:
        for name, value in self._evaluation.means().items():
            # The same in all processes by now, which Lightning cannot know: the mean changes none.
            self.log(f"{stage}/{name}", value, prog_bar=name == "dice", sync_dist=True)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
