"""Any network as a feature encoder, frozen or trainable, with normalised maps; and stacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxelopt_layers.displacement import resize
from voxelopt_models.weights import load_weights

Normalisation = Literal["none", "channel", "softmax", "unit"]


def normalise(features: Tensor, normalisation: Normalisation) -> Tensor:
    """Bring features ``(B, F, *spatial)`` to a known spread, in float32 at least.

    ``"channel"``: mean 0 and standard deviation 1 of each sample and channel; ``"softmax"``:
    probabilities over the channels; ``"unit"``: vectors of length 1 over the channels.
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    if normalisation == "channel":
        return F.instance_norm(features, eps=1e-8)
    if normalisation == "softmax":
        return features.softmax(1)
    if normalisation == "unit":
        return F.normalize(features, dim=1, eps=1e-6)
    return features


class EncoderError(ValueError):
    """An image that a network cannot take, said in one sentence."""


class FeatureEncoder(nn.Module):
    """A network whose pre-softmax maps are the features.

    The layer's entropy depends on the features' spread: ``normalisation`` and ``scale`` have to
    suit its ``beta``. Logits of some tens register better times 0.1, and often better as softmax.

    Args:
        network: any module from images ``(B, C, *spatial)`` to maps ``(B, F, *spatial)``, or to a
            list of them (deep supervision).
        weights: checkpoint to start from, see `load_weights`.
        trainable: False freezes the parameters and keeps the network in evaluation mode, so that
            batch statistics and dropout stand still too.
        normalisation: ``"none"``, ``"channel"``, ``"softmax"`` or ``"unit"``, see `normalise`.
        scale: factor on the normalised features.
        divisor: images whose sides are no multiple of it are padded with their border for the
            network, and the maps cropped.

    Raises:
        ValueError: a keyword is out of its range.
        WeightsError: the weights do not fit.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        weights: str | Path | None = None,
        trainable: bool = True,
        normalisation: Normalisation = "none",
        scale: float = 1.0,
        divisor: int = 1,
    ) -> None:
        super().__init__()
        if normalisation not in get_args(Normalisation):
            raise ValueError(
                f"normalisation must be one of {get_args(Normalisation)}, got {normalisation!r}"
            )
        if not scale > 0 or divisor < 1:
            raise ValueError(
                f"scale must be above 0 and divisor at least 1, got {scale} and {divisor}"
            )
        self.network = network
        self.trainable = trainable
        self.normalisation: Normalisation = normalisation
        self.scale = scale
        self.divisor = divisor
        if weights is not None:
            load_weights(network, weights)
        if not trainable:
            network.requires_grad_(False)
            network.eval()

    def train(self, mode: bool = True) -> FeatureEncoder:
        super().train(mode)
        if not self.trainable:
            self.network.eval()
        return self

    def logits(self, image: Tensor) -> Tensor:
        """The network's maps ``(B, F, *spatial)``, or coarser, as they are.

        Raises:
            EncoderError: the network cannot take the image.
            ValueError: the network returns no maps, or coarser ones of an image whose sides are no
                multiples of the divisor: these would not cover the image's extent.
        """
        shape = image.shape[2:]
        missing = [-n % self.divisor for n in shape]
        if not any(missing):
            return self._maps(image)
        # F.pad wants the last axis first, and before each axis comes behind it.
        pads = [pad for n in reversed(missing) for pad in (n // 2, n - n // 2)]
        padded = F.pad(image, pads, mode="replicate")
        maps = self._maps(padded)
        if maps.shape[2:] != padded.shape[2:]:
            raise ValueError(
                f"the network's maps are coarser than the image, whose sides {tuple(shape)} must "
                f"then be multiples of {self.divisor}"
            )
        for axis, n in enumerate(missing):
            maps = maps.narrow(2 + axis, n // 2, shape[axis])
        return maps

    def _maps(self, image: Tensor) -> Tensor:
        try:
            maps = self.network(image)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise
            raise EncoderError(
                f"the network cannot take an image of {tuple(image.shape[1:])}: {error}; sides are "
                f"padded to multiples of the encoder's divisor, which is {self.divisor} (a U-Net "
                "with four strides of 2 wants 16)"
            ) from error
        return _finest_map(maps, image.dim())

    def forward(self, image: Tensor) -> Tensor:
        """Features ``(B, F, *spatial)``, or coarser, float32 at least."""
        return self.scale * normalise(self.logits(image), self.normalisation)

    def extra_repr(self) -> str:
        return (
            f"trainable={self.trainable}, normalisation={self.normalisation!r}, "
            f"scale={self.scale}, divisor={self.divisor}"
        )


class FeatureStack(nn.Module):
    """The features of several encoders as the channels of one map, on the finest of their grids.

    Args:
        encoders: modules from images ``(B, C, *spatial)`` to features.
    """

    def __init__(self, encoders: Sequence[nn.Module]) -> None:
        super().__init__()
        if not encoders:
            raise ValueError("a FeatureStack needs at least one encoder")
        self.encoders: nn.ModuleList = nn.ModuleList(encoders)

    def forward(self, image: Tensor) -> Tensor:
        maps = [encoder(image) for encoder in self.encoders]
        finest = max((features.shape[2:] for features in maps), key=lambda shape: shape.numel())
        return torch.cat([resize(features, finest) for features in maps], dim=1)


def _finest_map(output: Any, dims: int) -> Tensor:
    """The map of most voxels in what a network returned, the first of several."""
    # Networks with deep supervision return lists, or all maps stacked behind the batch axis.
    if isinstance(output, Tensor) and output.dim() == dims + 1:
        return output[:, 0]
    maps = [tensor for tensor in _tensors(output) if tensor.dim() == dims]
    if not maps:
        raise ValueError(f"the network must return maps with {dims} axes: (B, F, *spatial)")
    return max(maps, key=lambda tensor: tensor.shape[2:].numel())


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple)):
        for item in cast(Sequence[Any], output):
            yield from _tensors(item)
