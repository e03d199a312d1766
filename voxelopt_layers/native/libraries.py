"""Calls of the kernels in C++: what tensors, numbers and shapes become on the way."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from voxelopt_layers.native.build import Build

# By what cost volumes are kept in; those of half precision are compiled when asked for.
LIBRARIES = {
    torch.float32: Build("float32"),
    torch.float16: Build("float16"),
    torch.bfloat16: Build("bfloat16"),
}
SHAPE = object()  # among the arguments of `call`


class _Shape(ctypes.Structure):
    _fields_ = [(n, ctypes.c_long) for n in ("batch", "channels", "depth", "height", "width")]


def call(name: str, shape_of: Tensor, *arguments: Any, kept_in: torch.dtype = torch.float32) -> Any:
    """Call a kernel; ``SHAPE`` among its arguments stands for the shape of ``shape_of``."""
    library = _library(kept_in)
    converted: list[Any] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            assert argument.is_contiguous()
            assert argument.dtype in (torch.float32, kept_in)
            converted.append(ctypes.c_void_p(argument.data_ptr()))
        elif argument is SHAPE:
            spatial = shape_of.shape[2:]
            flat = [1] * (3 - len(spatial))
            converted.append(ctypes.byref(_Shape(*shape_of.shape[:2], *flat, *spatial)))
        elif isinstance(argument, float):
            converted.append(ctypes.c_float(argument))
        else:
            converted.append(None if argument is None else ctypes.c_long(argument))
    kernel = library[f"voxelopt_{name}"]
    kernel.restype = ctypes.c_float if name == "reach" else None
    # A thread costs as much to start as some ten thousand values take to go through.
    threads = min(torch.get_num_threads(), max(1, shape_of.numel() // 2**14))
    return kernel(*converted, ctypes.c_long(threads))


def fresh(tensor: Tensor) -> Tensor:
    """A tensor that nothing was written to yet: on CPU its memory comes in huge pages if it can.

    Touching a volume for the first time costs as much as ten times later, and malloc keeps none.
    """
    if tensor.device.type != "cpu":
        return tensor
    library = _library(torch.float32)
    library["voxelopt_huge_pages"](ctypes.c_void_p(tensor.data_ptr()), ctypes.c_long(tensor.nbytes))
    return tensor


def _library(kept_in: torch.dtype) -> ctypes.CDLL:
    library = LIBRARIES[kept_in].library()
    if library is None:  # where `suits` was asked, it is there; an exported program asks no more
        raise RuntimeError(
            "this program was exported with the kernels of voxelopt_layers, which cannot be "
            "compiled here (is there a C++ compiler?); one that was exported within "
            "voxelopt_layers.native.set_aside() runs without them"
        )
    return library
