"""Files that users name, before they are read: whether there is one, and whether it would fit."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from voxelopt_train.errors import InputError
from voxelopt_train.memory import available_memory

MOST_TEXT = 2**28  # bytes of a table, of points, of settings; far above any of these
DEFLATE_RATIO = 1032  # what gzip, zip and HDF5 files inflate to, at most


def check_file(path: str | Path, name: str) -> None:
    """Raise InputError, with what ``name`` calls it, unless ``path`` is a file that can be opened.

    A pipe, which might never say anything, is none.
    """
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, ValueError) as error:  # no path has a zero byte
        raise InputError(f"{name}: there is no such file") from error
    except OSError as error:  # as links in a circle
        raise InputError(f"{name}: cannot be read, {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{name}: this is a folder, expected a file")
    if not stat.S_ISREG(mode):
        raise InputError(f"{name}: this is a pipe, a socket or a device, expected a file")
    if not os.access(path, os.R_OK):
        raise InputError(f"{name}: no permission to read this file")


def read_text(path: Path, name: str, encoding: str = "utf-8-sig") -> str:
    """The text of a table, of points or of settings.

    Raises:
        InputError: ``path`` is no file, no text or far too large for any.
    """
    check_file(path, name)
    try:
        size = path.stat().st_size
        if size > MOST_TEXT:
            most = size_text(MOST_TEXT)
            raise InputError(f"{name}: the file has {size_text(size)}, expected {most} at most")
        return path.read_text(encoding)
    except OSError as error:
        raise InputError(f"{name}: cannot be read, {error.strerror}") from error
    except UnicodeError as error:
        raise InputError(f"{name}: this is no text file that can be read") from error


def check_fits(needed: int, name: str, what: str) -> None:
    """Raise InputError where ``what`` a file holds takes more bytes than there are available."""
    available = available_memory()
    if needed > available:
        raise InputError(
            f"{name}: {what} would take {size_text(needed)} of memory, "
            f"{size_text(available)} are available"
        )


def size_text(size: int) -> str:
    """A number of bytes as messages say it."""
    return f"{size / 1e9:.1f} GB" if size >= 10**8 else f"{size} bytes"
