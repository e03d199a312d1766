"""Raw intensities as features, on a scale that the layer's entropy is set for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Quantiles are taken of at most this many voxels, evenly spaced.
_MOST_VOXELS = 2**20


class RawIntensity(nn.Module):
    """The image itself, its window mapped to [0, 1] and cut off there.

    Args:
        window: lowest and highest intensity, for CT in HU; None takes robust percentiles of each
            sample and channel.
        percentiles: the two percentiles used when there is no window.

    Raises:
        ValueError: the window or the percentiles do not increase.
    """

    def __init__(
        self,
        window: tuple[float, float] | None = None,
        percentiles: tuple[float, float] = (0.5, 99.5),
    ) -> None:
        super().__init__()
        for name, pair in (("window", window), ("percentiles", percentiles)):
            if pair is not None and not pair[0] < pair[1]:
                raise ValueError(f"{name} must go from low to high, got {pair}")
        self.window = window
        self.percentiles = percentiles

    def forward(self, image: Tensor) -> Tensor:
        """Map ``(B, C, *spatial)`` to [0, 1], float32 at least; a constant image to 0."""
        image = image.to(torch.promote_types(image.dtype, torch.float32))
        if self.window is not None:
            low, high = self.window
            return ((image - low) / (high - low)).clamp(0, 1)
        image = 0.5 * image  # the largest and the least may be further apart than float32 holds
        values = image.flatten(2)
        values = values[:, :, :: -(-values.shape[2] // _MOST_VOXELS)]
        points = torch.tensor(self.percentiles, device=image.device, dtype=image.dtype) / 100
        bounds = torch.quantile(values, points, dim=2)
        low, high = torch.unflatten(bounds, 2, (-1, *[1] * (image.dim() - 2)))
        # The square of this floor is still a number: the gradient of a constant image is 0.
        width = (high - low).clamp_min(torch.finfo(image.dtype).tiny ** 0.5)
        return ((image - low) / width).clamp(0, 1)

    def extra_repr(self) -> str:
        return f"window={self.window}, percentiles={self.percentiles}"
