"""One measurement in a process of its own: ``python -m voxelopt_train.benchmark.worker JSON``.

A process of its own, because the peak of memory is that of a process, and what one measurement
leaves in the allocator would count for the next.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from voxelopt_layers import VoxelOptLayer, native
from voxelopt_layers.solver import GRADIENTS
from voxelopt_train.benchmark.naive import naive_registration
from voxelopt_train.benchmark.precision import measure_precision
from voxelopt_train.benchmark.stages import measure_stages, timed


def features(size: list[int], channels: int, device: str) -> list[Tensor]:
    """Two random feature maps ``(1, channels, *size)``, smooth and of standard deviation 1."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((2, channels, *size), generator=generator)
    smooth = F.avg_pool3d(F.avg_pool3d(noise, 3, 1, 1), 3, 1, 1)
    return [(m / m.std())[None].to(device) for m in smooth]


def measure(
    *, what: str, settings: dict[str, Any], size: list[int], channels: int, device: str, runs: int
) -> dict[str, Any]:
    """Seconds (the least of ``runs``), and the peak of memory above the inputs in MB.

    ``what`` is one of naive, operators, kernels (inference), the `GRADIENTS` (a training step:
    forward, and backward to both feature maps), float16, bfloat16 (inference with cost volumes in
    these), stages and precision.
    """
    half, training = what in ("float16", "bfloat16"), what in GRADIENTS
    if not (half or training or what in ("naive", "operators", "kernels", "stages", "precision")):
        raise ValueError(f"nothing to measure is called {what}")
    if what == "precision":
        return {"rows": measure_precision(size, settings, device)}
    fixed, moving = features(size, channels, device)
    if what == "stages":
        return measure_stages(fixed, moving, VoxelOptLayer(**settings), runs)
    option = {"gradient": what} if training else {"cost_dtype": what} if half else {}
    layer = VoxelOptLayer(**{**settings, **option}).to(device)
    if what not in ("naive", "operators"):  # compiled before the clock runs
        native.available(getattr(torch, what) if half else torch.float32)

    def run() -> Tensor:
        if training:
            inputs = [x.detach().requires_grad_() for x in (fixed, moving)]
            u = layer(*inputs)
            u.square().mean().backward()
            return u.detach()
        with torch.no_grad():
            return (
                naive_registration(layer, fixed, moving)
                if what == "naive"
                else layer(fixed, moving)
            )

    aside = native.set_aside() if what in ("naive", "operators") else contextlib.nullcontext()
    with aside:
        before = memory_mb(device, reset=True)
        u = run()
        peak = memory_mb(device) - before
        seconds = [timed(run, device) for _ in range(runs)]
    return {"seconds": min(seconds), "peak_mb": peak, "mean_voxels": u.norm(dim=1).mean().item()}


def memory_mb(device: str, reset: bool = False) -> float:
    """The most memory in use since the last reset, in MB: of this process, or on the GPU."""
    if device.startswith("cuda"):
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    except OSError:  # not Linux: the peak since the process began
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
