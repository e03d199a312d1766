"""Deformable registration as a differentiable PyTorch layer (imports torch alone)."""

from voxelopt_layers.assignment import assign
from voxelopt_layers.cost_volume import cost_volume
from voxelopt_layers.displacement import (
    compose,
    exponentiate,
    invert,
    jacobian_determinant,
    resize_displacement,
    sample,
    warp,
)
from voxelopt_layers.entropy import cost_entropy, entropy_to_sigma
from voxelopt_layers.layer import VoxelOptLayer
from voxelopt_layers.message_passing import adaptive_gaussian
from voxelopt_layers.solution import Level, Solution

__version__ = "0.1.0"

__all__ = [
    "Level",
    "Solution",
    "VoxelOptLayer",
    "adaptive_gaussian",
    "assign",
    "compose",
    "cost_entropy",
    "cost_volume",
    "entropy_to_sigma",
    "exponentiate",
    "invert",
    "jacobian_determinant",
    "resize_displacement",
    "sample",
    "warp",
]
