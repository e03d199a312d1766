"""Compile all kernels in Triton for an architecture: ``python compile_kernels.py 90``.

Prints, for each: its name, what its cost volume is kept in, and the bytes of registers spilled.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from voxelopt_layers import gpu

TARGET = GPUTarget("cuda", int(sys.argv[1]), 32)
TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
TOOLS = Path(triton.backends.nvidia.__file__).parent / "bin"
kept_in = torch.float32


def compile_instead(self, *args, grid, warmup=False, **constants):
    """What a launch would compile, of the types and constants that it is called with."""
    names = [p.name for p in self.params]
    given = dict(zip(names, args, strict=False)) | constants
    # As a launch does, of what is no constant it takes None and the number 1 for such.
    known = {n: v is None or (type(v) is int and v == 1) for n, v in given.items()}
    fixed = {n: v for n, v in given.items() if n in constants or known[n]}
    signature = {
        n: "constexpr" if n in fixed
        else TYPES[v.dtype] if isinstance(v, torch.Tensor)
        else "i32" if isinstance(v, int) else "fp32"
        for n, v in given.items()
    }  # fmt: skip
    places = {(names.index(n),): v for n, v in fixed.items()}
    compiled = triton.compile(ASTSource(self, signature, places), target=TARGET)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        dump = [str(TOOLS / "cuobjdump"), "--dump-resource-usage", file.name]
        usage = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    stack = re.search(r"STACK:(\d+)", usage)
    assert stack is not None, usage
    print(self.__name__, str(kept_in).removeprefix("torch."), stack.group(1), flush=True)


JITFunction.run = compile_instead
shape, number = (12, 16, 32), torch.empty(1)
features, u, sigma = (torch.empty(1, c, *shape) for c in (8, 3, 1))
for kept_in in TYPES:
    cost = torch.empty(1, 27, *shape, dtype=kept_in)
    how = (1, False, True, 0.1)
    gpu.cost_volume(features, features, cost, *how, sigma, number, 0.1)
    gpu.cost_volume_backward(features, features, cost, features, features, *how)
    gpu.entropy(cost, sigma, number, 0.0)
    gpu.entropy_backward(cost, sigma, cost, number, number, 0.0, add=True)
    gpu.smooth_backward(cost, sigma, cost.float(), sigma, 3, True)
    gpu.assign(cost, u, u, 0, number, number, number)
    gpu.assign_backward(cost, u, u, cost.float(), u, torch.empty(2), number, number, False)
    if kept_in == torch.float32:
        gpu.smooth(None, sigma, u, 3, False)
        gpu.warp(features, u, features, True, False)
        gpu.warp_backward(features, u, features, features, u, True)
