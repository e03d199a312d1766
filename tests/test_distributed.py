"""Two processes (gloo, on the CPU) do together what one does alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nibabel.nifti1 import Nifti1Image

import in_processes
from voxelopt_train.tables import PairResult, ResultTable


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Results of one process and of two."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    # As many threads in both: their number decides the order in which a sum adds up.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    runs: list[subprocess.Popen[bytes]] = []
    try:
        for processes, folder in ((1, one), (2, two)):
            command = [sys.executable, in_processes.__file__, str(processes), str(folder)]
            with (folder / "log").open("w") as log:
                runs.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
        for run, folder in zip(runs, (one, two), strict=True):
            assert run.wait(timeout=300) == 0, (folder / "log").read_text()
    finally:
        for run in runs:
            run.kill()
    assert "Starting with 2 processes" in (two / "log").read_text()
    return one, two


def numbers(pair: PairResult) -> dict[str, float]:
    """All that was measured but the seconds."""
    values = {**vars(pair), **{f"label {n}": dice for n, dice in pair.dice_per_label.items()}}
    return {k: v for k, v in values.items() if isinstance(v, float) and k != "seconds"}


def load_warp(path: Path) -> np.ndarray:
    return np.asarray(Nifti1Image.from_filename(path).dataobj)


def test_gradients_are_those_of_one_process_with_the_same_pairs(folders):
    # Batches of one and of two are summed up in another order.
    one, two = (torch.load(folder / "gradients.pt", weights_only=True) for folder in folders)
    assert one.keys() == two.keys() and any("alpha" in name for name in one)
    largest = max(gradient.abs().max() for gradient in one.values())
    for name, gradient in one.items():
        assert (gradient - two[name]).abs().max() < 5e-4 * largest, name
    assert largest > 1e-3


def test_each_pair_of_an_uneven_test_set_counts_once(folders):
    tables = [ResultTable.read(folder / "test.json") for folder in folders]
    one, two = (table.pairs for table in tables)
    names = [(pair.fixed, pair.moving) for pair in two]
    assert len(names) == 5 == len(set(names))
    for ours, theirs in zip(one, two, strict=True):
        assert (ours.fixed, ours.moving) == (theirs.fixed, theirs.moving)
        assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-4, nan_ok=True)
    assert tables[1].summary()["dice"].pairs == 1  # no process but one had any labels
    lines = [(folder / "test.csv").read_text().splitlines() for folder in folders]
    assert len(lines[0]) == len(lines[1]) == 6


def test_means_are_the_same_in_all_processes(folders):
    one, *two = (
        json.loads((folder / f"metrics{rank}.json").read_text())
        for folder, rank in ((folders[0], 0), (folders[1], 0), (folders[1], 1))
    )
    assert two[0] == two[1]
    for ours, theirs in zip(one, two[0], strict=True):
        assert ours.keys() == theirs.keys()
        assert {"validation/dice", "test/dice"} & ours.keys()
        for name in ours.keys() - {"test/seconds"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name


def test_each_warp_is_written_once(folders):
    one, two = (sorted((folder / "warps").iterdir()) for folder in folders)
    assert len(one) == 5 and [path.name for path in one] == [path.name for path in two]
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(load_warp(a), load_warp(b), atol=0.01)  # mm


def test_nothing_is_logged_that_needs_a_warning(folders):
    log = (folders[1] / "log").read_text()
    for words in ("sync_dist", "batch_size", "self.log", "method of metric", "unused"):
        assert words not in log, log
