"""Temporary folders: those of the living stay, those of the dead go."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from command_line import contents
from voxelopt_train import temporary
from voxelopt_train.files import all_or_none, atomic_output
from voxelopt_train.temporary import InUseError, remove_abandoned, temporary_folder


def abandoned(parent: Path, name: str = "0badcafe") -> Path:
    """What a process leaves that is killed: its lock is a file, which nobody holds."""
    folder = parent / f".voxelopt-{name}"
    (folder / "files" / "below").mkdir(parents=True)
    (folder / "lock").touch()
    (folder / "files" / "below" / "half.nii").write_text("half")
    return folder


def test_what_is_in_use_stays_and_what_was_left_goes(tmp_path):
    (tmp_path / ".voxelopt-aaaa").mkdir()  # of a process that was killed as it began
    (tmp_path / ".voxelopt-mine" / "notes").mkdir(parents=True)  # not one of these
    for name in ("0badcafe", "job"):
        abandoned(tmp_path, name)
    with temporary_folder(tmp_path) as first:
        (first / "a").touch()
        with temporary_folder(tmp_path) as second:
            assert second != first and list(second.iterdir()) == []
        assert (first / "a").exists()
        remove_abandoned(tmp_path)
        assert (first / "a").exists()
        assert len(list(tmp_path.iterdir())) == 2
    assert contents(tmp_path) == {".voxelopt-mine": None, ".voxelopt-mine/notes": None}


def test_what_one_process_may_do_at_a_time(tmp_path):
    with temporary_folder(tmp_path, "job") as files:
        (files / "a").touch()
        with pytest.raises(InUseError), temporary_folder(tmp_path, "job"):
            pass
        assert (files / "a").exists()
        with temporary_folder(tmp_path, "other"):
            pass
    with temporary_folder(tmp_path, "job") as files:
        assert list(files.iterdir()) == []
    assert contents(tmp_path) == {}


def test_a_folder_that_another_process_takes_for_abandoned(tmp_path, monkeypatch):
    """Between its making and its locking: then it is made once more."""
    locked = []

    class Lock(temporary.FileLock):
        def acquire(self, *arguments, **options):
            taken = super().acquire(*arguments, **options)
            locked.append(self.lock_file)
            if len(locked) == 1:
                shutil.rmtree(Path(self.lock_file).parent)
            return taken

    monkeypatch.setattr(temporary, "FileLock", Lock)
    with temporary_folder(tmp_path) as folder:
        (folder / "a").touch()
        assert len(locked) == 2
        remove_abandoned(tmp_path)
        assert (folder / "a").exists()
    assert contents(tmp_path) == {}


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def acquire(*_, **__):
        raise OSError(37, "No locks available")

    left = abandoned(tmp_path)
    monkeypatch.setattr(temporary.FileLock, "acquire", acquire)
    with temporary_folder(tmp_path) as folder:
        (folder / "a").touch()
    assert list(tmp_path.iterdir()) == [left]  # nobody can tell whether it is in use
    with pytest.raises(InUseError), temporary_folder(tmp_path, "0badcafe"):
        pass


def test_each_file_and_folder_of_results_removes_what_was_left_beside_it(tmp_path):
    abandoned(tmp_path)
    with atomic_output(tmp_path / "a.txt") as path:
        assert not (tmp_path / "a.txt").exists()
        path.write_text("a")
    assert contents(tmp_path) == {"a.txt": b"a"}
    abandoned(tmp_path)  # of a process that had just made the folder
    (tmp_path / "out").mkdir()
    abandoned(tmp_path / "out")
    with all_or_none(tmp_path / "out") as folder:
        (folder / "b.txt").write_text("b")
    assert contents(tmp_path) == {"a.txt": b"a", "out": None, "out/b.txt": b"b"}


def test_a_folder_that_cannot_be_made_leaves_nothing(tmp_path, monkeypatch):
    mkdir = Path.mkdir

    def full(path: Path, *arguments, **options):
        if path.name == "files":
            raise OSError(28, "No space left on device", str(path))
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OSError, match="No space"), temporary_folder(tmp_path):
        pass
    assert contents(tmp_path) == {}
