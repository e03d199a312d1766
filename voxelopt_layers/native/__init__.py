"""Kernels, one beside each operator that takes time or memory: operators ``voxelopt::*``.

On CPU they are in C++, for float32, compiled on the user's machine (`build`) and called through
`libraries`; on CUDA in Triton (`voxelopt_layers.gpu`). PyTorch knows them as operators, so that
``torch.compile`` passes over them. All write into tensors that the caller made. The operators in
PyTorch remain the reference, in values and gradients, and run wherever `suits` says no.
"""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections.abc import Generator

import torch
from torch import Tensor

from voxelopt_layers.native.libraries import LIBRARIES
from voxelopt_layers.native.operators import (
    assign,
    assign_backward,
    cost_volume,
    cost_volume_backward,
    entropy,
    entropy_backward,
    exponentiate,
    exponentiate_backward,
    local_correlation,
    search_radius,
    smooth,
    smooth_backward,
    warp,
    warp_backward,
    zeros_like,
)

__all__ = [
    "HARD_MEAN",
    "HARD_SUM",
    "SOFT",
    "assign",
    "assign_backward",
    "assignment_kind",
    "available",
    "cost_volume",
    "cost_volume_backward",
    "entropy",
    "entropy_backward",
    "exponentiate",
    "exponentiate_backward",
    "local_correlation",
    "search_radius",
    "set_aside",
    "smooth",
    "smooth_backward",
    "start",
    "suits",
    "warp",
    "warp_backward",
    "zeros_like",
]

SOFT, HARD_MEAN, HARD_SUM = range(3)
_enabled = True


def available(cost_dtype: torch.dtype = torch.float32) -> bool:
    """Whether the kernels are there and not set aside; waits for the compiler."""
    return _enabled and LIBRARIES[cost_dtype].library() is not None


# As torch.compiler.assume_constant_result does, but without importing the compiler.
available._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def start() -> None:
    """Have the kernels compiled in the background, if they are not there yet."""
    LIBRARIES[torch.float32].start()


def assignment_kind(assignment: str, ties: str) -> int:
    """What `assign` calls an assignment; straight-through has the values of the hard one."""
    if assignment == "soft":
        return SOFT
    return HARD_MEAN if ties == "mean" else HARD_SUM


@contextlib.contextmanager
def set_aside() -> Generator[None]:
    """Within this context the operators run in PyTorch: the reference."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def suits(*tensors: Tensor | None, cost: Tensor | None = None) -> bool:
    """Whether the kernels take these ``(B, C, *spatial)``: float32 in 2-D or 3-D.

    A cost volume may be float16 or bfloat16 too.
    """
    given = [t for t in (cost, *tensors) if t is not None]
    for tensor in given:
        half = tensor is cost and tensor.dtype in LIBRARIES
        if not (
            (tensor.dtype == torch.float32 or half)
            and tensor.device == given[0].device
            and tensor.dim() in (4, 5)
            and tensor.numel() > 0
            and math.prod(tensor.shape[2:]) < 2**31
        ):
            return False
    if given[0].device.type == "cuda":
        return _triton_available()
    kept_in = torch.float32 if cost is None else cost.dtype
    return given[0].device.type == "cpu" and available(kept_in)


def _triton_available() -> bool:
    """Whether there are kernels on CUDA, and not set aside."""
    return _enabled and _triton_runs()


@functools.cache
def _triton_runs() -> bool:
    """Whether Triton is there, and has what it takes: a C compiler, and Python's headers."""
    try:
        from triton.runtime import driver  # pyright: ignore[reportMissingTypeStubs]

        driver.active.get_current_target()  # for which it compiles its first piece of C
    except ImportError:
        return False
    except Exception as error:  # it, the compiler and the system raise whatever they like
        warnings.warn(
            "on this GPU the layer runs in PyTorch's operators, which take more time and memory: "
            f"Triton cannot make its kernels ({error})",
            stacklevel=2,
        )
        return False
    return True


_triton_available._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
