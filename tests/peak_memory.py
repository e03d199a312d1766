"""Peaks of memory of registrations, each in a process of its own: ``peak_memory.py JSON``.

JSON is a list; each item has the ``shape`` of both images (of 1 mm), and ``encoder``, ``layer``
(its keywords) and ``spacing_mm`` as `register` takes them. Printed are the bytes that registration
and report took beyond what the process held before, a line each.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from textures import texture
from voxelopt_layers import VoxelOptLayer
from voxelopt_train import register
from voxelopt_train.report import make_report

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def status(key: str) -> int:
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def volume(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    torch.manual_seed(seed)
    small = texture([max(2, n // 4) for n in shape]).float()
    return torch.nn.functional.interpolate(small, size=shape)[0, 0].numpy(), np.eye(4)


def measure(shape: tuple[int, ...], layer: dict[str, Any], **options: Any) -> int:
    pair = [volume(shape, seed) for seed in range(2)]
    gc.collect()
    CLEAR.write_text("5")  # the peak begins anew
    before = status("VmRSS")
    make_report(register(*pair, layer=VoxelOptLayer(**layer), **options))
    return status("VmHWM") - before


if __name__ == "__main__":
    torch.set_num_threads(1)  # others would not live through a fork
    measure((16, 16, 16), {})  # what is imported and compiled once
    for case in json.loads(sys.argv[1]):
        # What an earlier case has freed, and not given back, would not count.
        if (child := os.fork()) == 0:
            print(measure(**case), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
