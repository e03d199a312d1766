"""What is left of memory, as the kernel and control groups of both versions tell it."""

from __future__ import annotations

import os
import sys

import pytest

from voxelopt_train import memory
from voxelopt_train.cohort.workers import in_workers
from voxelopt_train.memory import available_memory

GB = 10**9


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file of a system that has 8 GB available, and no control groups so far."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "groups")

    def write(path: str, text: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    write("proc/meminfo", f"MemTotal: {16 * GB >> 10} kB\nMemAvailable: {8 * GB >> 10} kB\n")
    return write


def test_here():
    assert 2**24 < available_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_without_groups_all_that_the_kernel_calls_available(write):
    assert available_memory() == 8 * GB


def test_processes_of_a_cohort_share_it():
    here = available_memory()
    asked = list(in_workers(available_memory, [(), (), ()], workers=3, threads=1))
    assert sorted(index for index, _ in asked) == [0, 1, 2]
    assert all(isinstance(n, int) and 0.2 * here < n < 0.4 * here for _, n in asked)


def test_a_limit_on_addresses(write, monkeypatch):
    resource = pytest.importorskip("resource")
    pages = 10**6
    write("proc/self/statm", f"{pages} 5 4 3 2 1 0\n")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (7 * GB, 7 * GB))
    assert available_memory() == 7 * GB - pages * resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1, 1))
    assert available_memory() == 0


@pytest.mark.parametrize("narrowest", ["job/step", "job", "."])
@pytest.mark.parametrize(
    ("membership", "root", "files", "unlimited"),
    [
        ("0::/job/step", ".", memory._VERSION_2, "max"),
        ("4:memory:/job/step", "memory", memory._VERSION_1, 2**63 - 4096),
    ],
)
def test_the_narrowest_of_the_groups_around(write, narrowest, membership, root, files, unlimited):
    write("proc/self/cgroup", f"7:cpu,cpuacct:/other\n{membership}\n")
    most, used, prefix = files
    cache = f"{prefix}active_file {GB // 4}\n{prefix}inactive_file {GB * 3 // 4}"
    for group in ("job/step", "job", "."):
        limit = 5 * GB if group == narrowest else unlimited
        for name, value in ((most, limit), (used, 3 * GB), ("memory.stat", cache)):
            write(f"groups/{root}/{group}/{name}", f"{value}\n")
    assert available_memory() == 3 * GB


def test_a_group_beyond_its_limit(write):
    write("proc/self/cgroup", "0::/job\n")
    for name, value in (("max", GB), ("current", 2 * GB), ("stat", "inactive_file 0")):
        write(f"groups/job/memory.{name}", f"{value}\n")
    assert available_memory() == 0


def test_where_there_is_no_such_file(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    assert available_memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.delattr(os, "sysconf")
    assert available_memory() == sys.maxsize
