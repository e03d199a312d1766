"""Trainings and predictions that are ended: what is complete stays, and the rest can be done."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from command_line import contents, names
from recipes import QUIET, write_recipes
from voxelopt_train.learning import registration_module, training_cli


@pytest.fixture(autouse=True)
def _recipes(folder):
    write_recipes()


def test_a_job_that_is_ended_says_so(run, monkeypatch, capsys):
    def ended(_):
        raise SIGTERMException

    monkeypatch.setattr(training_cli, "_training_cli", ended)
    with pytest.raises(SystemExit) as exit:
        run("fit", "--config", "pairs.yaml", "--config", "tiny.yaml")
    assert exit.value.code == 143
    assert "terminated, its complete epochs are kept" in capsys.readouterr().err


def test_a_signal_ends_a_training_and_a_prediction(run, monkeypatch):
    """What is complete stays, and the rest is done by the same commands."""
    module = registration_module.RegistrationModule

    def ended_in(step: str, when: Callable[[Any, int], bool]) -> None:
        original = getattr(module, step)

        def ended(self: Any, batch: Any, index: int) -> Any:
            if when(self.trainer, index):
                os.kill(os.getpid(), signal.SIGTERM)
            return original(self, batch, index)

        patch.setattr(module, step, ended)

    pairs = ["--config", "pairs.yaml", "--config", "tiny.yaml", "-o", "run", *QUIET]
    fit = ["fit", *pairs, "--trainer.max_epochs", "2"]
    predict = ["predict", *pairs, "--ckpt_path", "last"]
    with monkeypatch.context() as patch:
        ended_in("training_step", lambda trainer, _: trainer.current_epoch == 1)
        code, _, err = run(*fit)
    assert code == 143 and err.splitlines()[-1] == (
        "voxelopt: stopped by SIGTERM, its complete epochs are kept: --ckpt_path last goes on "
        "from there"
    )
    last = Path("run/checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 2
    assert run(*fit, "--ckpt_path", "last")[0] == 0
    assert torch.load(last, weights_only=True)["global_step"] == 4
    with monkeypatch.context() as patch:
        ended_in("predict_step", lambda _, index: index == 1)
        code, _, err = run(*predict)
    assert code == 143
    assert err.splitlines()[-1] == "voxelopt: stopped by SIGTERM, what is complete stays"
    assert len(names("run/warps")) == 1
    assert run(*predict)[0] == 0 and len(names("run/warps")) == 2


def test_checkpoints_are_whole_or_not_there(run, monkeypatch):
    """They are written beside the earlier one, never over it."""
    fit = ["fit", "--config", "masks.yaml", "--config", "tiny.yaml", "-o", "run", *QUIET]
    assert run(*fit)[0] == 0
    before = contents(Path("run/checkpoints"))

    def full(path: Path, data: memoryview) -> None:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, err = run(*fit, "--ckpt_path", "last", "--trainer.max_epochs", "2")
    assert code == 2
    assert err.splitlines()[-1].endswith("last.ckpt cannot be written: No space left on device")
    assert contents(Path("run/checkpoints")) == before
