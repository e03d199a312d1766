"""What training minimises: dissimilarity of the warped image, roughness of the field, overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from monai.losses.deform import BendingEnergyLoss, DiffusionLoss
from monai.losses.dice import DiceLoss
from monai.losses.image_dissimilarity import LocalNormalizedCrossCorrelationLoss
from torch import Tensor, nn

from voxelopt_layers import warp
from voxelopt_layers.autograd import without_autocast
from voxelopt_layers.displacement import resize
from voxelopt_models import mind_ssc

Similarity = Literal["ncc", "mind", "mse"]
Smoothness = Literal["diffusion", "bending"]
_NCC_WINDOW = 9


class RegistrationLoss(nn.Module):
    """Weighted sum of an image term, a smoothness term and, with labels, an overlap term.

    Args:
        similarity: of the warped moving image and the fixed one: ``"ncc"``, local normalised cross
            correlation in a window of 9 voxels; ``"mind"``, mean absolute difference of MIND-SSC;
            ``"mse"``.
        similarity_weight: its weight; 0 leaves it out.
        smoothness: ``"diffusion"`` (squared first derivatives) or ``"bending"`` (squared second
            derivatives) of the displacement in voxels.
        smoothness_weight: its weight.
        label_weight: weight of the soft Dice loss of the warped one-hot labels, background left
            out: semi-supervised training. 0 never looks at labels.
        level_weights: weights of the fields of the pyramid from the finest level on. The default
            rates the final field alone.

    Raises:
        ValueError: an unknown name, or a negative weight.
    """

    def __init__(
        self,
        similarity: Similarity = "ncc",
        similarity_weight: float = 1.0,
        smoothness: Smoothness = "diffusion",
        smoothness_weight: float = 1.0,
        label_weight: float = 0.0,
        level_weights: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("similarity", similarity, get_args(Similarity)),
            ("smoothness", smoothness, get_args(Smoothness)),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {value!r}")
        weights = (similarity_weight, smoothness_weight, label_weight, *level_weights)
        if min(weights) < 0 or sum(level_weights) == 0:
            raise ValueError("the weights of a loss must be at least 0, one level's above 0")
        self.similarity: Similarity = similarity
        self.similarity_weight = similarity_weight
        self.smoothness_weight = smoothness_weight
        self.label_weight = label_weight
        self.level_weights: tuple[float, ...] = tuple(level_weights)
        self._smoothness = DiffusionLoss() if smoothness == "diffusion" else BendingEnergyLoss()
        self._dice = DiceLoss(include_background=True)  # the channels are the organs alone

    def forward(
        self,
        displacements: Sequence[Tensor],
        fixed: Tensor,
        moving: Tensor,
        fixed_organs: Tensor | None = None,
        moving_organs: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The terms, each times its weight, and their sum.

        Args:
            displacements: ``(B, d, *shape)`` in voxels of their own grids, the finest first.
            fixed: image ``(B, 1, *spatial)``.
            moving: image ``(B, 1, *spatial)``.
            fixed_organs: ``(B, L, *spatial)``, one channel per label, 0 or 1.
            moving_organs: the same of the moving image.

        Returns:
            ``similarity``, ``smoothness`` and ``labels`` as far as they are used, and ``loss``.

        Raises:
            ValueError: labels are asked for and missing, or there are fewer levels than weights.
        """
        if self.label_weight > 0 and (fixed_organs is None or moving_organs is None):
            raise ValueError("label_weight is above 0, but the training pairs have no labels")
        if len(displacements) < len(self.level_weights):
            raise ValueError(
                f"{len(self.level_weights)} level_weights for {len(displacements)} pyramid levels"
            )
        terms: dict[str, Tensor] = {}
        with without_autocast(fixed.device):  # sums over windows lose bf16
            for weight, u in zip(self.level_weights, displacements, strict=False):
                if weight == 0:
                    continue
                pairs = {"similarity": (fixed, moving)} if self.similarity_weight else {}
                if self.label_weight and fixed_organs is not None and moving_organs is not None:
                    pairs["labels"] = (fixed_organs, moving_organs)
                level = {
                    name: self._term(name, _on_grid(pair[0], u), _on_grid(pair[1], u), u)
                    for name, pair in pairs.items()
                }
                level["smoothness"] = self.smoothness_weight * self._smoothness(u)
                for name, value in level.items():
                    terms[name] = terms.get(name, 0.0) + weight * value
        terms["loss"] = torch.stack(list(terms.values())).sum()
        return terms

    def _term(self, name: str, fixed: Tensor, moving: Tensor, u: Tensor) -> Tensor:
        if name == "labels":
            return self.label_weight * self._dice(warp(moving, u), fixed)
        warped = warp(moving, u, boundary="border")
        return self.similarity_weight * _SIMILARITIES[self.similarity](warped, fixed)


def organ_maps(labels: Tensor, ids: Sequence[int]) -> Tensor:
    """Labels ``(B, 1, *spatial)`` as ``(B, len(ids), *spatial)``: 1 where the label is the id."""
    channels = torch.tensor(ids, device=labels.device).reshape(1, -1, *[1] * (labels.dim() - 2))
    return (labels == channels).float()


def _on_grid(image: Tensor, u: Tensor) -> Tensor:
    return resize(image.float(), u.shape[2:])


def _ncc(warped: Tensor, fixed: Tensor) -> Tensor:
    loss = LocalNormalizedCrossCorrelationLoss(fixed.dim() - 2, kernel_size=_NCC_WINDOW)
    return loss(warped, fixed)


def _mind(warped: Tensor, fixed: Tensor) -> Tensor:
    return (mind_ssc(warped) - mind_ssc(fixed)).abs().mean()


def _mse(warped: Tensor, fixed: Tensor) -> Tensor:
    return (warped - fixed).square().mean()


_SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ncc": _ncc,
    "mind": _mind,
    "mse": _mse,
}
