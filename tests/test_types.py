"""Every public name has a type, so that type checkers and editors of users know it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyright")


@pytest.mark.parametrize("package", ["voxelopt_layers", "voxelopt_models", "voxelopt_train"])
def test_public_names_have_types(package):
    command = [sys.executable, "-m", "pyright", "--ignoreexternal", "--outputjson"]
    # With --verifytypes pyright asks the first Python that it finds, whatever --pythonpath says.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*command, "--verifytypes", package],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path},
    )
    found = json.loads(done.stdout)["typeCompleteness"]
    unknown = [symbol["name"] for symbol in found["symbols"] if not symbol["isTypeKnown"]]
    assert unknown == []
    assert found["exportedSymbolCounts"]["withKnownType"] > 50
    assert found["completenessScore"] == 1
