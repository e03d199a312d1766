"""`RegistrationNet`: a feature encoder with the layer on top."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from voxelopt_layers import Solution, VoxelOptLayer


class RegistrationNet(nn.Module):
    """Two images in, a displacement out: one encoder for both, then a `VoxelOptLayer`.

    Args:
        encoder: any module that maps images ``(B, C, *spatial)`` to features ``(B, F, *spatial)``.
        layer: the layer; with the defaults that measured best if None.
    """

    def __init__(self, encoder: nn.Module, layer: VoxelOptLayer | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.layer = VoxelOptLayer() if layer is None else layer

    def features(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the two images one after the other, so that batch statistics do not mix them."""
        if fixed.shape != moving.shape:
            raise ValueError(
                "fixed and moving images must have one shape, got "
                f"{tuple(fixed.shape)} and {tuple(moving.shape)}"
            )
        fixed_features, moving_features = self.encoder(fixed), self.encoder(moving)
        if fixed_features.shape[2:] != fixed.shape[2:]:
            raise ValueError(
                f"the encoder must keep the spatial shape {tuple(fixed.shape[2:])}, it returned "
                f"{tuple(fixed_features.shape[2:])}"
            )
        return fixed_features, moving_features

    def forward(self, fixed: Tensor, moving: Tensor, **options: Any) -> Tensor:
        """Displacement ``(B, d, *spatial)`` in voxels; options as in `VoxelOptLayer.solve`."""
        return self.layer(*self.features(fixed, moving), **options)

    def solve(self, fixed: Tensor, moving: Tensor, **options: Any) -> Solution:
        """As `VoxelOptLayer.solve`, from images ``(B, C, *spatial)``."""
        return self.layer.solve(*self.features(fixed, moving), **options)
