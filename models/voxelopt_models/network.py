"""`RegistrationNet`: a feature encoder with the layer on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from voxelopt_layers import Solution, VoxelOptLayer, resize_displacement
from voxelopt_layers.arguments import check_on_grid, check_tensor
from voxelopt_layers.displacement import resize


class RegistrationNet(nn.Module):
    """Two images in, a displacement out: one encoder for both, then a `VoxelOptLayer`.

    Args:
        encoder: any module that maps images ``(B, C, *spatial)`` to features ``(B, F, *grid)``. The
            grid may be coarser but covers the same extent, so that a stride divides the sides.
            (`FeatureEncoder` makes one of a network that returns several maps.)
        layer: the layer; with its defaults if None.

    Raises:
        TypeError: one of them is no module.
    """

    def __init__(self, encoder: nn.Module, layer: VoxelOptLayer | None = None) -> None:
        super().__init__()
        _check_part(encoder, "encoder", "MINDSSC()")
        self.encoder = encoder
        self.layer: VoxelOptLayer = VoxelOptLayer() if layer is None else layer
        _check_part(self.layer, "layer", "VoxelOptLayer(levels=3)")

    def features(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the two images one after the other, so that batch statistics do not mix them.

        Raises:
            TypeError: an image, or what the encoder makes of it, is no tensor.
            ValueError: shapes do not fit.
        """
        check_tensor(fixed, "fixed image")
        check_tensor(moving, "moving image")
        if fixed.shape != moving.shape:
            raise ValueError(
                "fixed and moving images must have one shape, got "
                f"{tuple(fixed.shape)} and {tuple(moving.shape)}"
            )
        return self._encoded(fixed), self._encoded(moving)

    def _encoded(self, image: Tensor) -> Tensor:
        features = self.encoder(image)
        check_tensor(features, "what the encoder returns", floating=True)
        if features.dim() != image.dim() or features.shape[0] != image.shape[0]:
            raise ValueError(
                f"the encoder must map an image of shape {tuple(image.shape)} to features of "
                f"{image.dim()} axes and as many samples, (B, F, *grid), "
                f"got {tuple(features.shape)}"
            )
        return features

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
        batch, grid = fixed_features.shape[0], fixed_features.shape[2:]
        check_on_grid(batch, shape, fixed_mask, moving_mask, initial_displacement)

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


def _check_part(part: object, name: str, example: str) -> None:
    """Raise TypeError for a class, a name or keywords in the place of a module."""
    if isinstance(part, type) or not callable(part):
        raise TypeError(f"{name} must be a module, as {example}, got {part!r}")
