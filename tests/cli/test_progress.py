"""Progress of long work where standard error is no terminal."""

from __future__ import annotations

import re

import pytest

from recipes import write_recipes
from voxelopt_train import progress

QUIET = "--trainer.enable_model_summary=false"


def test_a_log_has_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Stages after 10, 40, 50, 100 and 170 s: two of them too soon after the last line."""
    clock = iter([0.0, 10.0, 40.0, 50.0, 100.0, 170.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress.Progress, "update", lambda *_, **__: None)  # asks the clock too
    with progress.progress_bar(stages=5) as stage:
        for name in "abcde":
            stage(name)
    assert capsys.readouterr().err.splitlines() == [
        "0:40 b (2 of 5)",
        "1:40 d (4 of 5)",
        "2:50 e (5 of 5)",
    ]


def test_a_training_has_a_line_for_an_epoch(run, folder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "_SECONDS_PER_LINE", 0.0)
    write_recipes()
    fit = ["fit", "--config", "masks.yaml", "--data", "tiny.yaml", QUIET]
    code, _, err = run(*fit, "--trainer.max_epochs=2", "-o", "out")
    assert code == 0, err
    lines = [line for line in err.splitlines() if " epoch " in line]
    assert len(lines) == 2
    for number, line in enumerate(lines, 1):
        assert re.fullmatch(
            rf"0:\d\d epoch {number} of 2: train/loss \d\S*, validation/dice \d\S*", line
        )
    code, _, err = run(*fit, "--trainer.enable_progress_bar=false", "-o", "quiet")
    assert code == 0 and " epoch " not in err
