"""Every public name has a type, so that type checkers and editors of users know it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("pyright")


@pytest.mark.parametrize("package", ["voxelopt_layers", "voxelopt_models", "voxelopt_train"])
def test_public_names_have_types(package):
    options = ["--pythonpath", sys.executable, "--ignoreexternal", "--outputjson"]
    command = [sys.executable, "-m", "pyright", *options, "--verifytypes", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["typeCompleteness"]
    unknown = [symbol["name"] for symbol in found["symbols"] if not symbol["isTypeKnown"]]
    assert unknown == []
    assert found["exportedSymbolCounts"]["withKnownType"] > 50
    assert found["completenessScore"] == 1
