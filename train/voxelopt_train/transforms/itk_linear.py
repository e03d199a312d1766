"""ITK's linear transforms in 3-D: what the parameters of each type mean.

All of them map ``y = M (x - c) + c + t``, in LPS mm. The centre c is among the fixed parameters, of
the centred types among the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

_NONE = slice(0, 0)


class _Type(NamedTuple):
    """Where the parameters of a type are, and how M comes of them and the fixed ones."""

    size: int
    linear: Callable[[np.ndarray, np.ndarray], np.ndarray]
    translation: slice = _NONE
    center: slice = _NONE


def _identity(p: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    return np.eye(3)


def _matrix(p: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    return p[:9].reshape(3, 3)


def _euler(p: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    x, y, z = p[:3]
    if len(fixed) > 3 and fixed[3]:  # the flag ComputeZYX
        return Rotation.from_euler("ZYX", [z, y, x]).as_matrix()
    return Rotation.from_euler("ZXY", [z, x, y]).as_matrix()


def _versor(p: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    return Rotation.from_quat([*p[:3], np.sqrt(max(1 - p[:3] @ p[:3], 0))]).as_matrix()


def _quaternion(p: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    axis, w = p[:3], p[3]  # which ITK takes as they are, of whatever length
    cross = np.cross(axis, np.eye(3)).T
    return (w * w - axis @ axis) * np.eye(3) + 2 * np.outer(axis, axis) + 2 * w * cross


def _similarity(p: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    return p[6] * _versor(p, fixed)


def _scale(p: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    return np.diag(p)


def _log_scale(p: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    return np.diag(np.exp(p))


def _scale_versor(p: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    return _versor(p, fixed) + np.diag(p[6:9] - 1)  # a sum, and no product


def _scale_skew_versor(p: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    skew = np.zeros((3, 3))
    skew[~np.eye(3, dtype=bool)] = p[9:15]
    return _scale_versor(p, fixed) + skew


def _compose_scale_skew_versor(p: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    skew = np.eye(3)
    skew[np.triu_indices(3, 1)] = p[9:12]
    return _versor(p, fixed) @ np.diag(p[6:9]) @ skew


_TYPES = {
    "AffineTransform": _Type(12, _matrix, slice(9, 12)),
    "CenteredAffineTransform": _Type(15, _matrix, slice(12, 15), slice(9, 12)),
    "CenteredEuler3DTransform": _Type(9, _euler, slice(6, 9), slice(3, 6)),
    "ComposeScaleSkewVersor3DTransform": _Type(12, _compose_scale_skew_versor, slice(3, 6)),
    "Euler3DTransform": _Type(6, _euler, slice(3, 6)),
    "FixedCenterOfRotationAffineTransform": _Type(12, _matrix, slice(9, 12)),
    "IdentityTransform": _Type(0, _identity),
    "MatrixOffsetTransformBase": _Type(12, _matrix, slice(9, 12)),
    "QuaternionRigidTransform": _Type(7, _quaternion, slice(4, 7)),
    "ScalableAffineTransform": _Type(12, _matrix, slice(9, 12)),
    "ScaleLogarithmicTransform": _Type(3, _log_scale),
    "ScaleSkewVersor3DTransform": _Type(15, _scale_skew_versor, slice(3, 6)),
    "ScaleTransform": _Type(3, _scale),
    "ScaleVersor3DTransform": _Type(9, _scale_versor, slice(3, 6)),
    "Similarity3DTransform": _Type(7, _similarity, slice(3, 6)),
    "TranslationTransform": _Type(3, _identity, slice(0, 3)),
    "VersorRigid3DTransform": _Type(6, _versor, slice(3, 6)),
    "VersorTransform": _Type(3, _versor),
}
# Number of parameters of each type that is read.
PARAMETERS = {kind: parts.size for kind, parts in _TYPES.items()}


def linear_matrix(kind: str, parameters: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """The map ``(4, 4)``, LPS mm, of a transform.

    Args:
        kind: its type, one of `PARAMETERS`.
        parameters: as many as `PARAMETERS` says.
        fixed: its fixed parameters, however many.
    """
    parts = _TYPES[kind]
    matrix = np.eye(4)
    matrix[:3, :3] = parts.linear(parameters, fixed)
    center = parameters[parts.center] if parts.center != _NONE else fixed[:3]
    if len(center) == 3:
        matrix[:3, 3] = center - matrix[:3, :3] @ center
    if parts.translation != _NONE:
        matrix[:3, 3] += parameters[parts.translation]
    return matrix
