"""Disks that are full or read-only, in earnest: a small file system in memory, as root may mount.

One sentence tells, older results stay as they are, and with more room the same command goes on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import cohorts
from cohorts import pairs, write_table
from command_line import QUICK, contents, sentence
from recipes import write_recipes
from voxelopt_train.cohort import registration

pytestmark = pytest.mark.usefixtures("no_picture")

_MOUNT, _UNMOUNT = shutil.which("mount"), shutil.which("umount")
FULL, READ_ONLY = "No space left on device", "the output folder disk/out cannot be written"
TABLES = {f"out/results.{suffix}" for suffix in ("csv", "json", "md")}
# Kilobytes that are left: what is written first fits in part.
COMMANDS: dict[str, tuple[int, str]] = {
    "register": (200, "register fixed.nii.gz moving.nii.gz -o disk/out/ --spacing 24"),
    "cohort": (24, "register --pairs pairs.csv -o disk/out --spacing 24"),
    "apply": (16, "apply moving.nii.gz -r fixed.nii.gz -o disk/out/a.nii.gz"),
    "jacobian": (16, "jacobian -r fixed.nii.gz -t small/1Warp.nii.gz -o disk/out/j.nii.gz"),
    "convert": (4, "convert -t small/1Warp.nii.gz --to itk -o disk/out/c.h5"),
    "report": (100, "report small -o disk/out/r.html"),
    "prepare": (24, "prepare prepare.csv -o disk/out --spacing 12 --shape 20 16 20"),
    "predict": (0, "predict --config raw --config tiny.yaml -o disk/out"),
    "test": (0, "test --config raw --config tiny.yaml -o disk/out"),
    "fit": (16, "fit --config pairs.yaml --config tiny.yaml -o disk/out"),
}
# Of the results that are there before; and what is kept of a command that ends half-way.
OLDER = {
    "register": ["Warped.nii.gz", "1Warp.nii.gz", "Report.json"],
    "cohort": ["a/Warped.nii.gz", "b/1Warp.nii.gz"],
    "apply": ["a.nii.gz"],
    "jacobian": ["j.nii.gz"],
    "convert": ["c.h5"],
    "report": ["r.html"],
    "prepare": ["images/moving.nii.gz"],
    "predict": ["notes.txt"],
    "test": ["test.csv", "test.json", "test.md"],
    "fit": ["notes.txt"],
}


@pytest.fixture
def disk(folder: Path, pair) -> Iterator[Path]:
    """A disk of 8 MB, with older results, and what the commands read beside it."""
    disk = folder / "disk"
    disk.mkdir()
    mount = [str(_MOUNT), "-t", "tmpfs", "-o", "size=8m", "none", str(disk)]
    if not _MOUNT or not _UNMOUNT or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs to be allowed to mount a file system")
    try:
        if os.statvfs(disk).f_frsize != 4096:
            pytest.skip("needs pages of 4 kB, by which the room that is left is measured out")
        yield disk
    finally:
        subprocess.run([str(_UNMOUNT), "-l", str(disk)], check=True)


@pytest.fixture
def command(run, disk, monkeypatch, request) -> list[str]:
    """A command that writes to the disk; its older results are there."""
    monkeypatch.setattr(registration, "in_workers", cohorts.in_this_process)
    write_table("pairs.csv", pairs("a", "b"))
    write_table("prepare.csv", [{"fixed": "fixed.nii.gz", "moving": "moving.nii.gz"}])
    write_recipes()
    name = request.getfixturevalue("name")
    if name in ("jacobian", "convert", "report"):
        images = ["fixed.nii.gz", "moving.nii.gz", "-o", "small/"]
        assert run("register", *images, "--spacing", "24", *QUICK)[0] == 0
        Path("small/Report.png").unlink(missing_ok=True)
    for file in OLDER[name]:
        path = disk / "out" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("older")
    quick = QUICK if name in ("register", "cohort") else []
    return [*COMMANDS[name][1].split(), *quick]


def fill(disk: Path, but_kilobytes: int) -> Path:
    """A file that takes the room there is."""
    status = os.statvfs(disk)
    file = disk / "fill"
    file.write_bytes(bytes(status.f_bavail * status.f_frsize - 1024 * but_kilobytes))
    return file


def files(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if data is not None}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_is_full(run, disk, command, name):
    filled = fill(disk, COMMANDS[name][0])
    before = files(disk)
    code, out, err = run(*command)
    after = files(disk)
    assert code == 2 and "Exception in thread" not in err
    message = sentence(err.splitlines(keepends=True)[-1])
    if name == "cohort":
        assert message == "2 of 2 cases failed, see disk/out/results.csv"
        assert all(f"{case} failed: disk/out/{case}/" in out for case in "ab") and FULL in out
    else:
        assert "cannot be written" in message and message.endswith(FULL)
    assert {file: after[file] for file in before} == before
    added = {file for file in after.keys() - before if not file.startswith("out/events.")}
    allowed = {
        "cohort": TABLES,
        "prepare": {"out/images/fixed.nii.gz"},
        "fit": {"out/config.yaml", "out/hparams.yaml"},
    }
    assert added <= allowed.get(name, set())
    filled.unlink()
    if name not in ("predict", "test", "fit"):  # which take longer
        assert run(*command)[0] == 0
        assert all(data != b"older" for data in files(disk).values())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_is_read_only(run, disk, command, name):
    (disk / "out" / "manifest.json").write_text("older")
    subprocess.run([str(_MOUNT), "-o", "remount,ro", str(disk)], check=True)
    before = contents(disk)
    code, out, err = run(*command)
    assert code == 2 and out == ""
    assert sentence(err.splitlines(keepends=True)[-1]).startswith("the output folder disk/out")
    assert contents(disk) == before


@pytest.mark.parametrize("name", ["register", "convert"])
def test_a_disk_with_no_room_for_more_files(run, disk, command, name):
    """Full by number, as where a quota says so."""
    options = f"remount,nr_inodes={len(contents(disk)) + 1}"
    subprocess.run([str(_MOUNT), "-o", options, str(disk)], check=True)
    before = contents(disk)
    code, out, err = run(*command)
    assert code == 2 and out == "" and FULL in sentence(err)
    assert contents(disk) == before
