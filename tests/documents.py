"""What tests of documents share: their code, and the images that they speak of."""

from __future__ import annotations

import re
from pathlib import Path

from voxelopt_train.images import write_nifti
from voxelopt_train.phantom import phantom_pair


def blocks(text: str, language: str) -> list[str]:
    """The blocks of a Markdown text that are marked as of this language, and nothing else."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def write_images(folder: Path) -> None:
    """``fixed.nii.gz``, ``moving.nii.gz`` and ``moving_labels.nii.gz``, of two phantoms."""
    pair = phantom_pair(0, (40, 32, 36), 8.0)
    for name in ("fixed", "moving", "moving_labels"):
        image = getattr(pair, name)
        write_nifti(folder / f"{name}.nii.gz", image.data, image.grid.affine)
