"""What TensorBoard cannot write, told in a sentence."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

from voxelopt_train.errors import InputError


@contextmanager
def told_once() -> Generator[None]:
    """Within it a file of a run that cannot be written ends the run, as where a disk is full.

    TensorBoard writes in a thread, which would print a traceback and leave its error, without the
    file, to the next call; and to nobody, where the run ends before that.

    Raises:
        InputError: a file could not be written.
    """
    errors: list[OSError] = []
    others = threading.excepthook

    def keep(failure: threading.ExceptHookArgs) -> None:
        of_tensorboard = type(failure.thread).__module__.startswith("tensorboard.")
        if of_tensorboard and isinstance(failure.exc_value, OSError):
            errors.append(failure.exc_value)
        else:
            others(failure)

    threading.excepthook = keep
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        errors.append(error)
    finally:
        threading.excepthook = others
    if errors:
        reason = errors[0].strerror or errors[0]
        raise InputError(f"the files of this run cannot be written: {reason}") from errors[0]
