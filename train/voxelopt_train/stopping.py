"""Signals that end a command as Ctrl-C does: what is not complete goes, and a sentence tells."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

# SIGTERM is what `kill`, `timeout` and schedulers send, SIGHUP a terminal that is closed.
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stop:
    """How a command was ended.

    Attributes:
        signal: the first signal that did, SIGINT where it was Ctrl-C.
    """

    signal = signal.SIGINT

    def __str__(self) -> str:
        return "interrupted" if self.signal == signal.SIGINT else f"stopped by {self.signal.name}"

    @property
    def exit_code(self) -> int:
        """What shells and make expect of a process that a signal ended."""
        return 128 + self.signal


@contextmanager
def stopped_by_signals() -> Generator[Stop]:
    """Within it SIGTERM and SIGHUP raise KeyboardInterrupt; for programs, a library leaves them be.

    Those that are ignored, as after ``nohup``, stay so. Only the first one counts: ``timeout`` and
    schedulers send several, and the second is not to break off the removal of temporary files.
    """
    stop = Stop()

    def handle(number: int, _: FrameType | None) -> None:
        if stop.signal == signal.SIGINT:
            stop.signal = signal.Signals(number)
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # which alone can set handlers
        yield stop
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    ours = [number for number, handler in before.items() if handler == signal.SIG_DFL]
    try:
        for number in ours:
            signal.signal(number, handle)
        yield stop
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
