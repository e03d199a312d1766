"""Processes that do one task after another; where one dies, a new one goes on with the next.

(An executor of the standard library gives up all of its tasks with the first process that dies.)
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

from voxelopt_train.errors import InputError
from voxelopt_train.memory import take_share_of

Outcome = TypeVar("Outcome")
_NAME = "voxelopt worker"
_PATIENCE_S = 10.0  # for a process that cannot even be killed, as one that waits for a dead server


@dataclass(frozen=True)
class Died:
    """In the place of the outcome of a task whose process ended: its code, or minus a signal."""

    exit_code: int

    def __str__(self) -> str:
        if self.exit_code >= 0:
            return f"its process ended with code {self.exit_code}"
        number = -self.exit_code
        hint = ", as where memory runs out" if number == 9 else ""
        return f"its process was ended by signal {number} ({signal.strsignal(number)}){hint}"


@dataclass(frozen=True)
class TookLonger:
    """In the place of the outcome of a task that did not end in time."""

    limit_s: float

    def __str__(self) -> str:
        return f"took longer than {self.limit_s:g} s"


def in_workers(
    function: Callable[..., Outcome],
    tasks: Sequence[tuple[Any, ...]],
    workers: int,
    threads: int,
    limit_s: float | None = None,
) -> Generator[tuple[int, Outcome | Died | TookLonger], None, None]:
    """Call ``function(*task)`` for each task, in several processes, which end with the iterator.

    They end with this process too, however it ends.

    Args:
        function: of the top level of a module, since processes are spawned; raises nothing.
        tasks: arguments that can be pickled.
        workers: number of processes, which share the memory that is free.
        threads: those of PyTorch in each of them.
        limit_s: seconds after which a task is broken off, without those that a process takes to
            start; None: it takes what it takes.

    Yields:
        Number of a task and what the function returned, `Died` or `TookLonger`, in the order in
        which they end.

    Raises:
        InputError: processes cannot start here.
    """
    waiting = deque(enumerate(tasks))
    idle: list[_Worker] = []
    busy: dict[Any, tuple[_Worker, int, float]] = {}  # and its end, by what `wait` tells of
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                index, task = waiting.popleft()
                worker = idle.pop() if idle else _Worker(function, workers, threads)
                busy[worker.connection] = worker, index, math.inf
                worker.send(task)
            for connection in _heard_of(busy):
                worker, index, _ = busy[connection]
                outcome = worker.outcome()
                if isinstance(outcome, _Begun):
                    deadline = time.monotonic() + (math.inf if limit_s is None else limit_s)
                    busy[connection] = worker, index, deadline
                    continue
                del busy[connection]
                if not isinstance(outcome, Died):
                    idle.append(worker)
                yield index, outcome
            now = time.monotonic()
            for connection, (worker, index, deadline) in list(busy.items()):
                if limit_s is not None and deadline <= now:
                    worker.end()
                    del busy[connection]
                    yield index, TookLonger(limit_s)
    finally:
        for worker in [*idle, *(worker for worker, *_ in busy.values())]:
            worker.end()


def end_if_worker() -> None:
    """End this process where it is one of ours, that runs a script again before it can begin.

    The process that started it tells, see `_Worker.outcome`: two tellers would tell two stories.
    """
    if multiprocessing.current_process().name == _NAME:
        sys.exit(1)


def _heard_of(busy: Mapping[Any, tuple[Any, int, float]]) -> list[Any]:
    """Those that have something to tell; waits for it, or for the first deadline."""
    first = min(deadline for _, _, deadline in busy.values())
    return wait(list(busy), None if first == math.inf else max(0, first - time.monotonic()))


class _Begun:
    """What a process says as it begins with a task."""


class _Worker:
    """One process, and our end of the line to it."""

    def __init__(self, function: Callable[..., Any], workers: int, threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # threads do not live through a fork
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_work,
            args=(theirs, function, workers, threads),
            daemon=True,
            name=_NAME,
        )
        with _interrupts_ignored():
            self._process.start()
        theirs.close()  # so that the line ends with the process
        self._has_begun = False

    def send(self, task: tuple[Any, ...]) -> None:
        with suppress(BrokenPipeError):  # a process that died while idle: `outcome` tells
            self.connection.send(task)

    def outcome(self) -> Any:
        """That it has begun, what the function returned, or `Died`; waits for it."""
        try:
            outcome = self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            self.end()
        else:
            self._has_begun = True
            return outcome
        if code == 1 and not self._has_begun:  # what Python ends with where it cannot even begin
            raise InputError(
                "no process can be started for the cohort, since each would run the script again: "
                'call register_cohort below if __name__ == "__main__":'
            )
        return Died(code)

    def end(self) -> None:
        self._process.kill()  # nothing that it does is of use any more
        self._process.join(_PATIENCE_S)
        self.connection.close()


def _work(connection: Connection, function: Callable[..., Any], workers: int, threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    take_share_of(workers)
    torch.set_num_threads(threads)
    with suppress(EOFError, OSError):  # the other end is gone, whatever became of it
        while True:
            task = connection.recv()
            connection.send(_Begun())
            connection.send(function(*task))


def _end_with_parent() -> None:
    """End this process once its parent is gone, so that nothing is written behind a new run's back.

    (It would notice by itself only at the end of its task.)
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _interrupts_ignored() -> Generator[None]:
    """Ctrl-C reaches all processes of a terminal, but not those that start within this context."""
    if threading.current_thread() is not threading.main_thread():  # which alone can say so
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
