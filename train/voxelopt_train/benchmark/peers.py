"""The table of ``voxelopt benchmark --peers``: the layer and other tools on one pair of images.

All get the same two NIfTI files, as many threads on the CPU and a process each, and start from the
identity. Their fields are brought to one convention (`peer_tools`); what labels become under them
and all measures come from the code that serves the rest of this project.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from jsonargparse import Namespace
from rich.console import Group
from rich.markup import escape
from rich.text import Text
from torch import Tensor

import voxelopt_layers
from voxelopt_layers import warp
from voxelopt_train.benchmark import peer_tools
from voxelopt_train.benchmark.peer_tools import TOOLS
from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid
from voxelopt_train.images import read_image, write_nifti
from voxelopt_train.label_maps import read_label_pair
from voxelopt_train.metrics import evaluate
from voxelopt_train.phantom import CT_WINDOW, Pair, phantom_pair
from voxelopt_train.registration import check_pair, cut_off
from voxelopt_train.table_formats import MEASURES, terminal_table

_LIMIT_S = 30 * 60
_SHOWN = ("dice", "hd95", "sd_log_jacobian", "folds", "seconds")
_OF_PEERS = ("pair", "fixed_labels", "moving_labels", "window")


class _Run(NamedTuple):
    displacement: Tensor
    seconds: float
    peak_mb: float


def peer_pair(options: Namespace) -> Pair | None:
    """The pair that is to be registered; None without ``--peers``.

    Raises:
        InputError: an image or label map is missing or cannot be used, or the grids differ.
    """
    given = [name for name in _OF_PEERS if getattr(options, name) is not None]
    if not options.peers:
        if given:
            raise InputError(f"--{given[0].replace('_', '-')} is for --peers, which is not given")
        return None
    if options.pair is None:
        if given:
            raise InputError(f"--{given[0].replace('_', '-')} needs --pair FIXED MOVING")
        pair, window = phantom_pair(0), CT_WINDOW
    else:
        fixed, moving = options.pair
        pair = _read_pair(fixed, moving, options.fixed_labels, options.moving_labels)
        window = None if options.window is None else (options.window[0], options.window[1])
        if window is not None and not window[0] < window[1]:
            raise InputError(f"--window must go from low to high, got {window[0]:g} {window[1]:g}")
    pair = replace(pair, fixed=cut_off(pair.fixed, window), moving=cut_off(pair.moving, window))
    check_pair(pair.fixed, pair.moving, window)
    return pair


def _read_pair(
    fixed: str, moving: str, fixed_labels: str | None, moving_labels: str | None
) -> Pair:
    images = read_image(fixed, "fixed image"), read_image(moving, "moving image")
    if not images[1].grid.matches(images[0].grid):
        raise InputError(
            f"{moving} does not lie on the grid of {fixed}, which the tools are to share: "
            f"voxelopt apply {moving} --reference {fixed} brings it there"
        )
    if not _right_angles(images[0].grid):
        raise InputError(f"{fixed}: its axes are not at right angles, as ITK's tools need them")
    labels = read_label_pair(fixed_labels, moving_labels, *images)
    if labels is None:
        raise InputError("--pair is measured by its labels: give --fixed-labels, --moving-labels")
    return Pair(images[0], labels[0], images[1], labels[1])


def _right_angles(grid: Grid) -> bool:
    axes = grid.affine[:3, :3] / grid.spacing
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() < 1e-3)


def compare_tools(
    pair: Pair, preset: str | None, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Register the pair with every tool that is installed.

    Args:
        pair: images on one grid, and their labels.
        preset: settings of the layer; None for its defaults.
        progress: called with the name of each tool as it begins.

    Returns:
        The pair, the threads, a row of measures or ``{"failed": sentence}`` for each tool, and the
        packages of those that are not installed; all of it for JSON.
    """
    there = {name: tool for name, tool in TOOLS.items() if not tool.module or _found(tool.module)}
    threads = torch.get_num_threads()
    rows = {"before": _measures(pair, None)}
    with TemporaryDirectory(prefix="voxelopt-") as temporary:
        folder = Path(temporary)
        for name in ("fixed", "moving"):
            image = getattr(pair, name)
            write_nifti(folder / f"{name}.nii", image.data, image.grid.affine)
        for name, tool in there.items():
            progress(name)
            options = {} if tool.module else {"preset": preset}
            run = _in_process(name, options, threads, folder)
            row = {"failed": run} if isinstance(run, str) else _measures(pair, run)
            release = version(tool.package) if tool.package else voxelopt_layers.__version__
            settings = tool.settings + (f", preset {preset}" if preset and options else "")
            rows[name] = {"version": release, "settings": settings, **row}
    grid = pair.fixed.grid
    return {
        "fixed": pair.fixed.name,
        "moving": pair.moving.name,
        "shape": list(grid.shape),
        "spacing_mm": list(grid.spacing),
        "threads": threads,
        "protocol": "voxelopt",
        "rows": rows,
        "not_installed": {name: tool.package for name, tool in TOOLS.items() if name not in there},
    }


def _found(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _in_process(name: str, options: dict[str, Any], threads: int, folder: Path) -> _Run | str:
    """What one tool found, or why it found nothing, in a sentence."""
    output = folder / "found.npz"
    output.unlink(missing_ok=True)
    files = {key: str(folder / f"{key}.nii") for key in ("fixed", "moving")}
    spec = {"tool": name, **files, "threads": threads, "options": options, "output": str(output)}
    counts = dict.fromkeys(
        ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), str(threads)
    )
    try:
        done = subprocess.run(
            [sys.executable, peer_tools.__file__, json.dumps(spec)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
            timeout=_LIMIT_S,
            env={**os.environ, **counts, "TMPDIR": str(folder)},  # what tools leave goes with it
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {_LIMIT_S / 60:g} minutes"
    if done.returncode != 0 or not output.exists():
        lines = done.stderr.strip().splitlines()
        return (lines or ["it was killed, maybe for want of memory"])[-1].strip()
    with np.load(output) as found:
        displacement = torch.from_numpy(found["displacement"])
        run = _Run(displacement, float(found["seconds"]), float(found["peak_mb"]))
    if not displacement.isfinite().all():
        return "its displacement has NaN or infinite values"
    return run


def _measures(pair: Pair, run: _Run | None) -> dict[str, Any]:
    """Of the labels, warped by nearest neighbour, and of the field; before registration if None."""
    fixed, moving = pair.fixed_labels.data, pair.moving_labels.data
    displacement = None if run is None else run.displacement
    warped = moving
    if displacement is not None:
        warped = warp(moving[None, None], displacement, mode="nearest")[0, 0]
    measured = evaluate(fixed, moving, warped, displacement, pair.fixed.grid.spacing).as_dict()
    row = {
        "dice": measured["mean_dice"],
        "hd95": measured["mean_hd95"],
        "dice_per_label": measured["dice"],
        "hd95_per_label": measured["hd95"],
    }
    if run is not None:
        of_field = ("sd_log_jacobian", "sd_log_jacobian_strict", "folds", "mean_displacement_mm")
        row |= {name: measured[name] for name in of_field}
        row |= {"seconds": run.seconds, "peak_mb": run.peak_mb}
    return row


def peers_table(compared: Mapping[str, Any]) -> Group:
    """The table for the terminal, the tools' versions and settings, and what went wrong."""
    size, mm = (" x ".join(f"{n:.4g}" for n in compared[key]) for key in ("shape", "spacing_mm"))
    title = (
        f"{compared['fixed']} and {compared['moving']}: {size} voxels of {mm} mm, on the "
        f"CPU, threads: {compared['threads']} (memory: peak of the whole process)"
    )
    headings = [MEASURES[name].heading.format(unit="mm") for name in _SHOWN]
    table = terminal_table(escape(title), *headings, "memory, MB")
    notes = []
    for name, row in compared["rows"].items():
        if "failed" in row:
            table.add_row(name, "failed")
            notes.append(f"{name} failed: {row['failed']}")
            continue
        memory = f"{row['peak_mb']:.0f}" if "peak_mb" in row else "-"
        table.add_row(name, *(_cell(row.get(measure), measure) for measure in _SHOWN), memory)
        if "settings" in row:
            notes.append(f"{name} {row['version']}: {row['settings']}")
    absent = compared["not_installed"]
    if absent:
        packages = " ".join(absent.values())
        notes.append(f"not installed: {', '.join(absent)}; pip install {packages}")
    return Group(table, *map(Text, notes))


def _cell(value: float | None, measure: str) -> str:
    _, digits, factor = MEASURES[measure]
    return "-" if value is None else f"{factor * value:.{digits}f}"
