"""Warps on a GPU, forward and backward: linear interpolation at ``x + u(x)``.

The backward pass adds to the image's gradient with atomics, whose order, and so whose rounding,
differs from run to run.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from voxelopt_layers.gpu.tiles import accumulator, grid, volume_shape

_BLOCK = 256


@triton.jit
def _axis(
    displacement, i, place, length, voxels, inside, sample, axis: tl.constexpr, D: tl.constexpr,
    BORDER: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Along one axis: the voxel below ``x + u(x)``, how far beyond it, and whether u moves it."""
    u = tl.load(displacement + (sample * D + axis) * voxels + i, inside, 0.0).to(ACC)
    at = place + u
    moves = at == at
    # What lies further out is outside all the same, and fits an integer.
    low, high = -2.0, length + 1.0
    if BORDER:
        moves = (at > 0) & (at < length - 1)
        low, high = 0.0, length - 1.0
    at = tl.minimum(tl.maximum(at, low, tl.PropagateNan.ALL), high, tl.PropagateNan.ALL)
    floor = tl.floor(at)
    below = tl.where(at == at, floor, 0.0).to(tl.int32)
    return below, at - floor, moves


@triton.jit
def _samples(
    displacement, voxels, depth, height, width, D: tl.constexpr, BORDER: tl.constexpr,
    ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sample and voxels of a program, which of them exist, and `_axis` along W, H and D."""
    sample = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < voxels
    x, y = i % width, i // width % height
    x0, fx, mx = _axis(displacement, i, x, width, voxels, inside, sample, D - 1, D, BORDER, ACC)
    y0, fy, my = _axis(displacement, i, y, height, voxels, inside, sample, D - 2, D, BORDER, ACC)
    z0, fz, mz = tl.zeros_like(x0), tl.zeros_like(fx), inside
    if D == 3:
        z = i // (width * height)
        z0, fz, mz = _axis(displacement, i, z, depth, voxels, inside, sample, 0, D, BORDER, ACC)
    return sample, i, inside, x0, fx, mx, y0, fy, my, z0, fz, mz


@triton.jit
def _corner(below, part, n: tl.constexpr, length):
    """Of the voxel below or above: its number, its weight, the weight's slope, if it exists."""
    index = below + n
    if n == 0:
        return index, 1 - part, -1.0, (index >= 0) & (index < length)
    return index, part, 1.0, (index >= 0) & (index < length)


@triton.jit
def _warp(
    image, displacement, out, voxels, depth, height, width, channels, D: tl.constexpr,
    BORDER: tl.constexpr, ADD: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample, i, inside, x0, fx, _mx, y0, fy, _my, z0, fz, _mz = _samples(
        displacement, voxels, depth, height, width, D, BORDER, ACC, BLOCK
    )
    for c in range(channels):
        channel = (sample * channels + c) * voxels
        value = tl.zeros((BLOCK,), ACC)
        for corner in tl.static_range(2**D):
            xn, wx, _sx, x_in = _corner(x0, fx, corner % 2, width)
            yn, wy, _sy, y_in = _corner(y0, fy, corner // 2 % 2, height)
            zn, wz, _sz, z_in = _corner(z0, fz, corner // 4, depth)
            exists = inside & x_in & y_in & z_in
            at = image + channel + (zn * height + yn) * width + xn
            value += wx * wy * wz * tl.load(at, exists, 0.0).to(ACC)
        if ADD:
            value += tl.load(displacement + channel + i, inside, 0.0).to(ACC)
        tl.store(out + channel + i, value.to(out.dtype.element_ty), inside)


@triton.jit
def _warp_backward(
    image, displacement, grad, grad_image, grad_displacement, voxels, depth, height, width,
    channels, D: tl.constexpr, BORDER: tl.constexpr, BY_IMAGE: tl.constexpr,
    BY_DISPLACEMENT: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample, i, inside, x0, fx, mx, y0, fy, my, z0, fz, mz = _samples(
        displacement, voxels, depth, height, width, D, BORDER, ACC, BLOCK
    )
    by_x, by_y, by_z = tl.zeros((BLOCK,), ACC), tl.zeros((BLOCK,), ACC), tl.zeros((BLOCK,), ACC)
    for c in range(channels):
        channel = (sample * channels + c) * voxels
        g = tl.load(grad + channel + i, inside, 0.0).to(ACC)
        for corner in tl.static_range(2**D):
            xn, wx, sx, x_in = _corner(x0, fx, corner % 2, width)
            yn, wy, sy, y_in = _corner(y0, fy, corner // 2 % 2, height)
            zn, wz, sz, z_in = _corner(z0, fz, corner // 4, depth)
            exists = inside & x_in & y_in & z_in
            at = channel + (zn * height + yn) * width + xn
            if BY_IMAGE:
                tl.atomic_add(grad_image + at, g * wx * wy * wz, exists, sem="relaxed")
            if BY_DISPLACEMENT:
                value = g * tl.load(image + at, exists, 0.0).to(ACC)
                by_x += value * sx * wy * wz
                by_y += value * wx * sy * wz
                by_z += value * wx * wy * sz
    if BY_DISPLACEMENT:  # with atomics: this gradient may be the image's too
        to = grad_displacement + sample * D * voxels + i
        tl.atomic_add(to + (D - 1) * voxels, tl.where(mx, by_x, 0.0), inside, sem="relaxed")
        tl.atomic_add(to + (D - 2) * voxels, tl.where(my, by_y, 0.0), inside, sem="relaxed")
        if D == 3:
            tl.atomic_add(to, tl.where(mz, by_z, 0.0), inside, sem="relaxed")


def warp(
    image: Tensor,
    displacement: Tensor,
    out: Tensor,
    border: bool,
    add: bool,
    near: bool | None = None,
) -> None:
    """As `voxelopt_layers.native.warp`; near or far is all the same here."""
    voxels = image[0, 0].numel()
    _warp[grid(voxels, _BLOCK, len(image))](
        image, displacement, out, voxels, *volume_shape(image), image.shape[1],
        D=displacement.shape[1], BORDER=border, ADD=add, ACC=accumulator(displacement),
        BLOCK=_BLOCK,
    )  # fmt: skip


def warp_backward(
    image: Tensor,
    displacement: Tensor,
    grad: Tensor,
    grad_image: Tensor | None,
    grad_displacement: Tensor | None,
    border: bool,
    near: bool | None = None,
) -> None:
    """As `voxelopt_layers.native.warp_backward`."""
    voxels = image[0, 0].numel()
    _warp_backward[grid(voxels, _BLOCK, len(image))](
        image, displacement, grad, grad_image, grad_displacement, voxels, *volume_shape(image),
        image.shape[1], D=displacement.shape[1], BORDER=border, BY_IMAGE=grad_image is not None,
        BY_DISPLACEMENT=grad_displacement is not None, ACC=accumulator(displacement),
        BLOCK=_BLOCK,
    )  # fmt: skip
