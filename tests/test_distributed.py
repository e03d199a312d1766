"""Two processes (gloo, on the CPU) do together what one does alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import in_processes
from voxelopt_train.tables import ResultTable


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Results of one process and of two."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    command = [sys.executable, in_processes.__file__, "2", str(two)]
    with (two / "log").open("w") as log:
        pair = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            in_processes.main(1, one)
            code = pair.wait(timeout=300)
        finally:
            pair.kill()
    assert code == 0, (two / "log").read_text()
    assert "Starting with 2 processes" in (two / "log").read_text()
    return one, two


def test_gradients_are_those_of_one_process_with_the_same_pairs(folders):
    # Batches of one and of two are summed up in another order.
    one, two = (torch.load(folder / "gradients.pt", weights_only=True) for folder in folders)
    assert one.keys() == two.keys() and any("alpha" in name for name in one)
    largest = max(gradient.abs().max() for gradient in one.values())
    for name, gradient in one.items():
        assert (gradient - two[name]).abs().max() < 2e-4 * largest, name
    assert largest > 1e-3


def test_each_pair_of_an_uneven_test_set_counts_once(folders):
    tables = [ResultTable.read(folder / "test.json") for folder in folders]
    one, two = ([replace(p, seconds=0.0) for p in table.pairs] for table in tables)
    names = [(pair.fixed, pair.moving) for pair in two]
    assert len(names) == 5 == len(set(names))
    # NaN is unlike itself, its text is not.
    assert [str(pair) for pair in one] == [str(pair) for pair in two]
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
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6), name


def test_each_warp_is_written_once(folders):
    one, two = (sorted((folder / "warps").iterdir()) for folder in folders)
    assert len(one) == 5 and [path.name for path in one] == [path.name for path in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))


def test_nothing_is_logged_that_needs_a_warning(folders):
    log = (folders[1] / "log").read_text()
    for words in ("sync_dist", "batch_size", "self.log", "method of metric", "unused"):
        assert words not in log, log
