"""Hundreds of registrations in one process, and a large cohort on busy cores: memory stays flat.

Run as a program: ``long_runs.py [--registrations N] [--cases N]``. It prints the memory of the
process after each fifth of the registrations, and what became of the cohort; exit code 1 where
memory grew by more than a tenth after the first fifth, or a case was not done.
"""

from __future__ import annotations

import argparse
import csv
import gc
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from nibabel.nifti1 import Nifti1Image

from textures import texture
from voxelopt_layers import VoxelOptLayer
from voxelopt_train import register, register_cohort

SHAPE = (40, 36, 32)
STATUS = Path("/proc/self/status")


def memory_mb() -> float:
    """What the process holds now."""
    gc.collect()
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1e3


def volume(seed: int, shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    torch.manual_seed(seed)
    return texture(shape)[0, 0].float().numpy(), np.diag([2.0, 2.0, 2.0, 1.0])


def inference(number: int) -> None:
    """Of shapes that change from one to the next, as scans do."""
    shape = tuple(n - number % 7 for n in SHAPE)
    register(volume(number, shape), volume(number + 1), initial="center-of-mass")


def training(number: int) -> None:
    layer = VoxelOptLayer(levels=3, gradient="checkpointed", learnable=True)
    features = [torch.from_numpy(volume(number + k)[0])[None, None] for k in range(2)]
    layer(*(f.requires_grad_() for f in features)).square().mean().backward()


def grows(name: str, step: Callable[[int], None], times: int) -> bool:
    """Whether the memory after all steps is a tenth above that after a fifth of them."""
    held, seconds = [], time.monotonic()
    for number in range(times):
        step(number)
        if (number + 1) % max(1, times // 5) == 0:
            held.append(memory_mb())
    seconds = (time.monotonic() - seconds) / times
    shown = ", ".join(f"{mb:.0f}" for mb in held)
    print(f"{times} {name}: {shown} MB, {seconds:.2f} s each", flush=True)
    return held[-1] > 1.1 * held[0]


def cohort_fails(cases: int) -> bool:
    """Register pairs by two workers while another process keeps a core busy."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    peak = [0.0]
    watching = threading.Event()

    def watch() -> None:
        while not watching.wait(0.5):
            peak[0] = max(peak[0], memory_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for n in range(10):
                Nifti1Image(*volume(n, (24, 20, 22))).to_filename(root / f"{n}.nii.gz")
            with (root / "pairs.csv").open("w", newline="") as file:
                table = csv.writer(file)
                table.writerow(["case", "fixed", "moving"])
                pairs = [(a, b) for a in range(10) for b in range(10) if a != b] + [(0, 0)] * 10
                for n in range(cases):
                    a, b = pairs[n % len(pairs)]
                    table.writerow([n, root / f"{a}.nii.gz", root / f"{b}.nii.gz"])
            before = time.monotonic()
            results = register_cohort(root / "pairs.csv", root / "out", workers=2)
            seconds = time.monotonic() - before
            hidden = list((root / "out").glob(".*"))
    finally:
        watching.set()
        watcher.join()
        busy.kill()
    failed = len(results.failed)
    print(
        f"{cases} cases by 2 workers beside a busy process: {cases - failed} done, {failed} "
        f"failed, {len(hidden)} hidden files, {seconds:.0f} s, {peak[0]:.0f} MB in the parent"
    )
    return bool(failed or hidden)


def main() -> None:
    """Print what was found; exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(description="Many registrations one after the other.")
    parser.add_argument("--registrations", type=int, default=300)
    parser.add_argument("--cases", type=int, default=100)
    options = parser.parse_args()
    wrong = [
        grows("registrations", inference, options.registrations),
        grows("training steps", training, options.registrations),
        cohort_fails(options.cases),
    ]
    sys.exit(any(wrong))


if __name__ == "__main__":
    main()
