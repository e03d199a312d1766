"""What a registration takes of memory is told before, and what would not fit is refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from voxelopt_layers import VoxelOptLayer
from voxelopt_layers.presets import PRESETS
from voxelopt_train import InputError, memory, memory_estimate, register
from voxelopt_train.grids import Grid, working_grid
from voxelopt_train.memory_estimate import resampling_bytes, solving_bytes

PEAKS = Path(__file__).with_name("peak_memory.py")
CHANNELS = {"raw": 1, "mind": 12}
RAW = PRESETS["intensity"]
WIDE = {**PRESETS["paper"], "search_radius": 2, "cost_dtype": "float16"}
CASES: dict[str, tuple[tuple[int, int, int], str, dict[str, Any], float | None]] = {
    "raw": ((96, 96, 88), "raw", RAW, None),
    "mind": ((80, 80, 80), "mind", {}, None),
    "wide search in half precision": ((72, 72, 72), "raw", WIDE, None),
    "a coarse working grid": ((256, 192, 48), "raw", RAW, 4.0),
}


@pytest.fixture(scope="module")
def measured() -> dict[str, int]:
    if sys.platform != "linux":
        pytest.skip("peaks of memory are Linux's to tell")
    keys = ("shape", "encoder", "layer", "spacing_mm")
    specs = [dict(zip(keys, case, strict=True)) for case in CASES.values()]
    command = [sys.executable, str(PEAKS), json.dumps(specs)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(zip(CASES, map(int, done.stdout.split()), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_the_estimate_is_near_the_measured_peak(case, measured):
    shape, encoder, layer, spacing_mm = CASES[case]
    voxels = math.prod(shape)
    working = math.prod(working_grid(Grid(shape, np.eye(4)), spacing_mm).shape)
    solving = solving_bytes(working, VoxelOptLayer(**layer), CHANNELS[encoder])
    images = 8 * voxels  # both of them, read before the estimate is needed
    estimate = images + max(solving, resampling_bytes(voxels))
    assert estimate == pytest.approx(measured[case], rel=0.3)


def volumes(*shape: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.random.default_rng(n).random(shape), np.diag([2, 2, 2, 1])) for n in range(2)]


def test_a_grid_that_would_not_fit_names_the_spacing_that_does(monkeypatch):
    pair = volumes(40, 36, 30)
    available = resampling_bytes(40 * 36 * 30) + 10**6
    monkeypatch.setattr(memory_estimate, "available_memory", lambda: available)
    with pytest.raises(InputError, match=r"40 x 36 x 30 voxels takes .* of memory") as refused:
        register(*pair)
    spacing = float(str(refused.value).split("--spacing ")[1].rstrip(")"))
    assert 2 < spacing < 4
    result = register(*pair, spacing_mm=spacing)  # as it was told
    assert result.warped.data.isfinite().all()
    with pytest.raises(InputError, match="would fit"):
        register(*pair, spacing_mm=spacing - 0.15)
    for slip in (0.01, 1e-6):
        with pytest.raises(InputError, match=f"would fit .--spacing {spacing}"):
            register(*pair, spacing_mm=slip)


def test_voxels_as_large_as_a_header_may_say(monkeypatch):
    monkeypatch.setattr(memory_estimate, "available_memory", lambda: resampling_bytes(10**4))
    huge = Grid((20, 20, 20), np.diag([1e30, 1e30, 1e30, 1]))
    with pytest.raises(InputError, match="would fit"):
        memory_estimate.check_memory(huge, 1.0, VoxelOptLayer(), 1, torch.device("cpu"))


def test_a_fixed_image_that_is_too_large_for_any_working_grid(monkeypatch):
    monkeypatch.setattr(memory_estimate, "available_memory", lambda: 10**6)
    with pytest.raises(InputError, match=r"a fixed image of 20 x 20 x 20 voxels .*resample it"):
        register(*volumes(20, 20, 20), spacing_mm=4.0)


def test_processes_that_share_memory_could_be_fewer(monkeypatch):
    monkeypatch.setattr(memory, "_share", 10**6)
    with pytest.raises(InputError, match=r"resample it, or fewer --workers, which share the mem"):
        register(*volumes(20, 20, 20), spacing_mm=4.0)


def test_a_gpu_has_its_own_memory(monkeypatch):
    free = {"mem_get_info": (10**6, 10**9), "memory_reserved": 3 * 10**8, "memory_allocated": 10**8}
    for name, said in free.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, said=said: said)
    grid = Grid((100, 100, 100), np.eye(4))
    with pytest.raises(InputError, match=r"of cuda:0, 0\.2 GB .* would fit .*, or the CPU$"):
        memory_estimate.check_memory(grid, None, VoxelOptLayer(), 8, torch.device("cuda:0"))
