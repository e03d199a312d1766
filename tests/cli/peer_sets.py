"""Stand-ins for the tools that `voxelopt peers` compares, and how its tables are read."""

from __future__ import annotations

import csv
import json
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from voxelopt_train.benchmark import peer_pairs, peers
from voxelopt_train.benchmark.peer_tools import TOOLS
from voxelopt_train.phantom import deformed_pair, phantom_pair

SMALL = {"shape": (28, 22, 24), "spacing_mm": 12.0}
# Made once for all tests here: a phantom takes a second.
small_pair, small_deformed_pair = (
    cache(partial(make, **SMALL)) for make in (phantom_pair, deformed_pair)
)
# What stands in for two tools: one finds a shift of a voxel, the other fails when it is told to.
SCRIPT = """
import json, os, sys
import numpy as np
from nibabel.nifti1 import Nifti1Image
spec = json.loads(sys.argv[1])
images = [Nifti1Image.from_filename(spec[name]) for name in ("fixed", "moving")]
with open("log", "a") as log:
    print(json.dumps([spec["tool"], *(image.affine.tolist() for image in images)]), file=log)
if spec["tool"] == "unsteady" and os.path.exists("fail"):
    os.remove("fail")
    raise RuntimeError("no [luck]")
u = np.zeros((1, 3, *images[0].shape), np.float32)
u[:, 0] = 1
np.savez(spec["output"], displacement=u, seconds=1.5, peak_mb=200.0)
"""


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict:
    """Two tools that take no time, and phantoms of few voxels."""
    Path("tool.py").write_text(SCRIPT)
    tool = next(iter(TOOLS.values()))
    tools = {
        name: tool._replace(settings=f"as {name}", preset=None)
        for name in ("Shift, one", "unsteady")
    }
    monkeypatch.setattr(peers, "peer_tools", SimpleNamespace(__file__=str(folder / "tool.py")))
    monkeypatch.setattr(peers, "TOOLS", tools)
    monkeypatch.setattr(peer_pairs, "phantom_pair", small_pair)
    monkeypatch.setattr(peer_pairs, "deformed_pair", small_deformed_pair)
    return tools


def log() -> list[list]:
    """The runs since it was asked last: tool, and the affines of both images."""
    lines = Path("log").read_text().splitlines() if Path("log").exists() else []
    Path("log").unlink(missing_ok=True)
    return [json.loads(line) for line in lines]


def lines(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cells(text: str, row: str) -> list[list[str]]:
    """The cells of each row of this name in Markdown tables."""
    return [
        [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.splitlines()
        if line.startswith(f"| {row} |")
    ]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())
