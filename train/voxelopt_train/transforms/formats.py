"""Transform files by the name of their format, or by what they say of themselves."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid
from voxelopt_train.nifti_names import is_nifti
from voxelopt_train.transforms import flirt, fsl, itk_file
from voxelopt_train.transforms.flirt import is_matrix, read_flirt, write_flirt
from voxelopt_train.transforms.fsl import read_fsl, write_fsl
from voxelopt_train.transforms.itk import read_itk, write_itk
from voxelopt_train.transforms.itk_field import read_itk_field, write_displacement_field
from voxelopt_train.transforms.learn2reg import read_learn2reg, write_learn2reg
from voxelopt_train.transforms.maps import (
    AffineTransform,
    DisplacementField,
    Transform,
    as_displacement_field,
    flatten,
)
from voxelopt_train.transforms.nifti_displacement import (
    INTENT_DISPLACEMENT,
    read_nifti_displacement,
    write_nifti_displacement,
)
from voxelopt_train.transforms.niftyreg import INTENT_NAME, read_niftyreg, write_niftyreg
from voxelopt_train.transforms.vectors import intent_of

# What `voxelopt convert --to` writes.
FORMATS = {
    "itk": "ITK and ANTs: displacement field (.nii.gz), composite (.h5, .tfm), linear (.mat)",
    "nifti": "displacements in RAS mm, intent 1006 (.nii.gz)",
    "niftyreg-def": "NiftyReg's deformation field (.nii.gz)",
    "niftyreg-disp": "NiftyReg's displacement field (.nii.gz)",
    "fsl": "FSL's relative warp (.nii.gz), FLIRT's matrix (.mat)",
    "learn2reg": "displacements in voxels (.nii.gz), or at half resolution (.npz)",
}
_READERS = ("itk", "nifti", "niftyreg", "fsl", "learn2reg")


def read_transform(
    spec: str | Path, fixed: Grid | None = None, moving: Grid | None = None
) -> Transform:
    """Read a transform file of any format.

    Args:
        spec: a file of ITK (``.mat``, ``.tfm``, ``.txt``, ``.h5``, ``.nii.gz``), a displacement
            field that says in its header what it is (intent 1006; NiftyReg; FSL), or a matrix of
            FLIRT (a ``.mat`` file of plain text). Learn2Reg's does not say: ``learn2reg:FILE``, and
            so with any other format's name to insist on it. As for antsApplyTransforms,
            ``[FILE,1]`` is the inverse; of a displacement field it is found by iteration, of a
            composite part by part.
        fixed: grid of the fixed image, which FLIRT's and Learn2Reg's files need.
        moving: grid of the image to be warped, which FSL's and Learn2Reg's files need. As the map
            that is returned has them: in the file of ``[FILE,1]`` it is the other way round.

    Returns:
        A map of points of the fixed world to points of the moving world, RAS mm.

    Raises:
        InputError: the file is missing, damaged or of a kind that is not known, or a grid that it
            needs is not given.
    """
    path, name, inverse = _parsed(spec)
    sides = _sides(fixed, moving)
    transform = _read(path, name or _format_of(path), *(sides[::-1] if inverse else sides))
    return transform.inverse() if inverse else transform


def transform_file(spec: str | Path) -> Path:
    """The file that `read_transform` reads."""
    return _parsed(spec)[0]


def _parsed(spec: str | Path) -> tuple[Path, str, bool]:
    """File, name of the format if one is given, and whether its inverse is meant."""
    bracketed = re.fullmatch(r"\[(.+),\s*([01])\]", str(spec))
    text = bracketed[1] if bracketed else str(spec)
    name, colon, rest = text.partition(":")
    known = bool(colon) and name in _READERS
    inverse = bracketed is not None and bracketed[2] == "1"
    return Path(rest if known else text), name if known else "", inverse


def _format_of(path: Path) -> str:
    if not is_nifti(path):
        if not is_matrix(path):
            return "itk"
        if path.suffix != flirt.SUFFIX:  # NiftyReg and others write such text too
            raise InputError(
                f"transform {path}: a matrix that does not tell its format; one of FLIRT wants it "
                "named, as fsl:FILE"
            )
        return "fsl"
    intent = intent_of(path)
    if intent.name == INTENT_NAME:
        return "niftyreg"
    named = {INTENT_DISPLACEMENT: "nifti", **dict.fromkeys(fsl.INTENTS, "fsl")}
    return named.get(intent.code, "itk")


class _Side(NamedTuple):
    """An image at one end of a transform, if it is known, and how the user gives it."""

    grid: Grid | None
    role: str
    option: str

    def needed(self, path: Path) -> Grid:
        if self.grid is None:
            raise InputError(
                f"transform {path}: needs the geometry of the {self.role} image, "
                f"as voxelopt convert {self.option} FILE"
            )
        return self.grid


def _sides(fixed: Grid | None, moving: Grid | None) -> tuple[_Side, _Side]:
    return _Side(fixed, "fixed", "--reference"), _Side(moving, "moving", "--moving")


def _read(path: Path, name: str, fixed: _Side, moving: _Side) -> Transform:
    if name == "fsl" and is_nifti(path):
        return read_fsl(path, moving.needed(path))
    if name == "fsl":
        return read_flirt(path, fixed.needed(path), moving.needed(path))
    if name == "learn2reg":
        return read_learn2reg(path, fixed.needed(path), moving.needed(path))
    if name == "itk" and not is_nifti(path):
        return read_itk(path)
    readers = {
        "itk": read_itk_field,
        "nifti": read_nifti_displacement,
        "niftyreg": read_niftyreg,
    }
    return readers[name](path)


def write_transform(
    path: str | Path,
    transforms: Sequence[Transform],
    to: str = "itk",
    fixed: Grid | None = None,
    moving: Grid | None = None,
) -> None:
    """Write transforms as one file.

    ITK's ``.h5``, ``.tfm``, ``.txt`` and ``.mat`` keep them as they are, part by part, unless a
    displacement field is to be inverted; FSL's ``.mat`` holds a matrix. All other files hold one
    displacement for every voxel of the fixed grid.

    Args:
        path: target; it appears only once it is complete.
        transforms: from the fixed to the moving world, the first first.
        to: one of `FORMATS`.
        fixed: grid of the field; None takes that of the first transform, a displacement field.
            FLIRT's matrices need that of the fixed image.
        moving: grid of the moving image, which FSL and Learn2Reg need.

    Raises:
        InputError: the file cannot be written, its suffix does not fit the format, the transforms
            do not fit into it, or it needs a grid.
    """
    path = Path(path)
    if to not in FORMATS:
        raise InputError(f"the format must be one of {', '.join(FORMATS)}, got {to}")
    sides = _sides(fixed, moving)
    if to == "fsl" and path.suffix == flirt.SUFFIX:
        write_flirt(path, transforms, *(side.needed(path) for side in sides))
        return
    if to in ("fsl", "learn2reg"):
        sides[1].needed(path)
    parts = flatten(transforms)
    as_parts = to == "itk" and path.suffix in itk_file.SUFFIXES
    plain = all(isinstance(part, AffineTransform | DisplacementField) for part in parts)
    if as_parts and plain:
        write_itk(path, parts)
        return
    if fixed is None and parts and isinstance(parts[0], DisplacementField):
        fixed = parts[0].grid
    if fixed is None:
        raise InputError(
            "a displacement field needs the grid of a --reference image: give the fixed one; only "
            "a first transform that is a displacement field brings its own"
        )
    field = as_displacement_field(parts, fixed)
    writers: dict[str, Callable[..., Any]] = {
        "itk": (lambda: write_itk(path, [field]))
        if as_parts
        else (lambda: write_displacement_field(path, field)),
        "nifti": lambda: write_nifti_displacement(path, field),
        "niftyreg-def": lambda: write_niftyreg(path, field, "deformation"),
        "niftyreg-disp": lambda: write_niftyreg(path, field, "displacement"),
        "fsl": lambda: write_fsl(path, field, fixed, sides[1].needed(path)),
        "learn2reg": lambda: write_learn2reg(path, field, moving),
    }
    writers[to]()


def write_affine(path: str | Path, transform: AffineTransform) -> None:
    """Write an ITK file: MATLAB v4 (``.mat``, as antsRegistration), HDF5 or text (``.tfm``).

    Raises:
        InputError: the file cannot be written or has another suffix.
    """
    write_itk(Path(path), [transform])
