"""ITK files of linear transforms: text (``.tfm``, ``.txt``) and MATLAB v4 (``.mat``, as in ANTs).

ITK stores a type, its parameters and fixed parameters, and maps ``y = M (x - c) + c + t`` in LPS
millimetres, with the centre c among the fixed parameters. Matrices in this file are 4x4, LPS mm.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from scipy.io import loadmat, savemat
from scipy.spatial.transform import Rotation

from voxelopt_train.errors import InputError
from voxelopt_train.files import atomic_output

_HEADER = "#Insight Transform File V1.0"
_PARAMETERS = {  # number of parameters of each type that is read
    "AffineTransform": 12,
    "MatrixOffsetTransformBase": 12,
    "Euler3DTransform": 6,
    "VersorRigid3DTransform": 6,
    "Similarity3DTransform": 7,
    "TranslationTransform": 3,
    "IdentityTransform": 0,
}


def read_itk_affine(path: Path) -> np.ndarray:
    """Read a linear transform, or a composite of such in a text file.

    Returns:
        ``(4, 4)`` float64, LPS mm.

    Raises:
        InputError: the file is missing or damaged, or holds another type of transform.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"transform {path}: cannot be read, {error.strerror}") from error
    is_text = content.startswith(_HEADER.encode())
    entries = _parse_text(content.decode("utf-8", "replace"), path) if is_text else _load_mat(path)
    # A composite lists what ITK applies last first: the product in the order of the file.
    matrix = np.eye(4)
    for kind, parameters, fixed in entries:
        matrix = matrix @ _to_matrix(kind, parameters, fixed, path)
    return matrix


def write_itk_affine(path: Path, matrix: np.ndarray) -> None:
    """Write a ``(4, 4)`` LPS mm matrix as an ``AffineTransform`` with its centre at the origin.

    Raises:
        InputError: the file cannot be written, or its suffix is not ``.mat``, ``.tfm``, ``.txt``.
    """
    kind = "AffineTransform_double_3_3"
    parameters = np.concatenate([matrix[:3, :3].ravel(), matrix[:3, 3]])
    if path.suffix not in (".mat", ".tfm", ".txt"):
        raise InputError(f"{path} cannot be written: expected a name ending in .mat, .tfm or .txt")
    with atomic_output(path) as temporary:
        if path.suffix == ".mat":
            arrays = {kind: parameters[:, None], "fixed": np.zeros((3, 1))}
            savemat(temporary, arrays, format="4")
        else:
            numbers = " ".join(repr(p) for p in parameters.tolist())
            temporary.write_text(
                f"{_HEADER}\n#Transform 0\nTransform: {kind}\n"
                f"Parameters: {numbers}\nFixedParameters: 0 0 0\n"
            )


def _parse_text(text: str, path: Path) -> list[tuple[str, np.ndarray, np.ndarray]]:
    entries = []
    for block in re.split(r"^Transform:", text, flags=re.MULTILINE)[1:]:
        kind, _, rest = block.partition("\n")
        numbers = dict(re.findall(r"^(\w+):(.*)$", rest, flags=re.MULTILINE))
        try:
            values = [
                np.array(numbers.get(key, "").split(), dtype=np.float64)
                for key in ("Parameters", "FixedParameters")
            ]
        except ValueError as error:
            raise InputError(f"transform {path}: damaged, {error}") from error
        entries.append((kind.strip(), *values))
    if entries and entries[0][0].startswith("CompositeTransform"):
        return entries[1:]
    if len(entries) != 1:
        raise InputError(f"transform {path}: expected one transform, found {len(entries)}")
    return entries


def _load_mat(path: Path) -> list[tuple[str, np.ndarray, np.ndarray]]:
    try:
        arrays = loadmat(str(path), appendmat=False)
        fixed = arrays["fixed"].ravel().astype(np.float64)
        (kind,) = (key for key in arrays if key != "fixed" and not key.startswith("__"))
        return [(kind, arrays[kind].ravel().astype(np.float64), fixed)]
    except Exception as error:  # on files of another kind loadmat raises almost anything
        raise InputError(
            f"transform {path}: not an ITK transform file (.mat, .tfm, .txt), or a damaged one"
        ) from error


def _to_matrix(kind: str, parameters: np.ndarray, fixed: np.ndarray, path: Path) -> np.ndarray:
    name, *dimensions = re.sub("_(double|float)", "", kind).split("_")
    if name not in _PARAMETERS or dimensions != ["3", "3"]:
        raise InputError(
            f"transform {path}: cannot use {kind}, expected a 3-D linear transform such as "
            "AffineTransform or Euler3DTransform"
        )
    if len(parameters) != _PARAMETERS[name] or not np.isfinite(parameters).all():
        raise InputError(
            f"transform {path}: damaged, {kind} has {_PARAMETERS[name]} finite parameters"
        )
    linear, translation = _linear_part(name, parameters, fixed)
    centre = fixed[:3] if len(fixed) >= 3 else np.zeros(3)
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = centre + translation - linear @ centre
    return matrix


def _linear_part(name: str, p: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """M and t from the parameters of each type."""
    if name == "IdentityTransform":
        return np.eye(3), np.zeros(3)
    if name == "TranslationTransform":
        return np.eye(3), p
    if name == "Euler3DTransform":
        x, y, z = p[:3]
        if len(fixed) > 3 and fixed[3]:  # the flag ComputeZYX
            return Rotation.from_euler("ZYX", [z, y, x]).as_matrix(), p[3:]
        return Rotation.from_euler("ZXY", [z, x, y]).as_matrix(), p[3:]
    if name in ("VersorRigid3DTransform", "Similarity3DTransform"):
        versor = [*p[:3], np.sqrt(max(1 - p[:3] @ p[:3], 0))]
        scale = p[6] if name == "Similarity3DTransform" else 1.0
        return scale * Rotation.from_quat(versor).as_matrix(), p[3:6]
    return p[:9].reshape(3, 3), p[9:]
