"""Peak of memory of one registration in a process of its own: ``peak_memory.py JSON``.

JSON has the ``shape`` of both images (of 1 mm), and ``encoder``, ``layer`` (its keywords) and
``spacing_mm`` as `register` takes them. It prints the bytes that registration and report took
beyond what the process held before.
"""

from __future__ import annotations

import gc
import json
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
    def run(shape: tuple[int, ...]) -> int:
        pair = [volume(shape, seed) for seed in range(2)]
        gc.collect()
        CLEAR.write_text("5")  # the peak begins anew
        before = status("VmRSS")
        make_report(register(*pair, layer=VoxelOptLayer(**layer), **options))
        return status("VmHWM") - before

    run((16, 16, 16))  # what is compiled once
    return run(shape)


if __name__ == "__main__":
    print(measure(**json.loads(sys.argv[1])))
