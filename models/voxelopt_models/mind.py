"""MIND-SSC, the modality-independent neighbourhood descriptor, as an encoder."""

from __future__ import annotations

from torch import Tensor, nn

from voxelopt_layers.self_similarity import mind_ssc


class MINDSSC(nn.Module):
    """`mind_ssc` as an encoder.

    Of a window of intensities alone: ``nn.Sequential(RawIntensity(window), MINDSSC())``.

    Args:
        radius: of the patches, in voxels.
        dilation: distance of the neighbours, in voxels.
    """

    def __init__(self, radius: int = 2, dilation: int = 2) -> None:
        super().__init__()
        self.radius = radius
        self.dilation = dilation

    def forward(self, image: Tensor) -> Tensor:
        return mind_ssc(image, self.radius, self.dilation)

    def extra_repr(self) -> str:
        return f"radius={self.radius}, dilation={self.dilation}"
