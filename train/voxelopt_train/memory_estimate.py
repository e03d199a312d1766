"""Memory that a registration will take, told before it takes it.

What lives at once where memory peaks, in bytes per voxel: on the working grid features, cost volume
and displacements, on the fixed grid what is resampled and evaluated. The numbers were measured
(`tests/test_memory_estimate.py` holds them to within 30 % of the peak).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from voxelopt_layers import VoxelOptLayer
from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid, check_spacing, isotropic_shape
from voxelopt_train.input_files import size_text
from voxelopt_train.memory import available_memory, is_shared

_WORKING = 165  # images, masks, displacement, inverse, velocity and what composing them takes
_FEATURE = 19  # of both images in a pyramid, and one warped
_OF_DISSIMILARITY = {"cosine": 8, "ncc": 8}  # for each feature
_WINDOWS = {"lncc": 55, "mind": 200}  # in all
_FIXED = 125  # displacement, inverse, resampled images, Jacobian
_SLAB, _OF_SLAB = 2**21, 80  # points that are mapped at a time, see `transforms.slabs`
_STEP_MM = 0.1  # of the spacing that a message names


def solving_bytes(voxels: int, layer: VoxelOptLayer, channels: int) -> int:
    """Memory of features and layer, on the layer's device.

    Args:
        voxels: of the working grid.
        layer: whose settings count; no gradient is asked for.
        channels: of the features.
    """
    offsets = (2 * layer.search_radius + 1) ** 3
    number = 4 if layer.cost_dtype is None else layer.cost_dtype.itemsize
    per_voxel = _WORKING + _FEATURE * channels + number * offsets
    chosen = layer.dissimilarity
    for name in [chosen] if isinstance(chosen, str) else [] if callable(chosen) else chosen:
        per_voxel += _OF_DISSIMILARITY.get(name, 0) * channels + _WINDOWS.get(name, 0)
    return voxels * per_voxel


def resampling_bytes(voxels: int) -> int:
    """Memory of what `voxelopt register` does on a fixed grid of so many voxels, on the CPU."""
    return voxels * _FIXED + min(voxels, _SLAB) * _OF_SLAB


def check_memory(
    fixed: Grid,
    spacing_mm: float | None,
    layer: VoxelOptLayer,
    channels: int,
    device: torch.device,
) -> None:
    """Raise InputError where a registration would not fit, with the spacing that would.

    Args:
        fixed: grid of the fixed image, which is in memory already, as the moving one is.
        spacing_mm: of the isotropic grid to register on; None: that is the fixed image's.
        layer: the layer.
        channels: of the features.
        device: where the layer runs.
    """
    check_spacing(spacing_mm)
    here = available_memory()
    fewer = ", or fewer --workers, which share the memory" if is_shared() else ""
    needed = resampling_bytes(math.prod(fixed.shape))
    if needed > here:
        raise InputError(
            f"a fixed image of {_text(fixed.shape)} voxels takes {size_text(needed)} of memory on "
            f"any working grid, {size_text(here)} are available: resample it{fewer}"
        )
    on_gpu = device.type == "cuda"
    there = _left_on(device) if on_gpu else here
    working = fixed.shape if spacing_mm is None else isotropic_shape(fixed, spacing_mm)
    needed = solving_bytes(math.prod(working), layer, channels)
    if needed > there:
        place, instead = (f" of {device}", ", or the CPU") if on_gpu else ("", fewer)
        spacing = _fitting_spacing(fixed, layer, channels, there)
        raise InputError(
            f"a working grid of {_text(working)} voxels takes {size_text(needed)} of memory"
            f"{place}, {size_text(there)} are available: a working spacing of {spacing:.1f} mm "
            f"would fit (--spacing {spacing:.1f}){instead}"
        )


def _left_on(gpu: torch.device) -> int:
    """What is free, and what PyTorch keeps of what it has freed."""
    kept = torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu)
    return torch.cuda.mem_get_info(gpu)[0] + kept


def _fitting_spacing(grid: Grid, layer: VoxelOptLayer, channels: int, available: int) -> float:
    volume_mm3 = math.prod(n * mm for n, mm in zip(grid.shape, grid.spacing, strict=True))
    finest = (volume_mm3 * solving_bytes(1, layer, channels) / max(available, 1)) ** (1 / 3)
    steps = math.ceil(finest / _STEP_MM)
    # A grid covers the whole image: its voxels are rounded up.
    while True:
        voxels = math.prod(isotropic_shape(grid, steps * _STEP_MM))
        if solving_bytes(voxels, layer, channels) <= available or voxels == 1:
            return steps * _STEP_MM
        steps += 1 + steps // 100  # of voxels as large as a header may say, one step is nothing


def _text(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
