"""Registration with no training, measured on real scans; prints a Markdown table.

    python tests/measure_real_data.py chaos_t2 ../shared/data/chaos_t2
    python tests/measure_real_data.py totalseg ../shared/data/totalseg_example

The folders hold `image_NN.nii.gz` and `label_NN.nii.gz`, or `ct.nii.gz` and `seg.nii.gz`.
`chaos_t2`: ordered pairs of different subjects (abdominal MR, 4 organs), each resampled to 3 mm and
cropped to 112 x 96 x 80 around its centre of mass. `totalseg`: a CT against a copy of itself,
deformed by a random diffeomorphism of up to 25 mm. Each row runs in a process of its own, whose
peak memory is reported.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from voxelopt_layers import VoxelOptLayer, warp
from voxelopt_models import MINDSSC, RawIntensity, RegistrationNet
from voxelopt_train.alignment import center_of_mass
from voxelopt_train.grids import Grid
from voxelopt_train.images import Image, read_image
from voxelopt_train.metrics import evaluate
from voxelopt_train.phantom import Pair, random_displacement
from voxelopt_train.resampling import resample

PRESETS = ("default", "paper", "released")
METHODS = [("raw", "intensity")]
METHODS += [(features, preset) for features in ("mind", "raw") for preset in PRESETS]
SPACING_MM = 3.0
COLUMNS = ("dice before", "dice after", "error mm", "SDlogJ", "SDlogJ strict", "folds %", "seconds")


def subject(folder: Path, number: str) -> tuple[Image, Image]:
    """One subject on a grid of 3 mm around its own centre of mass, and its labels."""
    image = read_image(folder / f"image_{number}.nii.gz", "image")
    labels = read_image(folder / f"label_{number}.nii.gz", "labels", labels=True)
    steps = image.grid.affine[:3, :3] / image.grid.spacing * SPACING_MM
    grid = Grid.around(center_of_mass(image), (112, 96, 80), steps)
    return resample(image, grid, antialias=True), resample(labels, grid, mode="nearest")


def chaos_pairs(folder: Path, count: int, seed: int = 0) -> Iterator[Pair]:
    """Seeded sample of the ordered pairs of all subjects in the folder."""
    numbers = sorted(path.name[6:8] for path in folder.glob("image_*.nii.gz"))
    pairs = [(a, b) for a in numbers for b in numbers if a != b]
    chosen = random.Random(seed).sample(pairs, min(count, len(pairs)))
    subjects = {n: subject(folder, n) for n in sorted({n for pair in chosen for n in pair})}
    for fixed, moving in chosen:
        yield Pair(*subjects[fixed], *subjects[moving])


def totalseg_pairs(folder: Path, count: int) -> Iterator[Pair]:
    """The CT deformed by ``count`` random diffeomorphisms; the truth is known."""
    ct = read_image(folder / "ct.nii.gz", "CT")
    labels = read_image(folder / "seg.nii.gz", "labels", labels=True)
    for seed in range(count):
        truth = random_displacement(seed, 25.0, ct.grid.shape, float(np.mean(ct.grid.spacing)))
        fixed = warp(ct.data[None, None], truth, boundary="border")[0, 0]
        fixed_labels = warp(labels.data[None, None], truth, "nearest", "border")[0, 0]
        yield Pair(
            Image(fixed, ct.grid, "deformed CT"), Image(fixed_labels, ct.grid, "labels"),
            ct, labels, truth,
        )  # fmt: skip


def network(features: str, preset: str, ct: bool) -> RegistrationNet:
    """One row of the table."""
    raw = RawIntensity(window=(-800.0, 500.0) if ct else None)
    mind = nn.Sequential(raw, MINDSSC()) if ct else MINDSSC()
    encoder = mind if features == "mind" else raw
    layer = VoxelOptLayer() if preset == "default" else VoxelOptLayer.from_preset(preset)
    return RegistrationNet(encoder, layer)


def measure(net: RegistrationNet, pair: Pair) -> dict[str, float]:
    """Register one pair and evaluate it."""
    fixed, moving = pair.fixed.data[None, None], pair.moving.data[None, None]
    start = time.perf_counter()
    with torch.no_grad():
        u = net(fixed, moving)
    seconds = time.perf_counter() - start
    warped = warp(pair.moving_labels.data[None, None], u, mode="nearest")[0, 0]
    spacing = pair.fixed.grid.spacing
    maps = pair.fixed_labels.data, pair.moving_labels.data
    before = evaluate(*maps, maps[1], None, spacing, "learn2reg")
    after = evaluate(*maps, warped, u, spacing, "learn2reg")
    assert after.sd_log_jacobian is not None and after.sd_log_jacobian_strict is not None
    assert after.folds is not None
    return {
        "dice before": before.mean_dice,
        "dice after": after.mean_dice,
        "error mm": _error_mm(u, pair),
        "SDlogJ": after.sd_log_jacobian,
        "SDlogJ strict": after.sd_log_jacobian_strict,
        "folds %": 100 * after.folds,
        "seconds": seconds,
    }


def _error_mm(u: Tensor, pair: Pair) -> float:
    """Mean end-point error inside the labelled organs; NaN where the truth is not known."""
    if pair.displacement is None:
        return float("nan")
    spacing = torch.tensor(pair.fixed.grid.spacing).reshape(1, 3, 1, 1, 1)
    error = ((u - pair.displacement) * spacing).norm(dim=1)[0]
    return float(error[pair.fixed_labels.data > 0].mean())


def row(data: str, folder: Path, count: int, features: str, preset: str) -> dict[str, float]:
    """Means over the pairs (the largest for folds, the median for seconds), and memory."""
    net = network(features, preset, ct=data == "totalseg")
    pairs = totalseg_pairs(folder, count) if data == "totalseg" else chaos_pairs(folder, count)
    results = [measure(net, pair) for pair in pairs]
    summary = {name: statistics.fmean(r[name] for r in results) for name in COLUMNS}
    summary["folds %"] = max(r["folds %"] for r in results)
    summary["seconds"] = statistics.median(r["seconds"] for r in results)
    summary["peak GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return summary


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Registration with no training, on real scans.")
    parser.add_argument("data", choices=["chaos_t2", "totalseg"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, help="default: 20 for chaos_t2, 3 for totalseg")
    options = parser.parse_args()
    needed = {"chaos_t2": "image_01.nii.gz", "totalseg": "ct.nii.gz"}[options.data]
    if not (options.folder / needed).is_file():
        parser.error(f"{options.folder} is not the folder of {options.data}: no {needed} in it")
    count = options.pairs or {"chaos_t2": 20, "totalseg": 3}[options.data]
    names = (*COLUMNS, "peak GB")
    print("| features | preset |", " | ".join(names), "|")
    print("|---" * (len(names) + 2) + "|")
    spawn = multiprocessing.get_context("spawn")
    for features, preset in METHODS:
        with spawn.Pool(1) as pool:
            values = pool.apply(row, (options.data, options.folder, count, features, preset))
        cells = " | ".join(f"{values[name]:.3f}" for name in names)
        print(f"| {features} | {preset} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
