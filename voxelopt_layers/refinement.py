"""Sub-voxel refinement: the cost of each voxel as a parabola along each axis.

Whole offsets leave errors of up to half a voxel, of which a cost volume says nothing more. Its
parabola does: with ``g`` the slope and ``h`` the curvature along an axis of the filtered cost,
through the two neighbours there, one damped Newton step (Levenberg, 1944) has a closed form,

    v = argmin_v  g v + h v^2 / 2 + 1 / (2 theta) v^2  =  -g / (h + 1 / theta),    u = K_sigma * v

That slope is not 0 where the maps lie on each other already, since costs rise faster on one side of
an edge than on the other. The slope that a map has with itself is taken off, the mean of both maps,
since each has noise of its own: an image that is registered to itself stays where it is.

Many such steps would follow the noise of the costs ever closer. What keeps them from it, beside
the filter, is a pull of the whole displacement towards a smoother one, as in demons (Thirion,
1998); written as a velocity, it leaves the field diffeomorphic and its inverse at hand.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from voxelopt_layers.fused import working_dtype
from voxelopt_layers.message_passing import adaptive_gaussian

THETA = 5.0
# A parabola says nothing of what lies beyond the middle between two voxels.
FARTHEST = 0.5
# Width in voxels of the smoother displacement.
ELASTIC_SIGMA = 0.7
# Of steps so short: 2^4 of them are a thirtieth of a voxel each.
SQUARINGS = 4


def own_slope(fixed: Tensor, moving: Tensor, smooth: Callable[[Tensor], Tensor]) -> Tensor:
    """What `subvoxel_step` takes off as ``own``, ``(B, d, *spatial)``.

    Args:
        fixed: costs of the fixed map with itself, ``(B, 2 d + 1, *spatial)``.
        moving: of the warped moving map with itself.
        smooth: the filter of the costs.
    """
    slopes = [cost[:, 1::2].to(working_dtype(cost)) - cost[:, 2::2] for cost in (fixed, moving)]
    return smooth((slopes[0] + slopes[1]).div_(2))


def subvoxel_step(cost: Tensor, own: Tensor, smooth: Callable[[Tensor], Tensor]) -> Tensor:
    """Velocity of at most half a voxel along each axis, from the costs of a star of offsets.

    Args:
        cost: ``(B, 2 d + 1, *spatial)``, in the order of `star_offsets`.
        own: of each map with itself, see `own_slope`.
        smooth: the filter of the costs and of the velocity.

    Returns:
        ``(B, d, *spatial)``, in voxels.
    """
    cost = smooth(cost.to(working_dtype(cost)))
    centre, before, after = cost[:, :1], cost[:, 1::2], cost[:, 2::2]
    # Where the centre is no minimum along an axis, theta alone gives the step its length.
    curvature = (before + after).sub_(2 * centre).clamp_min_(0)
    step = (before - after).sub_(own).div_(2).div_(curvature.add_(1 / THETA))
    return smooth(step.clamp_(-FARTHEST, FARTHEST))


def elastic_velocity(displacement: Tensor) -> Tensor:
    """``v = K * u - u``, by which ``compose(u, v)`` is a smoother ``u``, to first order.

    Args:
        displacement: ``(B, d, *spatial)``, in voxels.

    Returns:
        Of the same shape; 0 in the interior wherever ``u`` is linear.
    """
    sigma = torch.full_like(displacement[:, :1], ELASTIC_SIGMA)
    return adaptive_gaussian(displacement, sigma, radius=2) - displacement
