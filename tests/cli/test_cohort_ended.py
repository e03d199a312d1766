"""Cohorts that are ended from outside, cases that do not end, and folders that fill up."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cohorts
from cohorts import COHORT, pairs, write_table
from command_line import ALWAYS, names, sentence
from test_cohort import rows_of, times
from voxelopt_train.cohort import one_case, registration, workers
from voxelopt_train.registered import Registration

TABLES = {"results.csv", "results.json", "results.md"}
IN_USE = (
    "another registration of many pairs is at work in out, choose another --output or wait for "
    "its end"
)
PROGRAM = (
    "import sys, cohorts; from voxelopt_train.cli import main; "
    "from voxelopt_train.cohort import registration; "
    "registration.register_case = cohorts.register_case; sys.exit(main())"
)


@pytest.fixture(autouse=True)
def _plain_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "register_case", cohorts.register_case)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "in_workers", cohorts.in_this_process)


@pytest.fixture
def program() -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start a cohort in a session of its own: case a is complete, the other has begun."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        table = write_table("pairs.csv", pairs("a", "slow"))
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *COHORT, "--pairs", table],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        started.append(program)
        while not Path("begun").exists():
            assert program.poll() is None
            time.sleep(0.05)
        return program

    yield start
    for program in started:
        program.kill()


@pytest.mark.parametrize(
    ("name", "send", "code", "how"),
    [
        ("SIGINT", os.killpg, 130, "interrupted"),  # as Ctrl-C: all processes of the terminal
        ("SIGTERM", os.kill, 143, "stopped by SIGTERM"),  # as kill: the one
    ],
)
def test_a_signal_ends_the_processes_and_keeps_what_is_complete(program, name, send, code, how):
    cohort = program()
    send(cohort.pid, signal.Signals[name])
    out, err = cohort.communicate()  # until the last process has let go of these
    assert cohort.returncode == code and out == ""
    assert sentence(err) == (f"{how}, 1 of 2 cases are complete and stay, the same command goes on")
    assert names("out") == {"a"} and names("out/a") == ALWAYS


@pytest.mark.usefixtures("in_this_process")
def test_two_at_a_time_and_what_a_killed_one_leaves(program, run):
    command = [*COHORT, "--pairs", write_table("more.csv", pairs("a", "b"))]
    cohort = program()
    before = times("out")
    code, out, err = run(*command)
    assert code == 2 and out == "" and sentence(err) == IN_USE
    assert times("out") == before and names("out") == {"a", ".voxelopt-cohort"}
    cohort.kill()
    cohort.communicate()  # until its worker, with a long case before it, has let go of these
    assert names("out") == {"a", ".voxelopt-cohort"}
    code, out, _ = run(*command)
    assert code == 0 and "1 of 2 cases were complete already" in out
    assert names("out") == {"a", "b", *TABLES}


@pytest.mark.usefixtures("in_this_process")
def test_of_a_folder_too_and_links_to_nowhere_are_cases(run, monkeypatch):
    Path("scans").mkdir()
    for row in pairs("a", "gone"):
        Path(row["moving"]).rename(f"scans/{row['moving']}")
    Path("scans/nowhere.nii.gz").symlink_to("nothing.nii.gz")
    read = one_case.register

    def register(*arguments: Any, **options: Any) -> Registration:
        Path("scans/gone.nii.gz").unlink(missing_ok=True)
        return read(*arguments, **options)

    monkeypatch.setattr(one_case, "register", register)
    assert run(*COHORT, "fixed.nii.gz", "scans")[0] == 2
    errors = {case: row["error"] for case, row in rows_of("out/results.csv").items()}
    says = "moving image scans/{}.nii.gz: there is no such file"
    assert errors == {"a": "", **{case: says.format(case) for case in ("gone", "nowhere")}}


def test_a_case_that_does_not_end_in_time(run, monkeypatch):
    def in_workers(*arguments: object) -> Iterator[tuple[int, workers.TookLonger]]:
        limit_s = arguments[-1]
        assert isinstance(limit_s, float)
        yield 0, workers.TookLonger(limit_s)

    monkeypatch.setattr(registration, "in_workers", in_workers)
    table = write_table("pairs.csv", pairs("slow"))
    code, out, err = run(*COHORT, "--pairs", table, "--time-limit", "600")
    assert code == 2 and sentence(err) == "1 of 1 cases failed, see out/results.csv"
    assert "slow failed: took longer than 600 s\n" in out
    assert rows_of("out/results.csv")["slow"]["error"] == "took longer than 600 s"


def test_a_task_that_takes_too_long_is_ended_and_the_next_begins():
    ended = list(workers.in_workers(time.sleep, [(600,), (0,)], workers=1, threads=1, limit_s=2))
    assert ended == [(0, workers.TookLonger(2)), (1, None)]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_a_process_that_gets_no_more_memory(run):
    """In earnest; by another signal the system ends one, see `test_cohort`."""
    table = write_table("pairs.csv", pairs("starved", "a"))
    assert run(*COHORT, "--spacing", "5", "--pairs", table)[0] == 2
    errors = {case: row["error"] for case, row in rows_of("out/results.csv").items()}
    expected = "not enough memory for this grid; a coarser one takes less (--spacing MM)"
    assert errors == {"starved": expected, "a": ""}
    assert names("out") == {"a", *TABLES}


def test_a_process_that_ends_in_the_middle_with_any_code():
    """As by a library that finds no memory; a process that cannot even begin ends with 1 too."""
    ended = list(workers.in_workers(os._exit, [(1,), (3,)], workers=1, threads=1))
    assert ended == [(0, workers.Died(1)), (1, workers.Died(3))]


@pytest.mark.usefixtures("in_this_process")
def test_a_file_that_is_gone_by_the_time_it_is_read(run, monkeypatch):
    table = write_table("pairs.csv", pairs("a", "gone", "b"))
    read = one_case.register

    def register(*arguments: Any, **options: Any) -> Registration:
        Path("gone.nii.gz").unlink(missing_ok=True)
        return read(*arguments, **options)

    monkeypatch.setattr(one_case, "register", register)
    assert run(*COHORT, "--pairs", table)[0] == 2
    errors = {case: row["error"] for case, row in rows_of("out/results.csv").items()}
    assert errors == {"a": "", "gone": "moving image gone.nii.gz: there is no such file", "b": ""}
    assert names("out") == {"a", "b", *TABLES}


@pytest.mark.usefixtures("in_this_process")
def test_a_disk_that_is_full_as_results_move_to_their_place(run, monkeypatch):
    """The case stays incomplete, so that the next run makes it anew; the others are done."""
    command = [*COHORT, "--pairs", write_table("pairs.csv", pairs("a", "b"))]
    move = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if str(target) == str(Path("out/a/Warped.nii.gz")):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return move(path, target)

    with monkeypatch.context() as full:
        full.setattr(Path, "replace", replace)
        assert run(*command)[0] == 2
    expected = "the results cannot be written to out/a: No space left on device"
    errors = {case: row["error"] for case, row in rows_of("out/results.csv").items()}
    assert errors == {"a": expected, "b": ""}
    assert "Report.json" not in names("out/a") and names("out") == {"a", "b", *TABLES}
    code, out, _ = run(*command)
    assert code == 0 and "1 of 2 cases were complete already" in out
    assert names("out/a") == names("out/b") == ALWAYS


@pytest.mark.usefixtures("in_this_process")
def test_files_that_may_not_grow(run, folder):
    """In earnest: the system refuses what goes beyond 4 kB."""
    table = write_table("pairs.csv", pairs("a"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        code, out, _ = run(*COHORT, "--pairs", table)
        single = run("register", "fixed.nii.gz", "moving.nii.gz", *COHORT[1:-1], "one/")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2 and names("out") == TABLES
    assert "a failed: out/a/Warped.nii.gz cannot be written: File too large\n" in out
    assert single[0] == 2 and not (folder / "one").exists()
    assert sentence(single[2]) == "one/Warped.nii.gz cannot be written: File too large"
