"""The one exception that stands for bad input, and how it and others are told."""

from __future__ import annotations

import torch

_NO_MEMORY = "not enough memory for this grid; a coarser one takes less (--spacing MM)"


class InputError(ValueError):
    """What the user gave cannot be used; the message is one sentence in the user's terms.

    The command line prints it and ends with exit code 2; everything else is a defect of ours.
    """


def sentence(error: Exception) -> str | None:
    """What to tell the user of an error, in one line; None of one that is a defect of ours."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, InputError | OSError):
        return " ".join(str(error).split())
    # What the CPU allocator raises has no class of its own.
    of_allocator = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    if of_allocator or isinstance(error, torch.OutOfMemoryError | MemoryError):
        return _NO_MEMORY
    return None
