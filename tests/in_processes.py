"""A training step, validation, test and prediction in N processes: ``in_processes.py N DIR``.

Lightning starts the other processes by running the same command again. What came out lies in DIR:
``gradients.pt``, ``metricsRANK.json``, the tables and the warps.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from lightning import Callback

from tiny_training import SHAPE, SPACING_MM, encoder, layer, trainer
from voxelopt_models import MINDSSC
from voxelopt_train.data.datamodule import PhantomDataModule
from voxelopt_train.learning import RegistrationLoss, RegistrationModule


class UnevenPairs(PhantomDataModule):
    """Two pairs to train on, five to test on and predict, of which the fourth alone has labels."""

    def __init__(self) -> None:
        super().__init__((2, 3, 3), SHAPE, SPACING_MM)

    def pair_names(self, split):
        return super().pair_names(split)[:5]

    def volumes(self, names):
        subjects = [dict(subject) for subject in super().volumes(names)]
        if len(names) == 3:
            del subjects[0]["labels"]
        return subjects


class Gradients(Callback):
    """Writes the gradients that the optimiser is about to use, averaged over processes."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.is_global_zero:
            gradients = {n: p.grad for n, p in pl_module.named_parameters() if p.requires_grad}
            torch.save(gradients, Path(trainer.default_root_dir) / "gradients.pt")


def main(processes: int, folder: Path) -> None:
    options = {"strategy": "ddp" if processes > 1 else "auto", "devices": processes}
    data = UnevenPairs()
    data.batch_size = 2 // processes  # as many pairs per step in one process as in two
    loss = RegistrationLoss(smoothness_weight=0.05, label_weight=1.0)
    module = RegistrationModule(encoder(), layer(learnable=["alpha"]), loss)
    run = trainer(folder, callbacks=[Gradients()], limit_val_batches=0, **options)
    run.fit(module, datamodule=data)

    data.batch_size = 1  # pairs with and without labels are no batch
    module = RegistrationModule(MINDSSC(), layer())
    run = trainer(folder, **options)
    metrics = run.validate(module, datamodule=data, verbose=False)
    metrics += run.test(module, datamodule=data, verbose=False)
    run.predict(module, datamodule=data, return_predictions=False)
    (folder / f"metrics{run.global_rank}.json").write_text(json.dumps(metrics))
    run.strategy.barrier()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
