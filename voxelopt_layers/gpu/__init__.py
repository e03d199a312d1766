"""Kernels in Triton, for GPUs: the operators ``voxelopt::*`` of `voxelopt_layers.native` on CUDA.

Imported with the first tensor on a GPU, so that nobody else needs Triton. With
``TRITON_INTERPRET=1`` they run on CPU, for tests.
"""

from voxelopt_layers.gpu.assignment import assign, assign_backward
from voxelopt_layers.gpu.matching import (
    cost_volume,
    cost_volume_backward,
    entropy,
    entropy_backward,
)
from voxelopt_layers.gpu.message_passing import smooth, smooth_backward
from voxelopt_layers.gpu.warping import warp, warp_backward

__all__ = [
    "assign",
    "assign_backward",
    "cost_volume",
    "cost_volume_backward",
    "entropy",
    "entropy_backward",
    "smooth",
    "smooth_backward",
    "warp",
    "warp_backward",
]
