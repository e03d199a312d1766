"""A run that is killed in its last epoch and resumed ends as the run that never was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint

from tiny_training import CLASSES, encoder, layer, phantoms, trainer, unet
from voxelopt_models import FeatureEncoder
from voxelopt_train.learning import RegistrationLoss, RegistrationModule, SegmentationModule

EPOCHS = 2


class KilledError(Exception):
    pass


class Watch(Callback):
    """Notes by step what changes from step to step; may kill the run at one of them."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at
        self.seen: dict[int, tuple[float, ...]] = {}

    def on_train_batch_end(self, trainer, pl_module: Any, outputs, batch, batch_idx):
        constants = pl_module.net.layer.solver.constants if hasattr(pl_module, "net") else {}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        loss = float(trainer.callback_metrics["train/loss"])
        self.seen[trainer.global_step] = (loss, rate, constants.get("temperature", 0.0))
        if trainer.global_step == self.kill_at:
            raise KilledError


def registration() -> LightningModule:
    return RegistrationModule(
        encoder(),
        layer(learnable=["alpha"]),
        RegistrationLoss(label_weight=1.0),
        learning_rate=1e-2,
        temperature=(0.1, 0.01),
    )


def segmentation() -> LightningModule:
    return SegmentationModule(FeatureEncoder(unet(CLASSES), divisor=2), learning_rate=1e-2)


def train(make, folder, kill_at=None, resume=False):
    module, watch = make(), Watch(kill_at)
    if resume:  # what the checkpoint does not restore must not come out the same by chance
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(1.0)
        torch.manual_seed(99)
    run = trainer(
        folder,
        EPOCHS,
        enable_checkpointing=True,
        callbacks=[watch, ModelCheckpoint(folder, "last", enable_version_counter=False)],
    )
    data = phantoms(3, 2, 2, augmentation="mild")
    run.fit(module, datamodule=data, ckpt_path="last" if resume else None)
    return module.state_dict(), watch.seen


@pytest.mark.parametrize("make", [registration, segmentation])
def test_killed_in_the_last_epoch(make, tmp_path):
    state, seen = train(make, tmp_path / "whole")
    steps = len(seen)
    assert steps == 6 * EPOCHS  # ordered pairs of 3 patients

    with pytest.raises(KilledError):
        train(make, tmp_path / "killed", kill_at=steps - 2)
    resumed_state, resumed = train(make, tmp_path / "killed", resume=True)

    assert sorted(resumed) == list(range(6 * (EPOCHS - 1) + 1, steps + 1))
    assert all(seen[step] == values for step, values in resumed.items())
    assert len({values[0] for values in seen.values()}) == steps  # each step saw its own data
    assert len({values[1:] for values in seen.values()}) == steps  # and rate or temperature
    assert state.keys() == resumed_state.keys()
    assert all(torch.equal(state[key], resumed_state[key]) for key in state)
