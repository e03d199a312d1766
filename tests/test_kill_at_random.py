"""A few kills of a registration; ``python tests/kill_at_random.py`` has many, of five commands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import kill_at_random


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that can fork")
def test_what_a_killed_registration_leaves():
    done = subprocess.run(
        [sys.executable, kill_at_random.__file__, "register", "--kills", "2"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    row = done.stdout.splitlines()[-1].split(" | ")
    assert [row[0], row[1], row[3], row[4]] == ["| register", "2", "0", "2 |"]


def test_what_is_damaged_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = kill_at_random.OUT / "case"
    case.mkdir(parents=True)
    for name, text in (("Report.json", "{}"), ("Warped.nii.gz", "half"), ("results.csv", "a,b\n1")):
        (case / name).write_text(text)
    (case / ".hidden.json").write_text("{")
    found = [line.split(": ")[:2] for line in kill_at_random.damaged()]
    assert [name for name, _ in found] == [
        f"out/case/{n}" for n in ("Warped.nii.gz", "results.csv", "Report.json", "Report.json")
    ]
    assert found[-1][1] == "without Report.png" and found[-2][1] == "without 1Warp.nii.gz"
