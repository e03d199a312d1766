"""The adaptive Gaussian on a GPU, along one axis at a time, forward and backward.

A tile holds all channels of a block of voxels, so that weights are made of sigma once for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from voxelopt_layers.gpu.tiles import accumulator, grid, tile, tile_shape


@triton.jit
def _weights(sigma, RADIUS: tl.constexpr):
    """Weight of the centre, and q, whose power j^2 is that of tap j by comparison.

    Powers are made of the one before: q^(j^2) is q^((j - 1)^2) times q^(2 j - 1).
    """
    q = tl.exp(-0.5 / (sigma * sigma))
    tap, ratio, total = q, q, 2 * q
    for _ in tl.static_range(2, RADIUS + 1):
        ratio *= q * q
        tap *= ratio
        total += 2 * tap
    return 1 / (1 + total), q


@triton.jit
def _filter(
    image, out, sigma, voxels, stride, length, RADIUS: tl.constexpr, BORDER: tl.constexpr,
    ACC: tl.constexpr, COUNT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample, _, i, inside, rows, at = tile(voxels, COUNT, ROWS, BLOCK)
    valid = rows & inside[None, :]
    centre, q = _weights(tl.load(sigma + sample * voxels + i, inside, 1.0).to(ACC), RADIUS)
    place = i // stride % length
    total = tl.load(image + at, valid, 0.0).to(ACC)
    tap, ratio = q, q
    for j in tl.static_range(1, RADIUS + 1):
        before, after = place >= j, place + j < length
        back, forth = tl.full(place.shape, j, tl.int32), tl.full(place.shape, j, tl.int32)
        if BORDER:
            back, forth = tl.minimum(back, place), tl.minimum(forth, length - 1 - place)
            before, after = inside, inside
        both = tl.load(image + at - back[None, :] * stride, valid & before[None, :], 0.0).to(ACC)
        both += tl.load(image + at + forth[None, :] * stride, valid & after[None, :], 0.0).to(ACC)
        total += tap[None, :] * both
        ratio *= q * q
        tap *= ratio
    tl.store(out + at, (total * centre[None, :]).to(out.dtype.element_ty), valid)


@triton.jit
def _filter_backward(
    image, sigma, grad, grad_image, grad_sigma, voxels, stride, length, RADIUS: tl.constexpr,
    BORDER: tl.constexpr, ACC: tl.constexpr, COUNT: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Gathers the gradient of the image; adds to that of sigma.

    With y = sum_j w_j x_j and the moment m = sum_j j^2 w_j x_j, dy / dsigma is
    (m - y sum_j j^2 w_j) / sigma^3.
    """
    sample, _, i, inside, rows, at = tile(voxels, COUNT, ROWS, BLOCK)
    valid = rows & inside[None, :]
    s = tl.load(sigma + sample * voxels + i, inside, 1.0).to(ACC)
    centre, q = _weights(s, RADIUS)
    place = i // stride % length
    g = tl.load(grad + at, valid, 0.0).to(ACC)
    y = tl.load(image + at, valid, 0.0).to(ACC)
    moment, spread = tl.zeros((ROWS, BLOCK), ACC), tl.zeros((BLOCK,), ACC)
    # What a voxel at an end of the axis gives to the taps beyond it comes back to it.
    first, last = inside & (place == 0), inside & (place == length - 1)
    own = centre
    if BORDER:
        beyond = 0.5 * (1 - centre)
        own += tl.where(first, beyond, 0.0) + tl.where(last, beyond, 0.0)
    by_image = own[None, :] * g
    tap, ratio = q, q
    for j in tl.static_range(1, RADIUS + 1):
        before, after = inside & (place >= j), inside & (place + j < length)
        back, forth = tl.full(place.shape, j, tl.int32), tl.full(place.shape, j, tl.int32)
        there, here = before, after
        if BORDER:
            back, forth = tl.minimum(back, place), tl.minimum(forth, length - 1 - place)
            there, here = inside, inside
        both = tl.load(image + at - back[None, :] * stride, valid & there[None, :], 0.0).to(ACC)
        both += tl.load(image + at + forth[None, :] * stride, valid & here[None, :], 0.0).to(ACC)
        y += tap[None, :] * both
        moment += (j * j * tap)[None, :] * both
        spread += 2 * j * j * tap
        ratio *= q * q
        tap *= ratio
        for side in tl.static_range(2):
            step = -j if side == 0 else j
            exists = before if side == 0 else after
            at_end = last if side == 0 else first
            from_sigma = tl.load(sigma + sample * voxels + i + step * stride, exists, 1.0).to(ACC)
            weight = _received(from_sigma, at_end, j, RADIUS, BORDER)
            theirs = tl.load(grad + at + step * stride, valid & exists[None, :], 0.0).to(ACC)
            by_image += tl.where(exists, weight, 0.0)[None, :] * theirs
    tl.store(grad_image + at, by_image.to(grad_image.dtype.element_ty), valid)
    y, moment, spread = y * centre[None, :], moment * centre[None, :], spread * centre
    slope = (moment - y * spread[None, :]) / (s * s * s)[None, :]
    to = grad_sigma + sample * voxels + i
    tl.store(to, tl.load(to, inside, 0.0) + tl.sum(g * slope, 0), inside)


@triton.jit
def _received(sigma, at_end, j: tl.constexpr, RADIUS: tl.constexpr, BORDER: tl.constexpr):
    """Weight with which a voxel looks at the one ``j`` away, taps beyond an end included."""
    centre, q = _weights(sigma, RADIUS)
    tap, ratio = q, q
    weight = tl.zeros_like(q)
    for n in tl.static_range(1, RADIUS + 1):
        if n == j:
            weight += tap
        if n > j and BORDER:
            weight += tl.where(at_end, tap, 0.0)
        ratio *= q * q
        tap *= ratio
    return weight * centre


def smooth(image: Tensor | None, sigma: Tensor, out: Tensor, radius: int, border: bool) -> None:
    """As `voxelopt_layers.native.smooth`."""
    source = out if image is None else image
    for b, part in _parts(out):
        here = source[b, part]
        for axis in range(2, out.dim()):
            # Between two axes nothing is rounded to what a volume is kept in.
            last = axis == out.dim() - 1
            to = out[b, part] if last else torch.empty_like(here, dtype=sigma.dtype)
            _launch(_filter, (here, to, sigma[b]), here, axis, radius, border, 2048)
            here = to


def smooth_backward(
    image: Tensor, sigma: Tensor, grad: Tensor, grad_sigma: Tensor, radius: int, border: bool
) -> None:
    """As `voxelopt_layers.native.smooth_backward`."""
    for b, part in _parts(image):
        steps = [(axis, torch.empty_like(grad[b, part])) for axis in range(3, image.dim())]
        images = [image[b, part]]
        for axis, to in steps:
            _launch(_filter, (images[-1], to, sigma[b]), to, axis - 1, radius, border, 2048)
            images.append(to)
        here = grad[b, part]
        for axis in reversed(range(2, image.dim())):
            to = torch.empty_like(here)
            tensors = (images.pop(), sigma[b], here, to, grad_sigma[b])
            _launch(_filter_backward, tensors, here, axis, radius, border, 1024)
            here = to
        grad[b, part] = here


def _parts(image: Tensor) -> Iterator[tuple[slice, slice]]:
    """A sample and few of its channels, so that what lies between two axes adds little memory."""
    step = max(1, min(32, 2**25 // image[0, 0].numel()))
    for b in range(len(image)):
        for c in range(0, image.shape[1], step):
            yield slice(b, b + 1), slice(c, c + step)


def _launch(
    kernel: Any, tensors: tuple[Tensor, ...], like: Tensor, axis: int, radius: int, border: bool,
    values: int,
) -> None:  # fmt: skip
    """Run a kernel on channels of one sample; a tile has ``values`` of them, for its registers."""
    voxels, shape = like[0, 0].numel(), tile_shape(like.shape[1], values)
    kernel[grid(voxels, shape["BLOCK"], 1)](
        *tensors, voxels, like.stride(axis), like.shape[axis], RADIUS=radius, BORDER=border,
        ACC=accumulator(tensors[-1]), **shape,
    )  # fmt: skip
