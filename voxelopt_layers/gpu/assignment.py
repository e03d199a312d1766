"""The v-step on a GPU, forward and backward: a tile of all offsets by a block of voxels."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from voxelopt_layers import native
from voxelopt_layers.gpu.tiles import accumulator, grid, tile, tile_shape


@triton.jit
def _coordinate(row, axis: tl.constexpr, D: tl.constexpr, RADIUS: tl.constexpr):
    """The offsets of the rows along an axis, in C order."""
    side: tl.constexpr = 2 * RADIUS + 1
    n: tl.constexpr = D - 1 - axis
    if n == 0:
        return row % side - RADIUS
    if n == 1:
        return row // side % side - RADIUS
    return row // (side * side) - RADIUS


@triton.jit
def _square(row, D: tl.constexpr, RADIUS: tl.constexpr):
    total = tl.zeros_like(row)
    for axis in tl.static_range(D):
        o = _coordinate(row, axis, D, RADIUS)
        total += o * o
    return total


@triton.jit
def _weights(
    cost, smooth, at, sample, row, i, rows, inside, voxels, coupling, temperature, rounding,
    D: tl.constexpr, RADIUS: tl.constexpr, SOFT: tl.constexpr, SMOOTH: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Weights of the offsets by their energies ``C + coupling (|o|^2 - 2 u.o)``."""
    energy = tl.load(cost + at, rows & inside[None, :], 0.0).to(ACC)
    energy += (coupling * _square(row, D, RADIUS))[:, None]
    if SMOOTH:
        for axis in tl.static_range(D):
            u = tl.load(smooth + (sample * D + axis) * voxels + i, inside, 0.0).to(ACC)
            energy -= (2 * coupling * u)[None, :] * _coordinate(row, axis, D, RADIUS)[:, None]
    least = tl.min(tl.where(rows, energy, float("inf")), 0)[None, :]
    if SOFT:
        return tl.where(rows, tl.exp((least - energy) / temperature), 0.0)
    return tl.where(rows & (energy <= least + rounding), 1.0, 0.0).to(ACC)


@triton.jit
def _assign(
    cost, smooth, out, coupling, temperature, rounding, voxels, D: tl.constexpr,
    RADIUS: tl.constexpr, SOFT: tl.constexpr, MEAN: tl.constexpr, SMOOTH: tl.constexpr,
    ACC: tl.constexpr, COUNT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample, row, i, inside, rows, at = tile(voxels, COUNT, ROWS, BLOCK)
    w = _weights(
        cost, smooth, at, sample, row, i, rows, inside, voxels, tl.load(coupling).to(ACC),
        tl.load(temperature).to(ACC), tl.load(rounding + sample).to(ACC), D, RADIUS, SOFT, SMOOTH,
        ACC,
    )  # fmt: skip
    for axis in tl.static_range(D):
        v = tl.sum(w * _coordinate(row, axis, D, RADIUS)[:, None], 0)
        if MEAN:
            v = v / tl.sum(w, 0)
        to = out + (sample * D + axis) * voxels + i
        tl.store(to, v.to(out.dtype.element_ty), inside)


@triton.jit
def _assign_backward(
    cost, smooth, grad, grad_cost, grad_smooth, by_scalars, coupling, temperature, voxels,
    D: tl.constexpr, RADIUS: tl.constexpr, FIRST: tl.constexpr, SMOOTH: tl.constexpr,
    SCALARS: tl.constexpr, ACC: tl.constexpr, COUNT: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    sample, row, i, inside, rows, at = tile(voxels, COUNT, ROWS, BLOCK)
    couple, t = tl.load(coupling).to(ACC), tl.load(temperature).to(ACC)
    w = _weights(
        cost, smooth, at, sample, row, i, rows, inside, voxels, couple, t, 0.0, D, RADIUS, True,
        SMOOTH, ACC,
    )  # fmt: skip
    p = w / tl.sum(w, 0)[None, :]
    # By the energy of an offset: its probability times how far g.o lies from the mean of g.o.
    along = tl.zeros((ROWS, BLOCK), ACC)
    for axis in tl.static_range(D):
        g = tl.load(grad + (sample * D + axis) * voxels + i, inside, 0.0).to(ACC)
        along += g[None, :] * _coordinate(row, axis, D, RADIUS)[:, None]
    change = p * (tl.sum(p * along, 0)[None, :] - along) / t
    squares = tl.sum(change * _square(row, D, RADIUS)[:, None], 0)
    for axis in tl.static_range(D):
        by_u = tl.sum(change * _coordinate(row, axis, D, RADIUS)[:, None], 0)
        where = (sample * D + axis) * voxels + i
        if SMOOTH:
            squares -= 2 * tl.load(smooth + where, inside, 0.0).to(ACC) * by_u
        tl.store(grad_smooth + where, -2 * couple * by_u if SMOOTH else 0 * by_u, inside)
    valid = rows & inside[None, :]
    if not FIRST:
        tl.store(grad_cost + at, change + tl.load(grad_cost + at, valid, 0.0), valid)
    else:
        tl.store(grad_cost + at, change, valid)
    if SCALARS:
        # log w is (least - energy) / T, and energies matter up to a common value.
        entropy = tl.sum(change * tl.log(tl.maximum(w, 1e-37)), 0)
        part = by_scalars + 2 * (sample * tl.num_programs(0) + tl.program_id(0))
        tl.store(part, tl.sum(squares, 0))
        tl.store(part + 1, tl.sum(entropy, 0))


def assign(
    cost: Tensor,
    smooth: Tensor | None,
    out: Tensor,
    kind: int,
    coupling: Tensor,
    temperature: Tensor,
    rounding: Tensor,
) -> None:
    """As `voxelopt_layers.native.assign`."""
    shape, voxels = tile_shape(cost.shape[1]), cost[0, 0].numel()
    _assign[grid(voxels, shape["BLOCK"], len(cost))](
        cost, smooth, out, coupling, temperature, rounding, voxels, D=cost.dim() - 2,
        RADIUS=native.search_radius(cost), SOFT=kind == native.SOFT, MEAN=kind != native.HARD_SUM,
        SMOOTH=smooth is not None, ACC=accumulator(out), **shape,
    )  # fmt: skip


def assign_backward(
    cost: Tensor,
    smooth: Tensor | None,
    grad: Tensor,
    grad_cost: Tensor,
    grad_smooth: Tensor,
    grad_scalars: Tensor | None,
    coupling: Tensor,
    temperature: Tensor,
    first: bool,
) -> None:
    """As `voxelopt_layers.native.assign_backward`."""
    shape, voxels = tile_shape(cost.shape[1]), cost[0, 0].numel()
    programs = grid(voxels, shape["BLOCK"], len(cost))
    parts = None if grad_scalars is None else grad.new_empty((programs[0] * programs[1], 2))
    _assign_backward[programs](
        cost, smooth, grad, grad_cost, grad_smooth, parts, coupling, temperature, voxels,
        D=cost.dim() - 2, RADIUS=native.search_radius(cost), FIRST=first,
        SMOOTH=smooth is not None, SCALARS=parts is not None, ACC=accumulator(grad), **shape,
    )  # fmt: skip
    if grad_scalars is not None and parts is not None:
        grad_scalars += parts.sum(0)
