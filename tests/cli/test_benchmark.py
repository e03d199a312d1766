"""``voxelopt benchmark``: the naive version is the same method, and the tables are complete."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from textures import pair
from voxelopt_layers import VoxelOptLayer
from voxelopt_layers.solver import GRADIENTS
from voxelopt_train.benchmark import command
from voxelopt_train.benchmark.naive import naive_registration
from voxelopt_train.benchmark.worker import measure
from voxelopt_train.cli import main


@pytest.mark.parametrize("preset", [None, *command.FOR_FEATURES])
def test_the_naive_version_finds_what_the_layer_finds(preset, smooth_velocity):
    fixed, moving, truth = pair((24, 20, 28), smooth_velocity)
    layer = VoxelOptLayer() if preset is None else VoxelOptLayer.from_preset(preset)
    with torch.no_grad():
        naive, u = naive_registration(layer, fixed, moving), layer(fixed, moving)
    # Ties within rounding may fall either way.
    assert (naive - u).norm(dim=1).mean() < 0.02 * truth.norm(dim=1).mean()


def test_all_is_measured_and_kept(tmp_path, capsys):
    path = tmp_path / "results.json"
    options = ["--sizes", "10x8x12", "--channels", "2", "--runs", "1", "--preset", "paper"]
    assert main(["benchmark", *options, "-o", str(path)]) == 0
    printed = capsys.readouterr().out
    for text in ("naive PyTorch", "checkpointed", "v-step", "exponential", "GB/s", "MIND, float16"):
        assert text in printed
    (measured,) = json.loads(path.read_text())["sizes"].values()
    inference, half = ("naive", "operators", "kernels"), ("float16", "bfloat16")
    training, rest = ("soft", *GRADIENTS), ("stages", "precision")
    assert tuple(measured) == (*inference, *half, *training, *rest)
    whole = [row for what, row in measured.items() if what not in ("stages", "precision")]
    assert all(row["seconds"] > 0 for row in whole)
    single, half, brain = (row["mean_error"] for row in measured["precision"]["rows"][:3])
    assert single < half < brain < 0.5
    # The same field from the naive version, from the operators and from the kernels.
    lengths = [measured[what]["mean_voxels"] for what in inference]
    assert lengths == pytest.approx([lengths[0]] * 3, rel=0.02)


def test_memory_is_measured():
    peak = measure(what="naive", settings={}, size=[40, 40, 40], channels=1, device="cpu", runs=1)[
        "peak_mb"
    ]
    assert peak > 27 * 4 * 40**3 / 1e6 * 2  # the costs and something of their size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--sizes", "9x9"],
            "--sizes must be three numbers of voxels like 96x80x128, each at least 4, got 9x9",
        ),
        (["--sizes", "3x9x9"], "got 3x9x9"),
        (["--runs", "0"], "--channels and --runs must be at least 1"),
        (["--preset", "fast"], "--preset"),
        (["-o", "/dev/null/x/results.json"], "cannot be made"),
    ],
)
def test_bad_input(options, message, capsys):
    assert main(["benchmark", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_a_device_that_is_not_here(capsys):
    assert main(["benchmark", "--device", "nowhere"]) == 2
    assert "device nowhere: no such device here" in capsys.readouterr().err


def test_a_naive_version_that_fails_leaves_the_rest(monkeypatch, capsys):
    """For want of memory, most likely."""
    run = command._in_process

    def without_naive(spec):
        return run({**spec, "what": "killed"} if spec["what"] == "naive" else spec)

    monkeypatch.setattr(command, "_in_process", without_naive)
    monkeypatch.setattr(command, "_WHOLE", {"naive": "naive PyTorch", "kernels": "the layer"})
    assert main(["benchmark", "--sizes", "6x6x6", "--runs", "1", "--preset", "paper"]) == 0
    assert "naive PyTorch failed:" in capsys.readouterr().out


def test_a_layer_that_fails_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", "false")
    assert main(["benchmark", "--sizes", "6x6x6"]) == 2
    error = capsys.readouterr().err
    assert "the layer could not be measured: it was killed" in error
