"""`SegmentationModule`: trains an encoder on the masks alone, for frozen segmentation features."""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from monai.losses.dice import DiceCELoss
from torch import Tensor
from torchmetrics.segmentation import DiceScore

from voxelopt_models import FeatureEncoder
from voxelopt_train.errors import InputError
from voxelopt_train.learning.layouts import suit_convolutions
from voxelopt_train.learning.lookups import both_have, data_labels, training_steps


class SegmentationModule(lightning.LightningModule):
    """Dice and cross entropy on the logits of an encoder, from the images and labels of pairs.

    The checkpoint is what ``FeatureEncoder(network, weights=...)`` takes. Each batch gives both of
    its images, so that the data of a registration serve without a change.

    Args:
        encoder: its network's maps are the logits: background first, then one channel per label of
            the data, in ascending order.
        learning_rate: of AdamW; it falls to 0 along half a cosine.

    Raises:
        ValueError: the encoder is frozen.
    """

    def __init__(self, encoder: FeatureEncoder, learning_rate: float = 1e-3) -> None:
        super().__init__()
        if not any(p.requires_grad for p in encoder.parameters()):
            raise ValueError("a segmentation encoder is trained, so it cannot be frozen")
        self.encoder = encoder
        self.learning_rate = learning_rate
        self.loss: DiceCELoss = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.encoder.parameters(), lr=self.learning_rate)
        steps = max(1, training_steps(self.trainer))

        # A function is no part of a checkpoint, so that a training that goes on for more epochs
        # than it was begun with follows the longer curve.
        def cosine(step: int) -> float:
            return 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def setup(self, stage: str) -> None:
        if stage == "fit":
            suit_convolutions(self)

    def on_train_start(self) -> None:
        # A training that goes on may be given another rate than the checkpoint's.
        schedule: Any = self.lr_schedulers()
        schedule.base_lrs = [self.learning_rate]

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        losses = [self.loss(logits.float(), classes) for logits, classes in self._segment(batch)]
        loss = torch.stack(losses).mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=batch["fixed"].shape[0])
        return loss

    def on_validation_epoch_start(self) -> None:
        classes = len(data_labels(self.trainer)) + 1
        dice = DiceScore(classes, include_background=False, average="macro", input_format="index")
        self._dice = dice.to(self.device)

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        for logits, classes in self._segment(batch):
            self._dice.update(logits.argmax(1), classes[:, 0])

    def on_validation_epoch_end(self) -> None:
        # The same in all processes by now, which Lightning cannot know: the mean changes none.
        self.log("validation/dice", self._dice.compute(), prog_bar=True, sync_dist=True)
        self._dice.reset()

    def _segment(self, batch: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
        """Logits ``(B, classes, *spatial)`` and classes ``(B, 1, *spatial)`` of each image."""
        if not both_have(batch, "labels"):
            raise InputError(
                f"a segmentation encoder is trained on labels, and of the pair "
                f"{batch['fixed_name'][0]}, {batch['moving_name'][0]} one has none"
            )
        results = []
        ids = torch.tensor((0, *data_labels(self.trainer)), device=batch["fixed"].device)
        for image in ("fixed", "moving"):
            logits = self.encoder.logits(batch[image])
            labels = batch[f"{image}_labels"].long()
            if logits.shape[1] != len(ids) or logits.shape[2:] != labels.shape[2:]:
                raise InputError(
                    f"the encoder's maps are {tuple(logits.shape[1:])}, expected "
                    f"{(len(ids), *labels.shape[2:])}: background and {len(ids) - 1} labels; the "
                    f"network's out_channels must be {len(ids)}, and its maps as fine as the image"
                )
            results.append((logits, torch.searchsorted(ids, labels)))
        return results
