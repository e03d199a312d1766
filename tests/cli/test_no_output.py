"""Where the results cannot be written, or work is broken off, nothing is left half done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from nibabel.nifti1 import Nifti1Image

from command_line import (
    QUICK,
)
from voxelopt_train import commands, images, outputs
from voxelopt_train.cli import main


def every_command(output: str) -> Iterator[list[str]]:
    yield ["register", "fixed.nii.gz", "moving.nii.gz", "-o", f"{output}/", *QUICK]
    yield ["demo", "-o", f"{output}/", *QUICK]
    yield ["apply", "moving.nii.gz", "-r", "fixed.nii.gz", "-o", f"{output}/a.nii.gz"]


def test_output_folder_with_a_file_in_the_way(refused, monkeypatch, pair):
    monkeypatch.setattr(commands, "phantom_pair", lambda seed: pair)
    Path("file").write_text("mine")
    for output in ("file", "file/below"):
        for command in every_command(output):
            message = refused(*command)
            assert f"output folder {output} cannot be made: file is a file" in message


def test_output_folder_without_permission(refused, monkeypatch, pair):
    """Access is denied to a superuser by pretence only, to others in earnest."""
    monkeypatch.setattr(commands, "phantom_pair", lambda seed: pair)
    Path("locked").mkdir(mode=0o555)
    if os.access("locked", os.W_OK):
        granted = os.access
        monkeypatch.setattr(
            os, "access", lambda path, mode: "locked" not in str(path) and granted(path, mode)
        )
    for output in ("locked", "locked/below"):
        for command in every_command(output):
            assert "no permission" in refused(*command)


@pytest.mark.parametrize(
    ("fixed", "output", "expected"),
    [
        ("fixed.nii.gz", f"there/{'a' * 250}_", "_Warped.nii.gz cannot be written: File name too"),
        ("fixed.nii.gz", f"{'a' * 300}/", "aaa/Warped.nii.gz cannot be written: File name too l"),
        ("fixed.nii.gz", "there/", "there/Warped.nii.gz cannot be written: there is a folder of"),
        ("fixed.nii.gz", "dangling/", "dangling cannot be made: dangling is a link to nowhere"),
        ("fixed.nii.gz", "/proc/x/", "the output folder /proc/x cannot be written: "),
        ("sheared.nii.gz", "out/", "sheared.nii.gz: its grid is sheared, which ITK and ANTs"),
    ],
)
def test_what_could_not_be_written_is_told_before_the_work(
    refused, monkeypatch, pair, fixed, output, expected
):
    monkeypatch.setattr(commands, "register", Mock(side_effect=AssertionError("it began")))
    Path("there/Warped.nii.gz").mkdir(parents=True)
    Path("there/Report.json").write_text("old")
    Path("dangling").symlink_to("nowhere")
    sheared = pair.fixed.grid.affine @ (np.eye(4) + 0.3 * np.eye(4, k=1) * [0, 1, 0, 0])
    Nifti1Image(pair.fixed.data.numpy(), sheared).to_filename("sheared.nii.gz")
    assert expected in refused("register", fixed, "moving.nii.gz", "-o", output)


@pytest.mark.parametrize(
    ("error", "expected", "code"),
    [
        (OSError(28, "No space left on device"), "to out: No space left on device", 2),
        (KeyboardInterrupt(), "interrupted, nothing was written", 130),
    ],
)
@pytest.mark.parametrize("command", ["register", "demo"])
@pytest.mark.parametrize("older", [False, True])
def test_failure_while_writing(refused, monkeypatch, pair, command, error, expected, code, older):
    monkeypatch.setattr(commands, "phantom_pair", lambda seed: pair)
    if older:
        Path("out").mkdir()
        for name in ("Warped.nii.gz", "fixed.nii.gz"):
            Path("out", name).write_text("old")

    def fail(*_):
        raise error

    # Warped.nii.gz and the demo's phantoms are complete by then.
    monkeypatch.setattr(outputs, "write_displacement_field", fail)
    files = ["fixed.nii.gz", "moving.nii.gz"] if command == "register" else []
    assert expected in refused(command, *files, "-o", "out/", *QUICK, expected_code=code)


def test_a_message_names_the_file_that_was_asked_for(refused, monkeypatch, no_picture):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Nifti1Image, "to_filename", fail)
    message = refused("register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/", *QUICK)
    assert message == "out/Warped.nii.gz cannot be written: No space left on device"


@pytest.mark.parametrize("command", ["register", "apply"])
def test_interruption_while_working(refused, monkeypatch, command):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, {"register": "register", "apply": "resample"}[command], interrupt)
    arguments = next(c for c in every_command("out") if c[0] == command)
    assert refused(*arguments, expected_code=130) == "interrupted, nothing was written"


@pytest.mark.parametrize(
    ("error", "lever"),
    [
        (MemoryError(), "--spacing"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), "--spacing"),
        (torch.OutOfMemoryError("CUDA out of memory."), "cost_dtype), and, in training, checkp"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "--spacing"),
    ],
)
def test_out_of_memory_says_what_to_do(refused, monkeypatch, error, lever):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(commands, "register", fail)
    message = refused("register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/")
    assert "not enough memory" in message and lever in message


def test_a_bug_is_not_hidden_as_bad_input(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(commands, "register", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        main(["register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/"])


def test_what_the_system_refuses_is_told_with_its_file(refused, monkeypatch):
    def fail(*_, **__):
        raise OSError(30, "Read-only file system", "out")

    monkeypatch.setattr(commands, "register", fail)
    message = refused("register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/")
    assert message == "out: Read-only file system"


def test_a_file_that_is_gone_while_it_is_read(refused, monkeypatch):
    """Between its header and its voxels."""
    gone = FileNotFoundError(2, "No such file or directory", "moving.nii.gz")
    monkeypatch.setattr(images, "ImageOpener", Mock(side_effect=gone))
    message = refused("register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/")
    assert message == "fixed.nii.gz: the file was removed while it was read"
