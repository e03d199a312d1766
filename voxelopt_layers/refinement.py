"""Sub-voxel coordinate descent: the cost of each voxel as a parabola along each axis.

Whole offsets leave errors of up to half a voxel, of which a cost volume says nothing more. Its
parabola does: with ``g`` the slope and ``h`` the curvature of the cost through the neighbours along
an axis, the v-step of equation 5 has a closed form there,

    argmin_v  g v + h v^2 / 2 + 1 / (2 theta) (v - u)^2  =  (u / theta - g) / (h + 1 / theta)

and the rest of the descent stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from voxelopt_layers.fused import working_dtype

# A parabola says nothing of what lies beyond the middle between two voxels.
_FARTHEST = 0.5


def subvoxel_descent(
    cost: Tensor, couplings: Iterable[Tensor | float], smooth: Callable[[Tensor], Tensor]
) -> Tensor:
    """Velocity of at most half a voxel along each axis, from the costs of a star of offsets.

    Args:
        cost: ``(B, 2 d + 1, *spatial)``, in the order of `star_offsets`.
        couplings: ``1 / (2 theta)`` of each iteration.
        smooth: the u-step.

    Returns:
        ``(B, d, *spatial)``, in voxels.
    """
    cost = cost.to(working_dtype(cost))
    before, after = cost[:, 1::2], cost[:, 2::2]
    slope = (after - before) / 2
    # Where the centre is no minimum along an axis, the coupling alone gives the step its length.
    curvature = (after + before - 2 * cost[:, :1]).clamp_min(0)
    u = torch.zeros_like(slope)
    for coupling in couplings:
        stiffness = 2 * coupling
        v = (stiffness * u - slope) / (curvature + stiffness)
        u = smooth(v.clamp(-_FARTHEST, _FARTHEST))
    return u
