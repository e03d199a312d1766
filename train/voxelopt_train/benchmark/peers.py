"""The layer and other tools on one pair of images, for ``benchmark --peers`` and ``peers``.

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
from collections.abc import Callable, Container, Generator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Group
from rich.markup import escape
from rich.text import Text
from torch import Tensor

import voxelopt_layers
from voxelopt_layers import warp
from voxelopt_train.benchmark import peer_tools
from voxelopt_train.benchmark.peer_tools import TOOLS
from voxelopt_train.files import plain
from voxelopt_train.images import write_nifti
from voxelopt_train.metrics import evaluate
from voxelopt_train.phantom import Pair
from voxelopt_train.table_formats import MEASURES, terminal_table

_LIMIT_S = 30 * 60
_SHOWN = ("dice", "hd95", "sd_log_jacobian", "folds", "seconds")


class Run(NamedTuple):
    """What a tool found, displacement ``(1, 3, *spatial)`` in voxels, and what that took."""

    displacement: Tensor
    seconds: float
    peak_mb: float


class Entry(NamedTuple):
    """What makes a row: a tool and, if that is the layer, its preset and what differs from it."""

    tool: str
    preset: str | None = None
    settings: Mapping[str, Any] = {}


def compare_tools(
    pair: Pair, preset: str | None, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Register the pair with every tool that is installed.

    Args:
        pair: images on one grid, and their labels.
        preset: settings of the layer; None for those of `register`.
        progress: called with the name of each tool as it begins.

    Returns:
        The pair, the threads, a row of measures or ``{"failed": sentence}`` for each tool, and the
        packages of those that are not installed; all of it for JSON.
    """
    there, threads = entries(preset), torch.get_num_threads()
    rows = {"before": measures(pair, None)}
    with pair_files(pair) as folder:
        for name, entry in there.items():
            progress(name)
            rows[name] = measure_tool(pair, entry, folder, threads)
    grid = pair.fixed.grid
    return {
        "fixed": pair.fixed.name,
        "moving": pair.moving.name,
        "shape": list(grid.shape),
        "spacing_mm": list(grid.spacing),
        "threads": threads,
        "protocol": "voxelopt",
        "rows": rows,
        "not_installed": packages_without(there),
    }


def entries(preset: str | None = None) -> dict[str, Entry]:
    """Those of `TOOLS` that can run here; the layer with this preset, if it is given."""
    return {
        name: Entry(name, None if tool.module else preset or tool.preset)
        for name, tool in TOOLS.items()
        if not tool.module or _found(tool.module)
    }


def packages_without(there: Container[str]) -> dict[str, str]:
    """PyPI packages of the tools that are not ``there``."""
    return {name: tool.package for name, tool in TOOLS.items() if name not in there}


def _found(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@contextmanager
def pair_files(pair: Pair) -> Generator[Path]:
    """A temporary folder with the two NIfTI files that all tools are given."""
    with TemporaryDirectory(prefix="voxelopt-") as temporary:
        folder = Path(temporary)
        for name in ("fixed", "moving"):
            image = getattr(pair, name)
            write_nifti(folder / f"{name}.nii", image.data, image.grid.affine)
        yield folder


def made_by(entry: Entry) -> dict[str, str]:
    """Version and settings of a tool."""
    tool = TOOLS[entry.tool]
    release = version(tool.package) if tool.package else voxelopt_layers.__version__
    settings = [tool.settings, *[f"preset {entry.preset}"] * bool(entry.preset)]
    settings += [f"{key} {value}" for key, value in entry.settings.items()]
    return {"version": release, "settings": ", ".join(settings)}


def measure_tool(pair: Pair, entry: Entry, folder: Path, threads: int) -> dict[str, Any]:
    """Register the pair, whose files are in ``folder``, with one tool.

    Returns:
        Its version and settings, and its measures or ``{"failed": sentence}``; for JSON.
    """
    layer = not TOOLS[entry.tool].module
    options = {"preset": entry.preset, "settings": dict(entry.settings)} if layer else {}
    run = _in_process(entry.tool, options, threads, folder)
    row = {"failed": run} if isinstance(run, str) else measures(pair, run)
    return {**made_by(entry), **row}


def _in_process(name: str, options: dict[str, Any], threads: int, folder: Path) -> Run | str:
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
        run = Run(displacement, float(found["seconds"]), float(found["peak_mb"]))
    if not displacement.isfinite().all():
        return "its displacement has NaN or infinite values"
    return run


def measures(pair: Pair, run: Run | None) -> dict[str, Any]:
    """Of the labels, warped by nearest neighbour, and of the field; before registration if None.

    Where the true displacement is known, ``error_mm`` is the mean end-point error inside the
    labelled voxels of the fixed image.
    """
    fixed, moving = pair.fixed_labels.data, pair.moving_labels.data
    spacing = pair.fixed.grid.spacing
    displacement = None if run is None else run.displacement
    warped = moving
    if displacement is not None:
        warped = warp(moving[None, None], displacement, mode="nearest")[0, 0]
    measured = evaluate(fixed, moving, warped, displacement, spacing).as_dict()
    row = {
        "dice": measured["mean_dice"],
        "hd95": measured["mean_hd95"],
        "dice_per_label": measured["dice"],
        "hd95_per_label": measured["hd95"],
    }
    if pair.displacement is not None:
        difference = (0 if displacement is None else displacement) - pair.displacement
        error = (difference * torch.tensor(spacing).view(1, 3, 1, 1, 1)).norm(dim=1)[0]
        row["error_mm"] = plain(float(error[fixed > 0].mean()))
    if run is not None:
        of_field = ("sd_log_jacobian", "sd_log_jacobian_strict", "folds", "mean_displacement_mm")
        row |= {name: measured[name] for name in of_field}
        row |= {"seconds": run.seconds, "peak_mb": run.peak_mb}
    return row


def peers_table(compared: Mapping[str, Any]) -> Group:
    """The table for the terminal, the tools' versions and settings, and what went wrong."""
    title = (
        f"{compared['fixed']} and {compared['moving']}: {voxels(compared)}, on the CPU, "
        f"threads: {compared['threads']} (memory: peak of the whole process)"
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
    return Group(table, *map(Text, [*notes, *absence(compared["not_installed"])]))


def voxels(described: Mapping[str, Any]) -> str:
    """The shape and spacing of a pair, in words."""
    size, mm = (" x ".join(f"{n:.4g}" for n in described[key]) for key in ("shape", "spacing_mm"))
    return f"{size} voxels of {mm} mm"


def absence(packages: Mapping[str, str]) -> list[str]:
    """What to say of tools that are not installed, if there are any."""
    names, pip = ", ".join(packages), " ".join(packages.values())
    return [f"not installed: {names}; pip install {pip}"] if packages else []


def _cell(value: float | None, measure: str) -> str:
    _, digits, factor = MEASURES[measure]
    return "-" if value is None else f"{factor * value:.{digits}f}"
