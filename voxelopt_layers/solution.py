"""What `VoxelOptLayer.solve` returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Level:
    """One pyramid level: in voxels of its own grid, ``shape``."""

    velocities: tuple[Tensor, ...]  # (B, d, *shape), one for each warp, where asked for
    displacement: Tensor  # (B, d, *shape), composed of all velocities up to here
    entropy: Tensor  # (B, 1, *shape), nats, of the level's last cost volume

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.displacement.shape[2:])


@dataclass(frozen=True)
class Solution:
    """What `VoxelOptLayer.solve` returns.

    Attributes:
        displacement: ``(B, d, *spatial)`` in voxels: ``warped(x) = moving(x + u(x))``.
        inverse: the same from the moving to the fixed image, composed of the exponentials of the
            negated velocities; None where it was not asked for.
        levels: what each pyramid level found, from coarse to fine.
        entropy: of all levels, from coarse to fine: ``(B, 1, *shape)`` each, in nats.
    """

    displacement: Tensor
    inverse: Tensor | None
    levels: tuple[Level, ...]

    @property
    def entropy(self) -> tuple[Tensor, ...]:
        """The entropy maps ``(B, 1, *shape)``, from the coarsest level to the finest."""
        return tuple(level.entropy for level in self.levels)
