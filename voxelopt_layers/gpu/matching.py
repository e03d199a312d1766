"""Cost volume and its entropy on a GPU, forward and backward.

The moving map comes padded, so that ``x + o`` is never outside; offsets count from its corner.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from voxelopt_layers.gpu.tiles import accumulator, grid, tile, tile_shape, volume_shape


@triton.jit
def _difference(fixed, moving, squared: tl.constexpr):
    difference = fixed - moving
    return difference * difference if squared else tl.abs(difference)


@triton.jit
def _slope(fixed, moving, squared: tl.constexpr):
    """Derivative of `_difference` by the fixed value."""
    t = fixed - moving
    return 2 * t if squared else tl.where(t > 0, 1.0, tl.where(t < 0, -1.0, 0.0)).to(t.dtype)


@triton.jit
def _neighbours(i, row, height, width, RADIUS: tl.constexpr):
    """Where in the padded map the neighbours of voxels ``i`` are."""
    side: tl.constexpr = 2 * RADIUS + 1
    z = (i // (height * width))[None, :] + (row // (side * side))[:, None]
    y = (i // width % height)[None, :] + (row // side % side)[:, None]
    x = (i % width)[None, :] + (row % side)[:, None]
    return (z * (height + 2 * RADIUS) + y) * (width + 2 * RADIUS) + x


@triton.jit
def _log_probabilities(cost, rows, beta):
    """``log softmax(-cost / beta)`` over the rows, and the exponents that are normalised."""
    least = tl.min(tl.where(rows, cost, float("inf")), 0)
    exponent = tl.where(rows, (least[None, :] - cost) / beta, 0.0)
    z = tl.sum(tl.where(rows, tl.exp(exponent), 0.0), 0)
    return exponent - tl.log(z)[None, :], exponent


@triton.jit
def _sums(log_p, rows, log_floor, FLOOR: tl.constexpr):
    """Sums of q and of q log q, q being the probabilities raised to the floor."""
    if FLOOR:
        log_p = tl.maximum(log_p, log_floor)
    q = tl.where(rows, tl.exp(log_p), 0.0)
    return tl.sum(q, 0), tl.sum(q * log_p, 0)


@triton.jit
def _entropy_of(cost, rows, beta, log_floor, FLOOR: tl.constexpr):
    log_p, _ = _log_probabilities(cost, rows, beta)
    mass, weighted = _sums(log_p, rows, log_floor, FLOOR)
    return tl.maximum(tl.log(mass) - weighted / mass, 0.0, tl.PropagateNan.ALL)


@triton.jit
def _match(
    fixed, moving, cost, entropy, beta, voxels, padded, height, width, channels, scale, log_floor,
    most, RADIUS: tl.constexpr, SQUARED: tl.constexpr, ENTROPY: tl.constexpr, FLOOR: tl.constexpr,
    ACC: tl.constexpr, COUNT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Costs of a block of voxels, and their entropy before they leave the registers."""
    sample, row, i, inside, rows, at = tile(voxels, COUNT, ROWS, BLOCK)
    valid = rows & inside[None, :]
    beside = _neighbours(i, row, height, width, RADIUS)
    total = tl.zeros((ROWS, BLOCK), ACC)
    for c in range(channels):
        channel = sample * channels + c
        f = tl.load(fixed + channel * voxels + i, inside, 0.0).to(ACC)
        m = tl.load(moving + channel * padded + beside, valid, 0.0).to(ACC)
        total += _difference(f[None, :], m, SQUARED)
    total = tl.minimum(total * scale, most, tl.PropagateNan.ALL)
    tl.store(cost + at, total.to(cost.dtype.element_ty), valid)
    if ENTROPY:
        value = _entropy_of(total, rows, tl.load(beta).to(ACC), log_floor, FLOOR)
        tl.store(entropy + sample * voxels + i, value.to(entropy.dtype.element_ty), inside)


@triton.jit
def _entropy(
    cost, out, beta, voxels, log_floor, FLOOR: tl.constexpr, ACC: tl.constexpr,
    COUNT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample, _, i, inside, rows, at = tile(voxels, COUNT, ROWS, BLOCK)
    valid = rows & inside[None, :]
    costs = tl.load(cost + at, valid, 0.0).to(ACC)
    value = _entropy_of(costs, rows, tl.load(beta).to(ACC), log_floor, FLOOR)
    tl.store(out + sample * voxels + i, value.to(out.dtype.element_ty), inside)


@triton.jit
def _entropy_backward(
    cost, grad, grad_cost, by_beta, beta, voxels, log_floor, FLOOR: tl.constexpr,
    ADD: tl.constexpr, ACC: tl.constexpr,
    COUNT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """By log q of those above the floor, then by -C / beta through the softmax."""
    sample, _, i, inside, rows, at = tile(voxels, COUNT, ROWS, BLOCK)
    valid = rows & inside[None, :]
    b = tl.load(beta).to(ACC)
    log_p, exponent = _log_probabilities(tl.load(cost + at, valid, 0.0).to(ACC), rows, b)
    mass, weighted = _sums(log_p, rows, log_floor, FLOOR)
    g = tl.load(grad + sample * voxels + i, inside, 0.0).to(ACC) / mass
    p = tl.where(rows, tl.exp(log_p), 0.0)
    slope = p * g[None, :] * ((weighted / mass)[None, :] - log_p)
    if FLOOR:
        slope = tl.where(log_p > log_floor, slope, 0.0)
        change = (p * tl.sum(slope, 0)[None, :] - slope) / b
    else:  # the slopes of a voxel add up to 0
        change = -slope / b
    total = change
    if ADD:
        total += tl.load(grad_cost + at, valid, 0.0).to(ACC)
    tl.store(grad_cost + at, total.to(grad_cost.dtype.element_ty), valid)
    # The costs of a voxel matter up to a common value, so the exponents stand for -C / beta.
    part = tl.sum(tl.sum(change * exponent, 0), 0)
    tl.store(by_beta + sample * tl.num_programs(0) + tl.program_id(0), part)


@triton.jit
def _fixed_gradient(
    fixed, moving, grad, grad_fixed, voxels, padded, height, width, channels, scale,
    RADIUS: tl.constexpr, SQUARED: tl.constexpr, ACC: tl.constexpr,
    COUNT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample, row, i, inside, rows, at = tile(voxels, COUNT, ROWS, BLOCK)
    valid = rows & inside[None, :]
    beside = _neighbours(i, row, height, width, RADIUS)
    g = tl.load(grad + at, valid, 0.0).to(ACC) * scale
    for c in range(channels):
        channel = sample * channels + c
        f = tl.load(fixed + channel * voxels + i, inside, 0.0).to(ACC)
        m = tl.load(moving + channel * padded + beside, valid, 0.0).to(ACC)
        to = grad_fixed + channel * voxels + i
        by_f = tl.sum(_slope(f[None, :], m, SQUARED) * g, 0)
        tl.store(to, tl.load(to, inside, 0.0) + by_f, inside)


@triton.jit
def _moving_gradient(
    fixed, moving, grad, grad_moving, voxels, padded, depth, height, width, channels, scale,
    RADIUS: tl.constexpr, SQUARED: tl.constexpr, ACC: tl.constexpr,
    COUNT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """At every voxel of the padded map, from the fixed voxels whose neighbour it is."""
    side: tl.constexpr = 2 * RADIUS + 1
    sample, row, i, inside, rows, _ = tile(padded, COUNT, ROWS, BLOCK)
    z = (i // ((height + 2 * RADIUS) * (width + 2 * RADIUS)))[None, :]
    z -= (row // (side * side))[:, None]
    y = (i // (width + 2 * RADIUS) % (height + 2 * RADIUS))[None, :] - (row // side % side)[:, None]
    x = (i % (width + 2 * RADIUS))[None, :] - (row % side)[:, None]
    valid = rows & inside[None, :] & (z >= 0) & (z < depth)
    valid = valid & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    here = (z * height + y) * width + x
    g = tl.load(grad + (sample * COUNT + row[:, None]) * voxels + here, valid, 0.0).to(ACC) * scale
    for c in range(channels):
        channel = sample * channels + c
        m = tl.load(moving + channel * padded + i, inside, 0.0).to(ACC)
        f = tl.load(fixed + channel * voxels + here, valid, 0.0).to(ACC)
        by_m = -tl.sum(_slope(f, m[None, :], SQUARED) * g, 0)
        tl.store(grad_moving + channel * padded + i, by_m, inside)


def cost_volume(
    fixed: Tensor,
    moving: Tensor,
    cost: Tensor,
    radius: int,
    squared: bool,
    border: bool,
    scale: float,
    entropy: Tensor | None = None,
    beta: Tensor | None = None,
    floor: float = 0.0,
) -> None:
    """As `voxelopt_layers.native.cost_volume`, which says what the arguments are."""
    _, height, width = volume_shape(fixed)
    shape, voxels = tile_shape(cost.shape[1]), cost[0, 0].numel()
    moving = _pad(moving, radius, border)
    _match[grid(voxels, shape["BLOCK"], len(cost))](
        fixed, moving, cost, entropy, beta, voxels, moving[0, 0].numel(), height, width,
        fixed.shape[1], scale, _log(floor), _most(cost), RADIUS=radius, SQUARED=squared,
        ENTROPY=entropy is not None, FLOOR=floor > 0, ACC=accumulator(fixed), **shape,
    )  # fmt: skip


def cost_volume_backward(
    fixed: Tensor,
    moving: Tensor,
    grad: Tensor,
    grad_fixed: Tensor,
    grad_moving: Tensor,
    radius: int,
    squared: bool,
    border: bool,
    scale: float,
) -> None:
    """As `voxelopt_layers.native.cost_volume_backward`."""
    depth, height, width = volume_shape(fixed)
    shape, voxels = tile_shape(grad.shape[1]), grad[0, 0].numel()
    moving = _pad(moving, radius, border)
    padded, channels = moving[0, 0].numel(), fixed.shape[1]
    how = {"RADIUS": radius, "SQUARED": squared, "ACC": accumulator(fixed), **shape}
    _fixed_gradient[grid(voxels, shape["BLOCK"], len(grad))](
        fixed, moving, grad, grad_fixed, voxels, padded, height, width, channels, scale, **how
    )
    by_padded = torch.empty_like(moving)
    _moving_gradient[grid(padded, shape["BLOCK"], len(grad))](
        fixed, moving, grad, by_padded, voxels, padded, depth, height, width, channels, scale, **how
    )
    grad_moving += _unpad(by_padded, radius, border)


def entropy(cost: Tensor, entropy: Tensor, beta: Tensor, floor: float) -> None:
    """As `voxelopt_layers.native.entropy`."""
    shape, voxels = tile_shape(cost.shape[1]), cost[0, 0].numel()
    _entropy[grid(voxels, shape["BLOCK"], len(cost))](
        cost, entropy, beta, voxels, _log(floor), FLOOR=floor > 0, ACC=accumulator(cost),
        **shape,
    )  # fmt: skip


def entropy_backward(
    cost: Tensor,
    grad: Tensor,
    grad_cost: Tensor,
    grad_beta: Tensor,
    beta: Tensor,
    floor: float,
    add: bool,
) -> None:
    """As `voxelopt_layers.native.entropy_backward`."""
    shape, voxels = tile_shape(cost.shape[1]), cost[0, 0].numel()
    programs = grid(voxels, shape["BLOCK"], len(cost))
    parts = grad.new_empty(programs[0] * programs[1])
    _entropy_backward[programs](
        cost, grad, grad_cost, parts, beta, voxels, _log(floor), FLOOR=floor > 0,
        ADD=add, ACC=accumulator(cost), **shape,
    )  # fmt: skip
    grad_beta.copy_(parts.sum())


def _pad(image: Tensor, radius: int, border: bool) -> Tensor:
    sides = [radius] * (2 * (image.dim() - 2))
    return F.pad(image, sides, mode="replicate" if border else "constant")


def _unpad(grad: Tensor, radius: int, border: bool) -> Tensor:
    """The transpose of `_pad`."""
    for axis in range(2, grad.dim()):
        length = grad.shape[axis] - 2 * radius
        inner = grad.narrow(axis, radius, length)
        if border:
            inner = inner.clone()
            ends = grad.narrow(axis, 0, radius), grad.narrow(axis, radius + length, radius)
            for place, end in zip((0, length - 1), ends, strict=True):
                inner.narrow(axis, place, 1).add_(end.sum(axis, keepdim=True))
        grad = inner
    return grad


def _most(cost: Tensor) -> float:
    """Where costs are cut off: at the largest number of float16."""
    return torch.finfo(cost.dtype).max if cost.dtype == torch.float16 else math.inf


def _log(floor: float) -> float:
    return math.log(floor) if floor > 0 else 0.0
