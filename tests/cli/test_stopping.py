"""Commands that are ended from outside end as by Ctrl-C; what is not complete goes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import QUICK, contents, names, sentence
from voxelopt_train import outputs, temporary
from voxelopt_train.cli import main

REGISTER = ["register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/", *QUICK]


@pytest.fixture(autouse=True)
def _picture(no_picture) -> None:
    pass


@pytest.fixture(autouse=True)
def _not_ignored() -> Iterator[None]:
    """Even where all tests were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(*numbers: int):
    """In the place of a function, one that sends signals to this process."""

    def function(*_: object, **__: object) -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return function


@pytest.mark.parametrize(
    ("name", "code", "expected"),
    [
        ("SIGTERM", 143, "stopped by SIGTERM, nothing was written"),
        ("SIGHUP", 129, "stopped by SIGHUP, nothing was written"),
        ("SIGINT", 130, "interrupted, nothing was written"),
    ],
)
def test_a_signal_while_writing(refused, monkeypatch, name, code, expected):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(outputs, "write_displacement_field", send(signal.Signals[name]))
    assert refused(*REGISTER, expected_code=code) == expected
    assert signal.getsignal(signal.SIGTERM) == before == signal.SIG_DFL


def test_a_second_signal_leaves_the_removal_of_files_alone(refused, monkeypatch):
    """As from `timeout`, which sends one to the process and one to its group."""
    remove = temporary._remove

    def interrupted(folder: Path) -> None:
        send(signal.SIGTERM, signal.SIGHUP)()
        remove(folder)

    monkeypatch.setattr(outputs, "write_displacement_field", send(signal.SIGTERM, signal.SIGTERM))
    monkeypatch.setattr(temporary, "_remove", interrupted)
    message = refused(*REGISTER, expected_code=143)
    assert message == "stopped by SIGTERM, nothing was written"


def test_a_signal_that_is_ignored_stays_so(run, monkeypatch):
    """As by nohup."""
    monkeypatch.setattr(outputs, "write_displacement_field", send(signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(*REGISTER)[0] == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "Warped.nii.gz" in names("out")


def test_in_another_thread_no_signals_are_touched(capsys, folder):
    codes: list[int] = []
    before = contents(folder)
    command = ["register", "missing.nii", "-o", "out"]
    thread = threading.Thread(target=lambda: codes.append(main(command)))
    thread.start()
    thread.join()
    assert codes == [2] and contents(folder) == before
    assert "expected FIXED and MOVING" in sentence(capsys.readouterr().err)
