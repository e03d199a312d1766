"""How much memory this process may still take."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
# Files of a control group: its limit, what it uses, and in memory.stat the cache that can go, after
# this prefix.
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
_VERSION_2 = ("memory.max", "memory.current", "")

_share = sys.maxsize  # of this process, where several are at work


def take_share_of(processes: int) -> None:
    """From now on this process has, of what is free now, no more than one of so many has."""
    global _share
    if processes > 1:
        _share = available_memory() // processes


def is_shared() -> bool:
    """Whether this process has a share alone, so that fewer processes would have more each."""
    return _share != sys.maxsize


def available_memory() -> int:
    """Bytes that can be taken before the system starts to swap or to kill.

    On Linux what the kernel calls available, or what the control groups of this process (those
    of a container, of a scheduler's job) or ``ulimit -v`` leave of their limits, whichever is
    least. On macOS all that is built in. Where nothing is known, ``sys.maxsize``. At most this
    process's share, see `take_share_of`.
    """
    try:
        free = _numbers(_PROC / "meminfo")["MemAvailable"] * 1024
    except (OSError, KeyError):
        free = _built_in()
    return max(0, min([free, _share, *_left_by_groups(), *_left_of_addresses()]))


def _left_of_addresses() -> Generator[int]:
    """What ``ulimit -v`` leaves, if it is set."""
    try:
        import resource  # there is none on Windows

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            pages = int((_PROC / "self" / "statm").read_text().split()[0])
            yield limit - pages * resource.getpagesize()
    except (ImportError, OSError):
        return


def _left_by_groups() -> Generator[int]:
    """What each control group around this process leaves, the innermost first."""
    try:
        memberships = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        if controllers in ("", "memory"):
            root = _CGROUPS / controllers
            names = _VERSION_1 if controllers else _VERSION_2
            group = root / path.lstrip("/")
            # (Of a container's own group, only the root may be in sight.)
            for folder in (group, *group.parents):
                yield from _left_by(folder, *names)
                if folder == root:
                    break


def _left_by(group: Path, limit: str, usage: str, prefix: str) -> Generator[int]:
    try:
        most, used = (group / limit).read_text(), (group / usage).read_text()
        numbers = _numbers(group / "memory.stat")
        spare = sum(numbers.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
    except OSError:  # no such group here, or the outermost one, which has no limit
        return
    if most.strip() != "max":
        yield int(most) - int(used) + spare


def _numbers(path: Path) -> dict[str, int]:
    """The first number of each line, by the line's name."""
    words = (line.replace(":", " ").split() for line in path.read_text().splitlines())
    return {word[0]: int(word[1]) for word in words if len(word) > 1}


def _built_in() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return sys.maxsize
