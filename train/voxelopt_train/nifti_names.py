"""What the files of NIfTI images are called.

``.nii`` or ``.nii.gz``, and what nibabel takes for these: ``.NII``, ``.NII.GZ``, ``.nii.GZ``. In
the place of ``a.Nii`` it would open, or write, ``a.nii``.
"""

from __future__ import annotations

import re
from pathlib import Path

from voxelopt_train.errors import InputError

_SUFFIX = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_SPELLING = re.compile(r"\.(nii|NII)(\.[gG][zZ])?$")


def is_nifti(path: str | Path) -> bool:
    """Whether a file is called as a NIfTI image, in small letters, capitals or both."""
    return _SUFFIX.search(Path(path).name) is not None


def check_nifti_name(path: str | Path, name: str) -> None:
    """Raise InputError, with what ``name`` calls it, unless nibabel reads and writes this name."""
    if not _SPELLING.search(Path(path).name):
        raise InputError(f"{name}: expected a name ending in .nii or .nii.gz")


def nifti_stem(name: str) -> str:
    """The name of a file, or a path, without that suffix."""
    return _SUFFIX.sub("", name)
