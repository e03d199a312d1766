"""What a level matches: two feature maps with their masks, and how their costs are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from voxelopt_layers.bounds import bounded_gradient
from voxelopt_layers.cost_volume import Dissimilarity, bounded_cost_volume, match_in_one_pass
from voxelopt_layers.displacement import Boundary
from voxelopt_layers.pyramid import warp_features
from voxelopt_layers.solver import CoordinateDescent


class Maps(NamedTuple):
    """Features ``(B, C, *spatial)`` of both images, and masks ``(B, 1, *spatial)`` of them."""

    fixed: Tensor
    moving: Tensor
    fixed_mask: Tensor | None
    moving_mask: Tensor | None


@dataclass(frozen=True)
class Matching:
    """How the costs of two maps are made; the fields are those of `VoxelOptLayer`."""

    search_radius: int
    dissimilarity: Dissimilarity
    boundary: Boundary
    cost_dtype: torch.dtype | None

    def warped(self, maps: Maps, displacement: Tensor | None) -> Maps:
        """The moving map and its mask moved onto the fixed one."""
        if displacement is None:
            return maps
        u = bounded_gradient(displacement, self.cost_dtype)
        moving, mask = warp_features(maps.moving, maps.moving_mask, u, self.boundary)
        return maps._replace(moving=moving, moving_mask=mask)

    def volume(
        self, maps: Maps, solver: CoordinateDescent
    ) -> tuple[Tensor, Callable[[], Tensor] | None, Tensor | None]:
        """The whole cost volume, and what is known of it for the solver.

        That is what makes it again, where there is a gradient to come; and its entropy, where a
        kernel finds both in one pass.
        """
        masked = maps.fixed_mask is not None or maps.moving_mask is not None
        learned = any(t.requires_grad for t in (*maps[:2], *solver.parameters()))
        if not masked and not (learned and torch.is_grad_enabled()):
            matched = match_in_one_pass(
                *maps[:2], self.search_radius, self.dissimilarity, self.boundary, self.cost_dtype,
                solver.value("beta"), solver.probability_floor,
            )  # fmt: skip
            if matched is not None:
                return matched[0], None, matched[1]
        # As the kernels keep them: a copy of their own, or one whose changes are noticed.
        maps = maps._replace(fixed=maps.fixed.contiguous(), moving=maps.moving.contiguous())
        make = partial(self._costs, maps, star=False)
        cost = make()
        # A function of the user's may be random: it is called once.
        again = cost.requires_grad and not callable(self.dissimilarity)
        return cost, make if again else None, None

    def star(self, maps: Maps) -> Tensor:
        """Costs of a star of offsets."""
        maps = maps._replace(fixed=maps.fixed.contiguous(), moving=maps.moving.contiguous())
        return self._costs(maps, star=True)

    def own_stars(self, maps: Maps) -> tuple[Tensor, Tensor]:
        """The same of the fixed map with itself, and of the moving one with itself."""
        fixed, moving = maps[:2]
        return self.star(maps._replace(moving=fixed)), self.star(maps._replace(fixed=moving))

    def _costs(self, maps: Maps, star: bool) -> Tensor:
        dtype = self.cost_dtype or maps.fixed.dtype
        return bounded_cost_volume(
            *maps[:2], self.search_radius, self.dissimilarity, self.boundary, *maps[2:], dtype, star
        )
