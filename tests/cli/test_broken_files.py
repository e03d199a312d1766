"""Each file of a corpus of broken ones gives one sentence and code 2, and nothing is written.

(How long each takes, and how much memory: ``python tests/broken_files.py``.)
"""

from __future__ import annotations

import os

import pytest

from broken_files import CORPUS, deny, write_whole_files
from broken_makers import GB
from command_line import contents
from voxelopt_train import input_files


@pytest.mark.parametrize("kind", CORPUS)
def test_broken_file(run, folder, monkeypatch, kind):
    broken = CORPUS[kind]
    monkeypatch.setattr(input_files, "available_memory", lambda: GB)
    monkeypatch.setattr(os, "access", deny)
    write_whole_files()
    broken.write(folder / broken.name)
    before = contents(folder)
    code, out, err = run(*broken.arguments())
    assert (code, out) == (2, "")
    assert broken.says in broken.sentence(err)
    assert contents(folder) == before
