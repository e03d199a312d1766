"""`RegistrationNet`: a feature encoder with the layer on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from voxelopt_layers import Solution, VoxelOptLayer, resize_displacement
from voxelopt_layers.displacement import resize


class RegistrationNet(nn.Module):
    """Two images in, a displacement out: one encoder for both, then a `VoxelOptLayer`.

    Args:
        encoder: any module that maps images ``(B, C, *spatial)`` to features ``(B, F, *grid)``. The
            grid may be coarser but covers the same extent, so that a stride divides the sides.
        layer: the layer; with its defaults if None.
    """

    def __init__(self, encoder: nn.Module, layer: VoxelOptLayer | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.layer: VoxelOptLayer = VoxelOptLayer() if layer is None else layer

    def features(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the two images one after the other, so that batch statistics do not mix them."""
        if fixed.shape != moving.shape:
            raise ValueError(
                "fixed and moving images must have one shape, got "
                f"{tuple(fixed.shape)} and {tuple(moving.shape)}"
            )
        return self.encoder(fixed), self.encoder(moving)

    def forward(self, fixed: Tensor, moving: Tensor, **options: Any) -> Tensor:
        """Displacement ``(B, d, *spatial)`` in voxels; options as in `VoxelOptLayer.solve`."""
        return self.solve(fixed, moving, inverse=False, **options).displacement

    def solve(self, fixed: Tensor, moving: Tensor, **options: Any) -> Solution:
        """As `VoxelOptLayer.solve`, from images ``(B, C, *spatial)`` and in their voxels."""
        return self.solve_features(*self.features(fixed, moving), fixed.shape[2:], **options)

    def solve_features(
        self,
        fixed_features: Tensor,
        moving_features: Tensor,
        shape: Sequence[int],
        *,
        fixed_mask: Tensor | None = None,
        moving_mask: Tensor | None = None,
        initial_displacement: Tensor | None = None,
        **options: Any,
    ) -> Solution:
        """As `VoxelOptLayer.solve`, from features of images of a finer grid.

        Args:
            fixed_features: ``(B, F, *grid)``.
            moving_features: of the same shape.
            shape: the images' spatial shape; their extent is that of the features.
            fixed_mask: ``(B, 1, *shape)``, see `VoxelOptLayer.solve`.
            moving_mask: the same for the moving image.
            initial_displacement: ``(B, d, *shape)`` in the images' voxels.
            options: further ones of `VoxelOptLayer.solve`.

        Returns:
            A `Solution` whose displacement and inverse are on the images' grid, in its voxels; its
            levels are those of the features' grid.
        """
        grid = fixed_features.shape[2:]

        def on_images(displacement: Tensor) -> Tensor:
            return resize_displacement(displacement, shape)

        solution = self.layer.solve(
            fixed_features,
            moving_features,
            fixed_mask=None if fixed_mask is None else resize(fixed_mask.float(), grid),
            moving_mask=None if moving_mask is None else resize(moving_mask.float(), grid),
            initial_displacement=(
                None
                if initial_displacement is None
                else resize_displacement(initial_displacement, grid)
            ),
            **options,
        )
        return replace(
            solution,
            displacement=on_images(solution.displacement),
            inverse=None if solution.inverse is None else on_images(solution.inverse),
        )
