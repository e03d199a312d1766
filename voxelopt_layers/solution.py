"""What `VoxelOptLayer.solve` returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from voxelopt_layers.axes import turned


@dataclass(frozen=True)
class Level:
    """One pyramid level: in voxels of its own grid, ``shape``."""

    velocities: tuple[Tensor, ...]  # (B, d, *shape), one for each warp, where asked for
    displacement: Tensor  # (B, d, *shape), composed of all velocities up to here
    entropy: Tensor  # (B, 1, *shape), nats, of the level's last cost volume

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.displacement.shape[2:])

    def turned(self, axes: Sequence[int]) -> Level:
        """The same with the spatial axes in this order."""
        return Level(
            tuple(turned(velocity, axes, vectors=True) for velocity in self.velocities),
            turned(self.displacement, axes, vectors=True),
            turned(self.entropy, axes),
        )


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

    def turned(self, axes: Sequence[int]) -> Solution:
        """The same with the spatial axes in this order."""
        return Solution(
            turned(self.displacement, axes, vectors=True),
            None if self.inverse is None else turned(self.inverse, axes, vectors=True),
            tuple(level.turned(axes) for level in self.levels),
        )
