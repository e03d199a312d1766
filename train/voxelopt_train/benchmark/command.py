"""``voxelopt benchmark``: time, memory and bandwidth on this machine, against a naive version."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

import voxelopt_layers
from voxelopt_layers import VoxelOptLayer
from voxelopt_layers.native import build
from voxelopt_layers.presets import PRESETS
from voxelopt_layers.solver import GRADIENTS
from voxelopt_train.benchmark.peer_pairs import peer_pair
from voxelopt_train.benchmark.peers import compare_tools, peers_table
from voxelopt_train.devices import torch_device
from voxelopt_train.errors import InputError
from voxelopt_train.files import atomic_output, check_kept, check_writable, plain
from voxelopt_train.table_formats import terminal_table

_WHOLE = {
    "naive": "naive PyTorch",
    "operators": "the layer without kernels",
    "kernels": "the layer",
    "float16": "... with costs in float16",
    "bfloat16": "... with costs in bfloat16",
    "soft": "the layer, soft, as it trains",
    "unrolled": "training step, unrolled",
    "checkpointed": "training step, checkpointed",
    "truncated": "training step, truncated",
}
_SIZES = ("48x40x64", "96x80x128")
_LEAST = 4
# The naive version follows L1 alone, as it is for feature maps.
FOR_FEATURES = sorted(name for name in PRESETS if "dissimilarity" not in PRESETS[name])
# Beyond this many voxels the naive version and float64 would not fit most machines.
_LARGE_VOXELS = 2_000_000


def benchmark_parser() -> tuple[ArgumentParser, str]:
    """The options of the command, and what it does in a sentence."""
    summary = "Measure time, memory and bandwidth of the layer on this machine."
    parser = ArgumentParser(description=summary, exit_on_error=False)
    add = parser.add_argument
    add(
        "--sizes",
        type=str,
        nargs="+",
        metavar="DxHxW",
        help=f"voxels of the feature maps (default: {' '.join(_SIZES)}; none with --peers)",
    )
    add("--channels", type=int, default=8, help="of the feature maps")
    add(
        "--preset",
        choices=FOR_FEATURES,
        help="settings; without it, the layer's defaults, and with --peers those of register",
    )
    add("--runs", type=int, default=3, help="of each measurement; the fastest counts")
    add("--device", type=str, default="cuda" if torch.cuda.is_available() else "cpu")
    add("-o", "--output", type=str, metavar="FILE", help="keep all numbers (.json)")
    _add_peer_options(parser)
    return parser, summary


def _add_peer_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--peers",
        action="store_true",
        help="compare with the registration tools that are installed (ConvexAdam, ANTs, SimpleITK, "
        "greedy) on a pair of images, on the CPU; nothing else is measured unless --sizes is given",
    )
    add(
        "--pair",
        type=str,
        nargs=2,
        metavar=("FIXED", "MOVING"),
        help="images of --peers, on one grid; without it, two synthetic abdominal CT",
    )
    add("--fixed-labels", type=str, metavar="FILE", help="label map of the pair's fixed image")
    add("--moving-labels", type=str, metavar="FILE", help="label map of the pair's moving image")
    add(
        "--window",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="cut intensities of the pair off here, for all tools (CT: -800 500)",
    )


def run_benchmark(options: Namespace) -> None:
    """Measure, print tables, and write the numbers if asked to."""
    sizes = [_size(text) for text in options.sizes or (() if options.peers else _SIZES)]
    torch_device(options.device)
    if min(options.channels, options.runs) < 1:
        raise InputError("--channels and --runs must be at least 1")
    if options.output is not None:
        check_writable(Path(options.output).absolute().parent)
        inputs = (*(options.pair or ()), options.fixed_labels, options.moving_labels)
        check_kept(inputs, [Path(options.output)])
    pair = peer_pair(options)
    console = Console()
    machine = _machine(options.device if sizes else "cpu", kernels=bool(sizes))
    console.print(", ".join(f"{name}: {value}" for name, value in machine.items()))
    results: dict[str, Any] = {"machine": machine, "preset": options.preset, "sizes": {}}
    for size in sizes:
        name = "x".join(map(str, size))
        with console.status(name) as status:
            measured = _measure_size(size, options, lambda what, now=status: now.update(what))
        results["sizes"][name] = measured
        console.print(_whole_table(name, measured), _stage_table(name, measured))
        if "rows" in measured.get("precision", {}):
            console.print(_precision_table(name, measured["precision"]["rows"]))
        for what, row in measured.items():
            if "failed" in row:
                console.print(f"{_WHOLE.get(what, what)} failed: {row['failed']}")
    if pair is not None:
        with console.status("peers") as status:
            results["peers"] = compare_tools(pair, options.preset, status.update)
        console.print(peers_table(results["peers"]))
    if options.output is not None:
        with atomic_output(Path(options.output)) as path:
            path.write_text(json.dumps(plain(results), indent=1) + "\n")


def _measure_size(size: list[int], options: Namespace, progress: Any) -> dict[str, Any]:
    settings = PRESETS[options.preset] if options.preset else {}
    soft = {**settings, "assignment": "soft"}  # what gradients can be trained through

    def measure(what: str, label: str, its_settings: dict[str, Any]) -> dict[str, Any]:
        progress(label)
        numbers = {"channels": options.channels, "runs": options.runs, "device": options.device}
        result = _in_process({"what": what, "settings": its_settings, "size": size, **numbers})
        if "failed" in result and what in ("kernels", "stages"):
            raise InputError(f"the layer could not be measured: {result['failed']}")
        return result

    measured: dict[str, Any] = {}
    large = size[0] * size[1] * size[2] > _LARGE_VOXELS
    for what, label in {**_WHOLE, "stages": "stages", "precision": "precision"}.items():
        if what == "soft":  # what training is a multiple of
            if VoxelOptLayer(**settings).solver.assignment != "soft":
                measured[what] = measure("kernels", label, soft)
        elif not (large and what in ("naive", "precision")):
            training = what in GRADIENTS
            measured[what] = measure(what, label, soft if training else settings)
    return measured


def _in_process(spec: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "voxelopt_train.benchmark.worker", json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it was killed, maybe for want of memory"])[-1]
        return {"failed": last}
    return json.loads(done.stdout)


def _whole_table(name: str, measured: dict[str, Any]) -> Table:
    title = f"{name}: one pair, inference and training steps (memory: peak above the inputs)"
    table = terminal_table(title, "seconds", "x faster than naive", "x inference", "memory, MB")
    naive = measured.get("naive", {}).get("seconds")
    inference = measured.get("soft", measured["kernels"]).get("seconds")
    for what, label in _WHOLE.items():
        row = measured.get(what)
        if what == "soft" and row is None:
            continue
        if row is None or "failed" in row:
            table.add_row(label, "failed" if row else "left out")
            continue
        seconds, training = row["seconds"], what in GRADIENTS
        table.add_row(
            label,
            f"{seconds:.3f}",
            f"{naive / seconds:.1f}" if naive and not training else "",
            f"{seconds / inference:.1f}" if inference and training else "",
            f"{row['peak_mb']:.0f}",
        )
    return table


def _stage_table(name: str, measured: dict[str, Any]) -> Table:
    stages = measured["stages"]
    copy = stages["copy_gb_per_s"]
    title = f"{name}: stages of a warp at the finest level (copying moves {copy:.1f} GB/s)"
    table = terminal_table(title, "calls", "ms each", "MB each", "GB/s", "% of copying")
    for row in stages["stages"]:
        rate = row["bytes"] / row["seconds"] / 1e9
        table.add_row(
            row["stage"],
            str(row["calls"]),
            f"{1e3 * row['seconds']:.1f}",
            f"{row['bytes'] / 1e6:.0f}",
            f"{rate:.1f}",
            f"{100 * rate / copy:.0f}",
        )
    return table


def _precision_table(name: str, rows: list[dict[str, Any]]) -> Table:
    title = f"{name}: error to float64 by what costs are kept in, two phantom patients, in voxels"
    table = terminal_table(title, "mean", "largest")
    for row in rows:
        table.add_row(
            f"{row['features']}, {row['cost_dtype']}",
            f"{row['mean_error']:.4f}",
            f"{row['max_error']:.2f}",
        )
    return table


def _machine(device: str, kernels: bool) -> dict[str, Any]:
    """What numbers depend on; how long ``kernels`` take to compile, with nothing in a cache."""
    machine: dict[str, Any] = {
        "voxelopt": voxelopt_layers.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    if device.startswith("cuda"):
        return machine | {"device": torch.cuda.get_device_name(device)}
    if not kernels:
        return machine
    compiler = next(iter(build.compilers()), None)
    machine["processor"] = platform.processor() or platform.machine()
    if compiler is None:
        return machine | {"kernels": "no C++ compiler, so none"}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        try:
            build.compile_kernels(compiler, Path(folder) / "kernels.so")
        except (OSError, subprocess.SubprocessError):
            return machine | {"kernels": f"{compiler[0]} cannot compile them"}
        return machine | {
            "kernels compiled in": f"{time.perf_counter() - start:.1f} s, once per machine"
        }


def _size(text: str) -> list[int]:
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(p.isdigit() and int(p) >= _LEAST for p in parts):
        raise InputError(
            f"--sizes must be three numbers of voxels like 96x80x128, each at least {_LEAST}, "
            f"got {text}"
        )
    return [int(p) for p in parts]
