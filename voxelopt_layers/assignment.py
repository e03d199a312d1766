"""The v-step: at every voxel the offset of least energy, hard or soft (equation 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from voxelopt_layers import native
from voxelopt_layers.arguments import check_choice, check_tensor
from voxelopt_layers.fused import as_tensor, working_dtype
from voxelopt_layers.fused_descent import assign_fused, tie_margin
from voxelopt_layers.offsets import search_offsets

Assignment = Literal["hard", "soft", "straight_through"]
ASSIGNMENTS: tuple[str, ...] = get_args(Assignment)
TIES = ("mean", "sum")
# Voxels whose energies are held at a time: what a cache holds, or what fills a GPU.
_BLOCK = {"cpu": 2**16, "cuda": 2**20}


def assign(
    cost: Tensor,
    smooth: Tensor | None = None,
    coupling: Tensor | float = 0.0,
    assignment: Assignment = "hard",
    temperature: Tensor | float = 0.003,
    ties: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """``v(x) = argmin_o C(x, o) + coupling * ||o - u(x)||^2`` over the offsets o (equation 5).

    Args:
        cost: cost volume ``(B, K, *spatial)``, ``K = (2k + 1)^d``.
        smooth: the smooth field u ``(B, d, *spatial)`` in voxels; 0 if None.
        coupling: ``1 / (2 theta)``, at least 0, in units of the cost per squared voxel.
        assignment: ``"hard"``, the argmin, through which no gradient passes; ``"soft"``, the mean
            of the offsets under ``softmax(-energy / temperature)`` (soft-argmin);
            ``"straight_through"``, the value of the first with the gradient of the second.
        temperature: of the soft-argmin, above 0, in units of the cost.
        ties: offsets that share the minimum are averaged (``"mean"``, the limit of the soft-argmin
            as the temperature falls) or added up (``"sum"``). Flat costs give 0 both ways.

    Returns:
        ``(B, d, *spatial)`` in voxels, within ``[-k, k]`` (for ``ties="mean"``).
    """
    check_tensor(cost, "cost")
    check_choice(assignment, "assignment", ASSIGNMENTS)
    check_choice(ties, "ties", TIES)
    spatial, d = cost.shape[2:], cost.dim() - 2
    radius = (round(cost.shape[1] ** (1 / d)) - 1) // 2
    if (2 * radius + 1) ** d != cost.shape[1]:
        raise ValueError(
            f"a cost volume over {d} axes has (2k + 1)^{d} offsets, not {cost.shape[1]}"
        )
    expected = (cost.shape[0], d, *spatial)
    if smooth is not None and smooth.shape != expected:
        raise ValueError(
            f"smooth must be {expected}, for costs of shape {tuple(cost.shape)}, "
            f"got {tuple(smooth.shape)}"
        )
    inputs = (cost, smooth, coupling, temperature)
    needs_grad = torch.is_grad_enabled() and any(
        isinstance(x, Tensor) and x.requires_grad for x in inputs
    )
    if not needs_grad and native.suits(smooth, cost=cost):
        kind = native.assignment_kind(assignment, ties)
        return assign_fused(
            cost, smooth, kind, as_tensor(coupling, cost), as_tensor(temperature, cost)
        )
    dtype = working_dtype(cost)
    offsets = torch.tensor(search_offsets(radius, d), device=cost.device, dtype=dtype)
    flat, u = cost.flatten(2), None if smooth is None else smooth.flatten(2)
    linear = (-2 * coupling * offsets).expand(cost.shape[0], -1, -1)
    columns = offsets.T.expand(cost.shape[0], -1, -1)
    constant = (coupling * offsets.square().sum(1))[:, None]

    def energies(part: slice) -> Tensor:
        """``C + coupling (|o|^2 - 2 u.o)``: |u|^2 is the same for all offsets of a voxel."""
        energy = flat[:, :, part].to(dtype) + constant
        if u is None:
            return energy
        if torch.is_grad_enabled():
            return torch.baddbmm(energy, linear, u[:, :, part])
        return energy.baddbmm_(linear, u[:, :, part])

    rounding = 0.0 if assignment == "soft" else tie_margin(flat)[:, None, None]

    def hard(part: slice) -> Tensor:
        energy = energies(part)
        # In place, 1 where the energy is the least: the volume of energies becomes their argmin.
        chosen = energy.le_(energy.amin(1, keepdim=True) + rounding)
        v = torch.bmm(columns, chosen)
        return v / chosen.sum(1, keepdim=True) if ties == "mean" else v

    def soft(part: slice) -> Tensor:
        energy = energies(part)
        if torch.is_grad_enabled():
            energy = energy / -temperature
        else:
            energy.div_(-temperature)
        return torch.bmm(columns, torch.softmax(energy, dim=1))

    whole = slice(0, flat.shape[2])
    if assignment == "soft" and needs_grad:
        v = soft(whole)
    else:
        with torch.no_grad():
            v = _in_blocks(soft if assignment == "soft" else hard, flat, d, dtype)
        if assignment == "straight_through" and needs_grad:
            estimate = soft(whole)
            v = v + (estimate - estimate.detach())
    return torch.unflatten(v, 2, spatial)


def _in_blocks(step: Callable[[slice], Tensor], flat: Tensor, d: int, dtype: torch.dtype) -> Tensor:
    """Run a pointwise step over blocks of voxels, so that its energies stay in cache."""
    count = flat.shape[2]
    block = _BLOCK.get(flat.device.type, 2**20)
    block = count if torch.compiler.is_compiling() else block  # a graph would hold every block
    out = flat.new_empty((flat.shape[0], d, count), dtype=dtype)
    for start in range(0, count, block):
        part = slice(start, min(start + block, count))
        out[:, :, part] = step(part)
    return out
