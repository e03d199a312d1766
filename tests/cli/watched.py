"""Commands in a process that tells what it writes where, and whom it asks: ``watched.py COMMANDS``.

COMMANDS is a JSON list of argument lists. The folder of this file's copy, ``sitecustomize.py``,
has to come first in PYTHONPATH, so that workers are watched too. What is reported lies in the file
that the variable WATCHED names, a line each; changes below the folder WATCHED_INSIDE are not.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
_CHANGES = ("os.mkdir", "os.rename", "os.link", "os.symlink", "os.truncate", "os.remove")


def watch(report: str, inside: str) -> None:
    """Report every connection, and every change of files that are not below ``inside``."""

    def hook(event: str, arguments: tuple) -> None:
        address = arguments[1] if event == "socket.connect" else ()
        if event in _NETWORK and isinstance(address, tuple):  # not a file, as of other workers
            tell(f"network: {event} {arguments[1:]}")
            raise PermissionError(f"no network here: {event}")
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
            changes(arguments[0])
        elif event in _CHANGES:
            changes(arguments[0])
            if event in ("os.rename", "os.link", "os.symlink"):
                changes(arguments[1])

    def changes(path: object) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            place = os.path.normpath(Path.cwd() / os.fsdecode(path))
            if not f"{place}/".startswith((f"{inside}/", "/dev/", "/proc/")):
                tell(f"file: {place}")

    def tell(line: str) -> None:
        os.write(log, f"{line}\n".encode())

    log = os.open(report, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    sys.addaudithook(hook)


def main(commands: list[list[str]]) -> None:
    from voxelopt_train.cli import main

    for command in commands:
        code = main(command)
        if code != 0:
            sys.exit(f"{command} ended with {code}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
elif __name__ == "sitecustomize" and "WATCHED" in os.environ:
    watch(os.environ["WATCHED"], os.environ["WATCHED_INSIDE"])
