"""Processes that do one task after another; where one dies, a new one goes on with the next.

(An executor of the standard library gives up all of its tasks with the first process that dies.)
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

from voxelopt_train.errors import InputError

Outcome = TypeVar("Outcome")


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


def in_workers(
    function: Callable[..., Outcome], tasks: Sequence[tuple[Any, ...]], workers: int, threads: int
) -> Generator[tuple[int, Outcome | Died], None, None]:
    """Call ``function(*task)`` for each task, in several processes, which end with the iterator.

    Args:
        function: of the top level of a module, since processes are spawned; raises nothing.
        tasks: arguments that can be pickled.
        workers: number of processes.
        threads: those of PyTorch in each of them.

    Yields:
        Number of a task and what the function returned, or `Died`, in the order in which they end.

    Raises:
        InputError: processes cannot start here.
    """
    waiting = deque(enumerate(tasks))
    idle: list[_Worker] = []
    busy: dict[Any, tuple[_Worker, int]] = {}  # by what `wait` tells of
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                index, task = waiting.popleft()
                worker = idle.pop() if idle else _Worker(function, threads)
                busy[worker.connection] = worker, index
                worker.send(task)
            for connection in wait(list(busy)):
                worker, index = busy[connection]
                outcome = worker.outcome()
                del busy[connection]
                if not isinstance(outcome, Died):
                    idle.append(worker)
                yield index, outcome
    finally:
        for worker in [*idle, *(worker for worker, _ in busy.values())]:
            worker.end()


class _Worker:
    """One process, and our end of the line to it."""

    def __init__(self, function: Callable[..., Any], threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # threads do not live through a fork
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, function, threads), daemon=True, name="voxelopt worker"
        )
        with _interrupts_ignored():
            self._process.start()
        theirs.close()  # so that the line ends with the process

    def send(self, task: tuple[Any, ...]) -> None:
        with suppress(BrokenPipeError):  # a process that died while idle: `outcome` tells
            self.connection.send(task)

    def outcome(self) -> Any:
        """What the function returned, or `Died`; waits for it."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            self.end()
        if code == 1:  # what Python ends with where it cannot even begin
            raise InputError(
                "no process can be started for the cohort; a script that registers one has to do "
                'so below if __name__ == "__main__":'
            )
        return Died(code)

    def end(self) -> None:
        self._process.terminate()
        self._process.join()
        self.connection.close()


def _work(connection: Connection, function: Callable[..., Any], threads: int) -> None:
    torch.set_num_threads(threads)
    with suppress(EOFError, OSError):  # the other end is gone, whatever became of it
        while True:
            connection.send(function(*connection.recv()))


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
