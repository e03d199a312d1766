"""What `VoxelOptLayer.solve` returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Level:
    """One pyramid level: in voxels of its own grid, ``shape``."""

    velocities: tuple[Tensor, ...]  # (B, d, *shape), one for each warp of the level
    displacement: Tensor  # (B, d, *shape), composed of all velocities up to here
    entropy: Tensor  # (B, 1, *shape), nats, of the level's last cost volume

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.displacement.shape[2:])


@dataclass(frozen=True)
class Solution:
    """What `VoxelOptLayer.solve` returns; fields are ``(B, d, *spatial)`` in voxels."""

    displacement: Tensor
    inverse: Tensor | None
    levels: tuple[Level, ...]  # from coarse to fine

    @property
    def entropy(self) -> tuple[Tensor, ...]:
        """The entropy maps ``(B, 1, *shape)``, from the coarsest level to the finest."""
        return tuple(level.entropy for level in self.levels)
