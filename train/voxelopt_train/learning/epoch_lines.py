"""Progress of a training where standard error is no terminal, and Lightning's bar stays away."""

from __future__ import annotations

import sys

from lightning import Callback, LightningModule, Trainer

from voxelopt_train.progress import LogLines


class EpochLines(Callback):
    """As an epoch ends, a line with what the bar would show, every half minute at most."""

    def __init__(self) -> None:
        self._log = LogLines()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        wanted = trainer.progress_bar_callback is not None and trainer.is_global_zero
        if not wanted or sys.stderr.isatty():
            return
        shown = trainer.progress_bar_metrics.items()
        values = ", ".join(f"{name} {value:.4g}" for name, value in shown)
        self._log.line(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}: {values}")
