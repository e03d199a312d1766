"""Every Python block and every `voxelopt` command of the README runs as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from voxelopt_train.cli import main
from voxelopt_train.images import write_nifti
from voxelopt_train.phantom import phantom_pair

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
    pair = phantom_pair(0, (40, 32, 36), 8.0)
    for name in ("fixed", "moving", "moving_labels"):
        image = getattr(pair, name)
        write_nifti(tmp_path / f"{name}.nii.gz", image.data, image.grid.affine)
    for name in ("fixed", "moving"):
        (tmp_path / f"{name}_points.csv").write_text("x,y,z,label\n-20,30,10,a\n40,-10,-30,b\n")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.usefixtures("files")
def test_python_blocks_run():
    names: dict[str, Any] = {}
    assert len(blocks("python")) == 3
    for block in blocks("python"):
        exec(block, names)
    losses = names["module"].losses
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.usefixtures("files")
def test_commands_run(capsys):
    commands = [
        shlex.split(line)[1:]
        for block in blocks("bash")
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
