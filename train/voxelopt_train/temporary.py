"""Temporary folders that are locked while they are in use, so that nobody's can be removed.

Each is called ``.voxelopt-*`` and holds ``lock`` and ``files``. A lock goes with its process,
whatever ended that: where it can be taken, the folder is what a killed process left.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

_PREFIX = ".voxelopt-"
_LOCK, _FILES = "lock", "files"


class InUseError(Exception):
    """Another process holds the folder."""


@contextmanager
def temporary_folder(parent: Path, name: str = "") -> Generator[Path]:
    """A folder within ``parent`` for files that are not complete; it goes in the end.

    What killed processes left in ``parent`` goes first.

    Args:
        parent: a folder that exists.
        name: of something that one process may do there at a time.

    Raises:
        InUseError: another process is doing what is called ``name``.
        OSError: the folder cannot be made.
    """
    remove_abandoned(parent)
    folder = parent / f"{_PREFIX}{name or uuid4().hex[:8]}"
    lock = _take(folder)
    while lock is None:  # of a new name: just now, another process took it for abandoned
        if name:
            raise InUseError
        lock = _take(folder)
    files = folder / _FILES
    try:
        files.mkdir()
    except FileExistsError:  # only where there are no locks
        raise InUseError from None
    except OSError:
        _remove(folder)
        lock.release()
        raise
    try:
        yield files
    finally:
        _remove(folder)
        lock.release()


def remove_abandoned(parent: Path) -> None:
    """Remove the temporary folders in ``parent`` of processes that are no more."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # as of another user's
            lock = _take(folder) if (folder / _LOCK).exists() else None
            if lock is not None and lock.is_locked:
                _remove(folder)
                lock.release()
            folder.rmdir()  # if it is empty: of a process that was killed between two calls


def _take(folder: Path) -> FileLock | None:
    """The lock of a folder, which is made if need be; None where another process has it."""
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, FileNotFoundError):
        return None
    except OSError:  # no locks on this file system: nothing is ever taken for abandoned there
        return lock
    if (folder / _LOCK).exists():
        return lock
    lock.release()  # that of a folder which was removed meanwhile
    return None


def _remove(folder: Path) -> None:
    shutil.rmtree(folder / _FILES, ignore_errors=True)
    with suppress(OSError):
        if not (folder / _FILES).exists():  # else it stays recognisable by its lock
            (folder / _LOCK).unlink(missing_ok=True)
            folder.rmdir()
