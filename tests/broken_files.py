"""Broken files, each given to a command: ``broken_files.py [PART OF A NAME ...]`` prints a table.

Each command runs in a process of its own, on a machine that, so it is told, has 1 GB left. It has
to end in one sentence and exit code 2, within 5 s and 1 GB, and to leave nothing behind; where any
does not, the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.append(str(Path(__file__).parent / "cli"))
from broken_images import IMAGES
from broken_makers import AFFINE_KIND, GB, Write, tfm
from broken_others import OTHERS, ROWS
from command_line import contents, write_pair
from voxelopt_train import input_files
from voxelopt_train.cli import main as voxelopt
from voxelopt_train.phantom import phantom_pair

import_module("voxelopt_train.learning.training_cli")  # once, and not after each fork
torch.set_num_threads(1)  # the threads of OpenMP do not outlive a fork

# BAD stands for the file; what else is named is whole, see `write_whole_files`.
COMMANDS = {
    "image": "apply BAD -r fixed.nii.gz -o out/a.nii.gz",
    "reference": "apply moving.nii.gz -r BAD -o out/a.nii.gz",
    "grid": "jacobian -r BAD -t whole.tfm -o out/j.nii.gz",
    "fixed": "register BAD moving.nii.gz -o out/",
    "labels": "register fixed.nii.gz moving.nii.gz -o out/ --fixed-labels fixed_labels.nii.gz "
    "--moving-labels BAD",
    "mask": "register fixed.nii.gz moving.nii.gz -o out/ --moving-mask BAD",
    "transform": "apply moving.nii.gz -r fixed.nii.gz -t BAD -o out/a.nii.gz",
    "learn2reg": "apply moving.nii.gz -r fixed.nii.gz -t learn2reg:BAD -o out/a.nii.gz",
    "initial": "register fixed.nii.gz moving.nii.gz -o out/ --initial BAD",
    "points": "points BAD -o out/p.csv",
    "pairs": "register --pairs BAD -o out",
    "config": "register fixed.nii.gz moving.nii.gz -o out/ --config BAD",
    "names": "report out -o page.html --label-names BAD",
    "folder": "register fixed.nii.gz BAD -o out",
    "prepare": "prepare BAD -o out --shape 8 8 8 --spacing 8",
    "patterns": "prepare BAD -o out --images img_*.nii.gz --test a,b --shape 8 8 8",
    "data": "predict --config raw --data BAD -o out",
}
_LIMIT_S, _LIMIT = 5.0, GB


class Broken(NamedTuple):
    """One broken file: the command that is given it, its name, its maker, what is said of it."""

    command: str
    name: str
    write: Write
    says: str

    def arguments(self) -> list[str]:
        """The command, for a file of that name in the current folder."""
        return [word.replace("BAD", self.name) for word in COMMANDS[self.command].split()]

    def sentence(self, err: str) -> str:
        """What the command said, or an AssertionError where it is more than one line."""
        lines = err.splitlines()
        if self.command == "data":  # Lightning has lines of its own to say before
            del lines[:-1]
        assert len(lines) == 1 and lines[0].startswith("voxelopt: error: "), err
        return lines[0].removeprefix("voxelopt: error: ")


CORPUS = {
    f"{command}, {kind}": Broken(command, *broken)
    for command, kinds in {"image": IMAGES, **OTHERS}.items()
    for kind, broken in kinds.items()
}


def write_whole_files() -> None:
    """What the commands name beside a pair of images and its labels."""
    tfm(AFFINE_KIND, ROWS)(Path("whole.tfm"))


def deny(path: str | Path, mode: int, access: Callable[..., bool] = os.access) -> bool:
    """In the place of `os.access`: a superuser may read everything, and here not what is locked."""
    return "locked" not in str(path) and access(path, mode)


class Ended(NamedTuple):
    """How a command ended, and what it took."""

    code: int
    err: str
    seconds: float
    memory: int  # bytes above what the process had before


def in_process(arguments: list[str]) -> Ended:
    """Run a command in a process of its own, from here on; killed after four times the limit."""
    sys.stdout.flush()
    log, peak = Path("../err.txt"), Path("../memory.txt")
    start = time.monotonic()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            code = voxelopt(arguments)
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            peak.write_text(str((after - before) * 1024))
        finally:
            sys.stderr.flush()
            os._exit(code)
    patience = threading.Timer(4 * _LIMIT_S, os.kill, (process, signal.SIGKILL))
    patience.start()
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    patience.cancel()
    seconds = time.monotonic() - start
    return Ended(code, log.read_text(), seconds, int(peak.read_text()) if peak.exists() else 0)


def wrong(broken: Broken, ended: Ended, untouched: bool) -> str:
    """What is wrong with how a command ended; empty where nothing is."""
    if ended.code != 2:
        return f"exit code {ended.code}: {ended.err[-500:]}"
    try:
        said = broken.sentence(ended.err)
    except AssertionError:
        return f"not one sentence: {ended.err[-500:]}"
    if broken.says not in said:
        return f"says {said}"
    if ended.seconds > _LIMIT_S or ended.memory > _LIMIT:
        return "takes too much"
    return "" if untouched else "the folder is not what it was"


def main() -> None:
    """Print the table; exit code 1 where anything ended otherwise."""
    parser = argparse.ArgumentParser(description="Broken files, each given to a command.")
    parser.add_argument("parts", nargs="*", metavar="PART", help="of the names of some of them")
    parts = parser.parse_args().parts
    input_files.available_memory = lambda: GB
    os.access = deny
    images, failures = phantom_pair(0, shape=(40, 32, 36), spacing_mm=8.0), []
    chosen = {n: b for n, b in CORPUS.items() if not parts or any(part in n for part in parts)}
    print("| broken | seconds | memory (MB) | ends |\n|---|---:|---:|---|")
    for name, broken in chosen.items():
        with tempfile.TemporaryDirectory() as outer:
            folder = Path(outer, "here")
            folder.mkdir()
            os.chdir(folder)
            write_pair(images)
            write_whole_files()
            broken.write(Path(broken.name))
            before = contents(folder)
            ended = in_process(broken.arguments())
            reason = wrong(broken, ended, contents(folder) == before)
            os.chdir("/")
        print(f"| {name} | {ended.seconds:.2f} | {ended.memory / 1e6:.0f} | {reason or 'well'} |")
        failures += [name] * bool(reason)
    print(f"{len(chosen) - len(failures)} of {len(chosen)} end in one sentence and exit code 2")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
