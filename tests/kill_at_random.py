"""Commands that are killed at random moments: what they leave is whole, and a rerun does the rest.

Run as a program, it prints a row for each command: ``kill_at_random.py [COMMAND ...] [--kills N]``.
Each kill is SIGKILL, as of a kernel without memory, at a random moment of the command's work, which
begins in a process of its own once all is imported. A file is damaged where it cannot be read to
its end, or stands for others that are not there. A rerun has to end well, with the same numbers as
a run that never was killed, and without a hidden file.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import yaml
from nibabel.nifti1 import Nifti1Image
from PIL import Image
from scipy.io import loadmat

from voxelopt_train.cli import main as voxelopt

sys.path.append(str(Path(__file__).parent / "data"))
from dataset_folders import write_subjects

import_module("voxelopt_train.learning.training_cli")  # once, and not after each fork

OUT = Path("out")
PAIR = ["source/image_a.nii.gz", "source/image_b.nii.gz"]
QUICK = ["--layer.levels", "2", "--spacing", "3"]
PREPARE = [
    "prepare", "source", "--images", "image_*.nii.gz", "--labels", "label_*.nii.gz",
    "--spacing", "3", "--shape", "16", "16", "16",
]  # fmt: skip
SPLITS = ["--train", "a,b", "--validation", "c,d", "--test", "e,f,g"]
REPORTED = {"Warped.nii.gz", "1Warp.nii.gz", "Report.png"}
_PATIENCE_S = 60.0


def _csv_rows(path: Path) -> None:
    with path.open(newline="") as file:
        widths = {len(row) for row in csv.reader(file)}
    assert len(widths) == 1, "rows of different lengths"


# How a file of each kind is read to its end. (What Lightning's logger keeps is a log.)
READERS: dict[str, Callable[[Path], object]] = {
    ".nii.gz": lambda path: (gzip.decompress(path.read_bytes()), volume(path)),
    ".json": lambda path: json.loads(path.read_text()),
    ".csv": _csv_rows,
    ".md": lambda path: path.read_text().rindex("|\n"),
    ".png": lambda path: Image.open(path).load(),
    ".mat": lambda path: loadmat(path),
    ".ckpt": lambda path: torch.load(path, weights_only=True),
    "config.yaml": lambda path: yaml.safe_load(path.read_text())["model"],
}


def volume(path: Path) -> np.ndarray:
    return np.asarray(Nifti1Image.from_filename(path).dataobj)


def visible(folder: Path) -> list[Path]:
    """Files below that are no one's temporary ones."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [f for f in files if not any(p[0] == "." for p in f.relative_to(folder).parts)]


def damaged() -> list[str]:
    """What is wrong with the files that are there, one entry each."""
    found = []
    for path in visible(OUT):
        for suffix, read in READERS.items():
            if path.name.endswith(suffix):
                try:
                    read(path)
                except Exception as error:
                    found.append(f"{path}: {type(error).__name__}: {error}")
    for report in OUT.rglob("Report.json"):  # it stands for the others beside it
        missing = REPORTED - {path.name for path in report.parent.iterdir()}
        found += [f"{report}: without {name}" for name in sorted(missing)]
    for record in OUT.glob("records/*.json"):
        files = [OUT / kind / f"{record.stem}.nii.gz" for kind in ("images", "labels")]
        found += [f"{record}: without {file}" for file in files if not file.exists()]
    return found


def _prepared() -> None:
    _finish(_start([*PREPARE, "-o", "data", *SPLITS]))


def _network() -> None:
    """Data, and the settings of a network that learns its masks in little time."""
    _prepared()
    unet = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [4, 8]}
    network = {
        "class_path": "voxelopt_models.monai_network",
        "init_args": {"name": "UNet", "arguments": {**unet, "strides": [2]}},
    }
    encoder = {
        "class_path": "voxelopt_models.FeatureEncoder",
        "init_args": {"network": network, "divisor": 2, "normalisation": "softmax"},
    }
    module = "voxelopt_train.learning.SegmentationModule"
    model = {"class_path": module, "init_args": {"encoder": encoder}}
    Path("network.yaml").write_text(yaml.safe_dump({"model": model}))


def _table() -> None:
    rows = [f"{case},{PAIR[0]},source/image_{case}.nii.gz\n" for case in "bcd"]
    Path("pairs.csv").write_text("case,fixed,moving\n" + "".join(rows))


def _resumed(arguments: list[str]) -> list[str]:
    last = OUT / "checkpoints" / "last.ckpt"
    return [*arguments, "--ckpt_path", "last"] if last.exists() else arguments


def _same(arguments: list[str]) -> list[str]:
    return arguments


@dataclass(frozen=True)
class Command:
    """What is killed, what has to be there before it, and how it is run again."""

    arguments: list[str]
    before: Callable[[], None] = lambda: None
    rerun: Callable[[list[str]], list[str]] = _same


LIGHTNING = ["--data", "data", "--trainer.enable_progress_bar=false", "-o", "out"]
COMMANDS = {
    "register": Command(["register", *PAIR, *QUICK, "--inverse", "-o", "out/"]),
    "cohort": Command(
        ["register", "--pairs", "pairs.csv", *QUICK, "--workers", "2", "-o", "out"], _table
    ),
    "prepare": Command([*PREPARE, "-o", "out", *SPLITS]),
    "fit": Command(
        ["fit", "--config", "network.yaml", *LIGHTNING, "--trainer.max_epochs", "6"],
        _network,
        _resumed,
    ),
    "predict": Command(["predict", "--config", "mind", *LIGHTNING], _prepared),
}


def _start(arguments: list[str]) -> int:
    """Run a command in a process, and a group, of its own, from here on: returns its id."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        os.setsid()
        with Path("log.txt").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        code = 1
        try:
            code = voxelopt(arguments)
        finally:
            sys.stdout.flush()
            os._exit(code)
    return process


def _finish(process: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert code == 0, f"exit code {code}: {Path('log.txt').read_text()[-2000:]}"


def _kill(process: int) -> bool:
    """Kill it alone; whether it was at work still. All that it had started has to end too."""
    os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        try:
            os.killpg(process, 0)
        except ProcessLookupError:
            return os.WIFSIGNALED(status)
        time.sleep(0.02)
    raise AssertionError("processes of a killed command went on")


def trial(command: Command, kills: int, moments: random.Random) -> tuple[int, list[str], int]:
    """Kill a command so many times: kills while it was at work, damages, reruns that completed."""
    command.before()
    start = time.monotonic()
    _finish(_start(command.arguments))
    seconds = time.monotonic() - start
    whole = {path: volume(path) for path in visible(OUT) if path.name.endswith(".nii.gz")}
    names = {path for path in visible(OUT) if "tfevents" not in path.name}
    at_work, damages, completed = 0, [], 0
    for _ in range(kills):
        shutil.rmtree(OUT)
        process = _start(command.arguments)
        time.sleep(moments.uniform(0, seconds))
        at_work += _kill(process)
        damages += damaged()
        _finish(_start(command.rerun(command.arguments)))
        left = [*OUT.rglob(".*"), *Path().glob(".*")]
        same = all(np.array_equal(volume(path), voxels) for path, voxels in whole.items())
        here = {path for path in visible(OUT) if "tfevents" not in path.name}
        damages += damaged()
        if left or not same or here != names:
            print(f"after the rerun: left {left}, the same {same}, other files {here ^ names}")
        else:
            completed += 1
    return at_work, damages, completed


def main() -> None:
    """Print the table; exit code 1 where anything was damaged or not completed."""
    parser = argparse.ArgumentParser(description="Commands killed at random moments.")
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=", ".join(COMMANDS))
    parser.add_argument("--kills", type=int, default=10, help="of each command (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    options = parser.parse_args()
    if unknown := set(options.commands) - set(COMMANDS):
        parser.error(f"expected some of {', '.join(COMMANDS)}, got {', '.join(unknown)}")
    moments, wrong = random.Random(options.seed), []
    print("| command | kills | of these at work | damaged | reruns completed |")
    print("|---|---:|---:|---:|---:|")
    for name in options.commands or COMMANDS:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            write_subjects(Path("source"), "abcdefg")
            at_work, damages, completed = trial(COMMANDS[name], options.kills, moments)
            os.chdir("/")
        row = (name, options.kills, at_work, len(damages), completed)
        print("|", " | ".join(map(str, row)), "|", flush=True)
        wrong += damages + [name] * (completed < options.kills)
    for line in wrong:
        print(line)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
