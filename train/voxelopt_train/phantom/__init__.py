"""Synthetic abdominal CT of different "patients" with 13 organs: data that needs no download."""

from voxelopt_train.phantom.organs import CT_WINDOW, ORGANS
from voxelopt_train.phantom.patients import (
    Pair,
    abdomen,
    deformed_pair,
    phantom_pair,
    random_displacement,
)

__all__ = [
    "CT_WINDOW",
    "ORGANS",
    "Pair",
    "abdomen",
    "deformed_pair",
    "phantom_pair",
    "random_displacement",
]
