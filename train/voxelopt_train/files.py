"""Files of results: whole or not at all, where there is room for them, in values JSON can hold."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from voxelopt_train.errors import InputError
from voxelopt_train.temporary import remove_abandoned, temporary_folder


def read_record(path: Path) -> dict[str, Any]:
    """What a JSON file of ours says; nothing where there is none that can be read."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def stamp(file: Path) -> list[str | int] | None:
    """Path, size and time of change in ns, by which another content is found out; None of none."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return [str(file.resolve()), stat.st_size, stat.st_mtime_ns]


def check_writable(folder: Path) -> None:
    """Raise InputError unless files can be written to ``folder``, made if need be; makes nothing.

    For the start of a long command, before time is spent on what could not be kept.
    """
    existing = _nearest_existing(folder)
    if not existing.is_dir():
        kind = "a file" if existing.exists() else "a link to nowhere"
        raise InputError(f"the output folder {folder} cannot be made: {existing} is {kind}")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"the output folder {folder} cannot be written: no permission")
    try:  # permission alone makes no file, as in /proc
        with TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(
            f"the output folder {folder} cannot be written: {error.strerror}"
        ) from error


def check_targets(targets: Iterable[Path]) -> None:
    """Raise InputError where files could not be written to these places, for a folder of the name.

    For the start of a long command, as `check_writable`, which looks at their folders.
    """
    for target in targets:
        try:
            taken = stat.S_ISDIR(target.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:  # a name that is too long
            raise InputError(f"{target} cannot be written: {error.strerror}") from error
        if taken:
            raise InputError(f"{target} cannot be written: there is a folder of this name")


def check_kept(inputs: Iterable[object], outputs: Iterable[Path]) -> None:
    """Raise InputError where a result would take the place of one of the files it is made from."""
    # (Path.resolve raises on links in a circle.)
    targets = {os.path.realpath(path) for path in outputs}
    for path in inputs:
        if isinstance(path, str | Path) and os.path.realpath(path) in targets:
            raise InputError(f"{path} would be overwritten by a result, choose another --output")


@contextmanager
def atomic_output(path: Path) -> Generator[Path]:
    """A temporary path near ``path`` to write to; it becomes ``path`` if all went well.

    Raises:
        InputError: the file cannot be written; nothing is left behind.
    """
    try:
        with temporary_folder(path.parent) as folder:
            temporary = folder / path.name
            yield temporary
            temporary.replace(path)
    except OSError as error:
        # (HDF5 has pages of its own to say.)
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise InputError(f"{path} cannot be written: {reason}") from error


@contextmanager
def all_or_none(folder: Path) -> Generator[Path]:
    """A temporary folder, whose files move to ``folder`` together once all are complete.

    It lies in the nearest folder that exists: a failure leaves not even an empty ``folder``.
    """
    try:
        remove_abandoned(folder.parent)  # where it was, if there is a folder only by now
        with temporary_folder(_nearest_existing(folder)) as temporary:
            try:
                yield temporary
            except InputError as error:  # of the place that the user knows
                message = str(error).replace(str(temporary), str(folder))
                raise InputError(message) from error
            targets = {path: folder / path.name for path in temporary.iterdir()}
            check_targets(targets.values())  # would stop the moves half-way
            folder.mkdir(parents=True, exist_ok=True)
            for path, target in targets.items():
                path.replace(target)
    except OSError as error:
        raise InputError(
            f"the results cannot be written to {folder}: {error.strerror or error}"
        ) from error


def plain(value: Any) -> Any:
    """The same for JSON and CSV, which know neither NaN nor infinity: both become None."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _nearest_existing(folder: Path) -> Path:
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder
