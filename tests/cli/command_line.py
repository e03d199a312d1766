"""What the tests of the command line share: its files, and how its answers are read."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Image

from voxelopt_train.phantom import Pair

AFFINE = np.diag([8.0, 8.0, 8.0, 1.0])
ALWAYS = {"Warped.nii.gz", "1Warp.nii.gz", "Report.png", "Report.json"}
EXTRAS = {"1InverseWarp.nii.gz", "Entropy.nii.gz", "Jacobian.nii.gz", "LogJacobian.nii.gz"}
LABELS = ["--fixed-labels", "fixed_labels.nii.gz", "--moving-labels", "moving_labels.nii.gz"]
# Commands that are about other things than speed and quality of the registration.
QUICK = ["--features", "raw", "--layer.levels", "2"]

Run = Callable[..., tuple[int, str, str]]


def write_pair(pair: Pair) -> None:
    """Two images and their label maps, in the current folder."""
    for name in ("fixed", "moving", "fixed_labels", "moving_labels"):
        image = getattr(pair, name)
        Nifti1Image(image.data.numpy(), image.grid.affine).to_filename(f"{name}.nii.gz")


def sentence(err: str) -> str:
    assert err.startswith("voxelopt: ") and err.endswith("\n") and err.count("\n") == 1, err
    return err.removeprefix("voxelopt: ").removeprefix("error: ")[:-1]


def contents(folder: Path) -> dict[str, bytes | None]:
    """All files and folders below, hidden ones too, with what the files hold.

    (Of one that may not be read, or only pretends to be large, its length.)
    """

    def content(path: Path) -> bytes | None:
        if not path.is_file():
            return None
        size = path.stat().st_size
        readable = size < 2**28 and path.stat().st_mode & stat.S_IRUSR
        return path.read_bytes() if readable else str(size).encode()

    return {str(path.relative_to(folder)): content(path) for path in folder.rglob("*")}


def names(folder: str | Path) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def volume(path: str | Path) -> np.ndarray:
    return np.asarray(Nifti1Image.from_filename(path).dataobj)


def strict_json(path: str | Path) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(Path(path).read_text(), parse_constant=refuse)
