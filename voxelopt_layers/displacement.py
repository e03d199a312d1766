"""Displacement fields: sampling, warping, composition, exponential, inverse, Jacobian.

A displacement ``u`` is ``(B, d, *spatial)``, in voxels of the grid it lives on; channel n moves
along spatial axis n (array index order), and it pulls back: ``warped(x) = moving(x + u(x))``.
``d`` is 2 or 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from voxelopt_layers import native
from voxelopt_layers.arguments import (
    check_choice,
    check_count,
    check_displacement,
    check_same_grid,
    check_samples,
    check_shape,
    check_tensor,
)
from voxelopt_layers.autograd import without_autocast
from voxelopt_layers.bounds import LARGEST
from voxelopt_layers.fused import FusedExponential, FusedWarp

Boundary = Literal["zeros", "border"]
BOUNDARIES: tuple[str, ...] = get_args(Boundary)
_MODES = ("linear", "nearest")
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def identity_coordinates(like: Tensor) -> Tensor:
    """Voxel coordinates ``(1, d, *spatial)`` of the grid of ``like`` ``(B, C, *spatial)``."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    axes = [torch.arange(n, device=like.device, dtype=dtype) for n in like.shape[2:]]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def sample(
    image: Tensor,
    coordinates: Tensor,
    mode: Literal["linear", "nearest"] = "linear",
    boundary: Boundary = "zeros",
) -> Tensor:
    """Values of ``image`` at voxel coordinates that need not lie on its grid.

    Args:
        image: ``(B, C, *spatial)``; integer images are sampled in float64 and rounded.
        coordinates: ``(B, d, *out)``, in voxels of ``image``, channel n along spatial axis n.
        mode: ``"linear"`` (bi- or trilinear) or ``"nearest"``.
        boundary: outside the image the value is 0 (``"zeros"``) or the nearest voxel's
            (``"border"``).

    Returns:
        ``(B, C, *out)`` in the dtype of ``image``.
    """
    check_tensor(image, "image")
    check_tensor(coordinates, "coordinates")
    check_choice(mode, "mode", _MODES)
    check_choice(boundary, "boundary", BOUNDARIES)
    d = image.dim() - 2
    if coordinates.dim() < 2 or coordinates.shape[1] != d:
        raise ValueError(
            f"coordinates must have {d} channels for an image of shape {tuple(image.shape)}, "
            f"got {tuple(coordinates.shape)}"
        )
    check_samples(image, "image", coordinates, "coordinates")
    # In half precision a coordinate is off by whole voxels in a large volume: float32 at least.
    dtype = torch.promote_types(coordinates.dtype, torch.float32)
    # float32 would alter integers from 2^24 on.
    exact = image.dtype if image.is_floating_point() else torch.float64
    if image.device.type != "mps":  # which has no float64
        dtype = torch.promote_types(dtype, exact)
    # What lies further out is outside all the same.
    coordinates = coordinates.to(dtype).clamp(-LARGEST, LARGEST)
    # grid_sample wants the last axis first, scaled so that -1 and 1 are the outer voxel edges.
    grid = torch.stack(
        [(2 * coordinates[:, n] + 1) / image.shape[2 + n] - 1 for n in reversed(range(d))],
        dim=-1,
    ).expand(image.shape[0], *coordinates.shape[2:], d)
    # In 2-D the backward pass of grid_sample ends the process over a NaN: it goes around that.
    unknown = grid.isnan().any(-1) if d == 2 else None
    with without_autocast(image.device):
        out = F.grid_sample(
            image.to(dtype),
            grid if unknown is None else grid.masked_fill(unknown[..., None], 0),
            mode="bilinear" if mode == "linear" else "nearest",
            padding_mode=boundary,
            align_corners=False,
        )
    if not image.is_floating_point():
        return out.round().to(image.dtype)
    if unknown is not None:
        out = out.masked_fill(unknown[:, None], torch.nan)
    return out.to(image.dtype)


def warp(
    moving: Tensor,
    displacement: Tensor,
    mode: Literal["linear", "nearest"] = "linear",
    boundary: Boundary = "zeros",
) -> Tensor:
    """Pull ``moving`` back through a displacement: ``warped(x) = moving(x + u(x))``.

    Args:
        moving: ``(B, C, *spatial)``.
        displacement: ``(B, d, *spatial)`` in voxels.
        mode: ``"linear"`` for images and features, ``"nearest"`` for labels.
        boundary: what lies outside ``moving``, see `sample`.

    Returns:
        ``(B, C, *spatial)`` in the dtype of ``moving``.
    """
    check_same_grid(moving, "moving", displacement, "displacement")
    check_choice(mode, "mode", _MODES)
    check_choice(boundary, "boundary", BOUNDARIES)
    if mode == "linear" and _fits(moving, displacement):
        return FusedWarp.apply(moving, displacement, boundary == "border", False)
    return sample(moving, identity_coordinates(displacement) + displacement, mode, boundary)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Displacement of ``(id + outer) o (id + inner)``: ``inner(x) + outer(x + inner(x))``.

    ``warp(warp(image, outer), inner)`` is ``warp(image, compose(outer, inner))`` with one
    interpolation less. Outside the grid ``outer`` continues with its border value.

    Args:
        outer: ``(B, d, *spatial)`` in voxels, applied last.
        inner: ``(B, d, *spatial)`` in voxels, applied first.

    Returns:
        ``(B, d, *spatial)`` in voxels.
    """
    check_displacement(outer, "outer")
    check_same_grid(outer, "outer", inner, "inner")
    if outer.shape == inner.shape and _fits(outer, inner):
        return FusedWarp.apply(outer, inner, True, True)
    return inner + warp(outer, inner, boundary="border")


def _fits(image: Tensor, displacement: Tensor) -> bool:
    """Whether the kernel for warps on one grid can be used."""
    return image.shape[0] == displacement.shape[0] and native.suits(image, displacement)


def exponentiate(velocity: Tensor, steps: int = 7) -> Tensor:
    """Exponential of a stationary velocity field by scaling and squaring (Arsigny et al., 2006).

    ``exp(v) = (id + v / 2^steps)`` composed with itself ``2^steps`` times, in ``steps`` squarings.

    Args:
        velocity: ``(B, d, *spatial)`` in voxels per unit time.
        steps: number of squarings; 0 returns ``velocity`` unchanged.

    Returns:
        Displacement ``(B, d, *spatial)`` in voxels; its inverse is ``exponentiate(-velocity)``.
    """
    check_displacement(velocity, "velocity")
    check_count(steps, "steps", 0)
    if steps > 0 and native.suits(velocity):
        return FusedExponential.apply(velocity, steps)
    displacement = velocity / 2**steps
    for _ in range(steps):
        displacement = compose(displacement, displacement)
    return displacement


def invert(displacement: Tensor, iterations: int = 20) -> Tensor:
    """Inverse of a displacement by the fixed point ``w(x) = -u(x + w(x))`` (Chen et al., 2008).

    For fields that come without a velocity; it converges where ``u`` has a Lipschitz constant
    below 1. Fields of `VoxelOptLayer` need it not: ``solve()`` composes their inverse from the
    negated velocities.

    Args:
        displacement: ``(B, d, *spatial)`` in voxels.
        iterations: number of fixed-point steps.

    Returns:
        ``(B, d, *spatial)`` in voxels.
    """
    check_displacement(displacement)
    inverse = -displacement
    for _ in range(iterations):
        inverse = -warp(displacement, inverse, boundary="border")
    return inverse


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Determinant of the Jacobian of ``x + u(x)``: local volume change, ``<= 0`` where it folds.

    Central differences inside, one-sided at the border; along an axis of a single voxel the
    field is taken as constant. Derivatives are cut off at +-2^30.

    Args:
        displacement: ``(B, d, *spatial)`` in voxels.

    Returns:
        ``(B, *spatial)``, without unit.
    """
    d = check_displacement(displacement)

    def row(n: int) -> list[Tensor]:
        out: list[Tensor] = []
        for axis in range(d):
            if displacement.shape[2 + axis] > 1:
                derivative = torch.gradient(displacement[:, n], dim=1 + axis)[0]
                derivative = derivative.clamp(-LARGEST, LARGEST)
            else:
                derivative = torch.zeros_like(displacement[:, n])
            out.append(derivative + 1 if axis == n else derivative)
        return out

    if d == 2:
        (a, b), (c, e) = row(0), row(1)
        return a * e - b * c
    (a, b, c), (e, f, g), (h, i, j) = row(0), row(1), row(2)
    return a * (f * j - g * i) - b * (e * j - g * h) + c * (e * i - f * h)


def resize(image: Tensor, shape: Sequence[int], align_corners: bool = False) -> Tensor:
    """Resample ``(B, C, *spatial)`` linearly to another number of voxels over the same extent.

    With ``align_corners`` the centres of the corner voxels coincide, else the outer voxel edges.
    """
    if tuple(image.shape[2:]) == tuple(shape):
        return image
    mode = _LINEAR[image.dim() - 2]
    return F.interpolate(image, size=tuple(shape), mode=mode, align_corners=align_corners)


def resize_displacement(
    displacement: Tensor,
    shape: Sequence[int],
    align_corners: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Resample a displacement to another grid of the same extent, in voxels of the new grid.

    Args:
        displacement: ``(B, d, *spatial)`` in voxels.
        shape: the new spatial shape.
        align_corners: which points of the two grids coincide, see `resize`.
        scale: factor on the displacement of every axis that changes its length; by default
            the exact ratio of the two voxel sizes along each axis.

    Returns:
        ``(B, d, *shape)`` in voxels of the new grid.
    """
    d = check_displacement(displacement)
    check_shape(shape, d)
    old = displacement.shape[2:]
    if tuple(old) == tuple(shape):
        return displacement
    factors: list[float] = []
    for n, m in zip(old, shape, strict=True):
        exact = (m - 1) / max(n - 1, 1) if align_corners else m / n
        factors.append(1.0 if n == m else exact if scale is None else scale)
    per_axis = displacement.new_tensor(factors).reshape(1, -1, *[1] * len(factors))
    return resize(displacement, shape, align_corners) * per_axis
