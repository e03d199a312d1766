"""The stages of one warp at the finest level: seconds, bytes, share of the copy bandwidth.

Bytes are those that must be moved: what a stage reads and writes once, were its working set in
cache for as long as it is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from voxelopt_layers import (
    VoxelOptLayer,
    adaptive_gaussian,
    assign,
    cost_entropy,
    cost_volume,
    entropy_to_sigma,
    exponentiate,
    warp,
)


@torch.no_grad()
def measure_stages(
    fixed: Tensor, moving: Tensor, layer: VoxelOptLayer, runs: int
) -> dict[str, Any]:
    """Copy bandwidth in GB/s, and of each stage its calls, seconds per call, and bytes per call."""
    solver, k, d = layer.solver, (2 * layer.search_radius + 1) ** 3, 3
    channels, passes = fixed.shape[1], solver.filter_passes
    filtering = (solver.filter_radius, passes, layer.boundary)
    matching = (layer.search_radius, "l1", layer.boundary)
    signal = (solver.value("beta"), solver.probability_floor)
    cost = cost_volume(fixed, moving, *matching)
    entropy = cost_entropy(cost, *signal)
    sigma = entropy_to_sigma(entropy, solver.value("alpha"), solver.sigma_range)
    u = adaptive_gaussian(assign(cost, None, 0.0, solver.assignment), sigma, *filtering)
    target = torch.empty_like(cost)
    iterations = len(solver.value("theta"))
    steps = (solver.assignment, solver.value("temperature"), solver.ties)
    # name, calls, floats per voxel and call, what is called
    stages: list[tuple[str, int, int, Callable[[], object]]] = [
        ("copy", 1, 2 * k, lambda: target.copy_(cost)),
        ("warp of the features", 1, 2 * channels + d,
         lambda: warp(moving, u, "linear", layer.boundary)),
        ("cost volume", 1, 2 * channels + k, lambda: cost_volume(fixed, moving, *matching)),
        ("entropy", 1, k + 1, lambda: cost_entropy(cost, *signal)),
        ("filter of the costs", 1, passes * (2 * k + 1),
         lambda: adaptive_gaussian(cost, sigma, *filtering)),
        ("v-step", iterations, k + 2 * d, lambda: assign(cost, u, 0.1, *steps)),
        ("u-step", iterations, passes * (2 * d + 1),
         lambda: adaptive_gaussian(u, sigma, *filtering)),
        ("exponential", 1, 2 * d * layer.integration_steps,
         lambda: exponentiate(u, layer.integration_steps)),
    ]  # fmt: skip
    rows = []
    for name, calls, floats, call in stages:
        call()
        seconds = min(timed(call, fixed.device) for _ in range(max(3, runs)))
        moved = 4 * floats * fixed[0, 0].numel()
        rows.append({"stage": name, "calls": calls, "seconds": seconds, "bytes": moved})
    copy = rows.pop(0)
    return {"copy_gb_per_s": copy["bytes"] / copy["seconds"] / 1e9, "stages": rows}


def timed(function: Callable[[], object], device: torch.device | str) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    function()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
