"""The one exception that stands for bad input, its warning, and how these and others are told."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

_NO_MEMORY = "not enough memory for this grid; a coarser one takes less (--spacing MM)"
_NO_GPU_MEMORY = (
    "not enough memory on the GPU: a coarser grid takes less (--spacing MM), so do cost volumes "
    "in half precision (cost_dtype), and, in training, checkpointed gradients and smaller batches"
)
_OF_MEMORY = ("allocate memory", "can't start new thread")


class InputError(ValueError):
    """What the user gave cannot be used; the message is one sentence in the user's terms.

    The command line prints it and ends with exit code 2; everything else is a defect of ours.
    """


class InputWarning(UserWarning):
    """What the user gave is used, and may mean something else to other programs; one sentence."""


@cache  # Python's own memory of what it told ends wherever a library touches the filters
def warn_once(message: str) -> None:
    """Give an `InputWarning` with a sentence, unless this process has given it before."""
    warnings.warn(message, InputWarning, stacklevel=2)


@contextmanager
def input_warnings_to(tell: Callable[[str], None]) -> Generator[None]:
    """Give each sentence of an `InputWarning` to ``tell``, without the line of our code."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if issubclass(category, InputWarning):
            tell(str(message))
        else:
            before(message, category, *place)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def sentence(error: Exception) -> str | None:
    """What to tell the user of an error, in one line; None of one that is a defect of ours."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, InputError | OSError):
        return " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError):
        return _NO_GPU_MEMORY
    # What the CPU allocator raises has no class of its own, nor has a thread without a stack.
    said = str(error) if isinstance(error, RuntimeError) else ""
    if isinstance(error, MemoryError) or any(text in said for text in _OF_MEMORY):
        return _NO_MEMORY
    return None
