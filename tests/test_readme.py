"""Every Python block and every `voxelopt` command of the README runs as it stands."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from documents import blocks, write_images
from voxelopt_train.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text()


# The commands as they stand train for minutes.
_SMALL = ["--data.init_args.shape=[24,20,24]", "--data.init_args.spacing_mm=16"]
SHORT = {
    "fit": [*_SMALL, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"],
    "predict": _SMALL,
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The images that the README speaks of, in the folder it is run from."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path)
    for name in ("fixed", "moving"):
        (tmp_path / f"{name}_points.csv").write_text("x,y,z,label\n-20,30,10,a\n40,-10,-30,b\n")


@pytest.mark.usefixtures("files")
def test_python_blocks_run():
    names: dict[str, Any] = {}
    assert len(blocks(README, "python")) == 3
    for block in blocks(README, "python"):
        exec(block, names)
    losses = names["module"].losses
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.usefixtures("files")
def test_commands_run(capsys):
    commands = [
        shlex.split(line)[1:]
        for block in blocks(README, "bash")
        for line in block.splitlines()
        if line.startswith("voxelopt ")
    ]
    assert [command[0] for command in commands] == [
        *("fit", "fit", "compare", "predict"),
        *("register", "apply", "report", "points", "jacobian", "convert"),
    ]
    Path("phantom").write_text("not the recipe of this name")
    for command in commands:
        assert main([*command, *SHORT.get(command[0], [])]) == 0, capsys.readouterr().err
    assert Path("out/labels.nii.gz").exists()
    assert "semi_supervised" in Path("tables/comparison.md").read_text()
    assert len(list(Path("runs/mind/warps").iterdir())) == 6
