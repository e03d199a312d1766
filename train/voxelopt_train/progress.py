"""Progress of long work: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

_SECONDS_PER_LINE = 30.0


class LogLines:
    """A line on standard error every half minute at most, after the time that has gone by."""

    def __init__(self) -> None:
        self._begin = self._last = time.monotonic()

    def line(self, text: str) -> None:
        now = time.monotonic()
        if now - self._last < _SECONDS_PER_LINE:
            return
        self._last = now
        minutes, seconds = divmod(round(now - self._begin), 60)
        print(f"{minutes}:{seconds:02d} {text}", file=sys.stderr, flush=True)


@contextmanager
def progress_bar(stages: int) -> Generator[Callable[[str], None]]:
    """Progress on standard error; yields what is to be called as each stage begins.

    Where standard error is no terminal but a file, or what a scheduler keeps, it has `LogLines`.
    """
    columns = (
        SpinnerColumn(),
        BarColumn(30),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    console.quiet = not console.is_terminal  # a disabled bar writes an empty line before rich 14.3
    log, begun = LogLines(), 0
    with Progress(*columns, console=console, transient=True, disable=console.quiet) as bar:
        task = bar.add_task("starting", total=stages)

        def stage(name: str) -> None:
            nonlocal begun
            begun += 1
            bar.update(task, description=name, advance=1)
            if console.quiet:
                log.line(f"{name} ({begun} of {stages})")

        yield stage
