"""What the tests of cohorts share: a table of pairs, and what workers do in place of a case."""

from __future__ import annotations

import csv
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from voxelopt_train import outputs
from voxelopt_train.cohort import Case, one_case

# Spacing and levels are for speed.
COHORT = ["register", "--spacing", "24", "--layer.levels", "1", "-o", "out"]


def write_table(name: str, rows: list[dict[str, str]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with Path(name).open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return name


def pairs(*cases: str) -> list[dict[str, str]]:
    """A row for each case, with a moving image of its name."""
    for case in cases:
        shutil.copy("moving.nii.gz", f"{case}.nii.gz")
    return [{"case": c, "fixed": "fixed.nii.gz", "moving": f"{c}.nii.gz"} for c in cases]


def register_case(case: Case, *more) -> one_case.Outcome:
    """As `one_case.register_case`, without the picture, which takes longer than all the rest.

    Cases of some names do as they are called: processes know nothing of what a test has patched.
    """

    def fail(error: Exception) -> Callable[..., None]:
        def raises(*_: object, **__: object) -> None:
            raise error

        return raises

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "registration_picture", lambda path, *_, **__: path.write_bytes(b""))
        if case.name == "slow":
            Path("begun").touch()
            time.sleep(600)
        elif case.name == "bug":
            patch.setattr(one_case, "make_report", None)
        elif case.name == "memory":
            patch.setattr(one_case, "register", fail(MemoryError()))
        elif case.name == "starved":  # of memory, in earnest
            return _starved(lambda: one_case.register_case(case, *more))
        elif case.name == "full":
            patch.setattr(outputs, "write_displacement_field", fail(OSError(28, "No space left")))
        elif case.name == "killed":  # half-way through its files
            patch.setattr(
                outputs,
                "write_displacement_field",
                lambda *_: os.kill(os.getpid(), signal.SIGKILL),
            )
        return one_case.register_case(case, *more)


def _starved(function: Callable[[], one_case.Outcome]) -> one_case.Outcome:
    """What the function returns where the system gives this process no more memory."""
    np.linalg.inv(np.eye(8))  # OpenBLAS ends the process where it finds no memory at its first use
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), before[1]))
    try:
        return function()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def in_this_process(
    function: Callable[..., one_case.Outcome], tasks: list[tuple], *_: object
) -> Iterator[tuple[int, one_case.Outcome]]:
    """In the place of `workers.in_workers`: others take seconds to start."""
    for index, task in enumerate(tasks):
        yield index, function(*task)
