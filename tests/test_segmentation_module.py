"""`SegmentationModule`: an encoder learns the masks, and registers as frozen features."""

from __future__ import annotations

import warnings

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from tiny_training import CLASSES, OnePair, batches, phantoms, trainer, unet
from voxelopt_models import FeatureEncoder
from voxelopt_train.data.datamodule import PhantomDataModule
from voxelopt_train.errors import InputError
from voxelopt_train.learning import RegistrationModule, SegmentationModule


class Watch(Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(trainer.callback_metrics["train/loss"]))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


class LargeOrgans(OnePair):
    """Spleen, kidneys and liver: labels that are not consecutive."""

    def __init__(self) -> None:
        super().__init__()
        self.labels = (1, 2, 3, 6)

    def volumes(self, names):
        ids = torch.tensor(self.labels)
        return [
            {**x, "labels": x["labels"] * torch.isin(x["labels"], ids)}
            for x in super().volumes(names)
        ]


def test_a_longer_training_goes_on_along_a_longer_cosine(tmp_path):
    data, rates = phantoms(), []
    for epochs in (2, 4):
        watch = Watch()
        run = trainer(
            tmp_path,
            epochs,
            enable_checkpointing=True,
            callbacks=[watch, ModelCheckpoint(tmp_path, "last")],
        )
        run.fit(segmenter(), datamodule=data, ckpt_path="last" if epochs == 4 else None)
        rates += watch.rates
    assert len(rates) == 8 and rates[3] < 1e-9
    assert rates[4] > 1e-4 and rates[4:] == sorted(rates[4:], reverse=True) and rates[-1] < 1e-9


def segmenter(channels: int = CLASSES) -> SegmentationModule:
    return SegmentationModule(FeatureEncoder(unet(channels), divisor=2))


def dice_of_largest_logits(module: SegmentationModule, data: PhantomDataModule) -> float:
    """Mean over images, and over the organs that an image or its segmentation has."""
    means = []
    for batch in batches(data.val_dataloader()):
        for side in ("fixed", "moving"):
            found = module.encoder.logits(batch[side]).argmax(1, keepdim=True)
            both = [
                (batch[f"{side}_labels"] == label, found == number)
                for number, label in enumerate(data.labels, start=1)
            ]
            each = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in both if (a | b).any()]
            means.append(torch.stack(each).mean())
    return float(torch.stack(means).mean())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_learns_the_masks_of_one_pair(tmp_path, precision):
    network = FeatureEncoder(unet(5, (8, 16, 32)), divisor=4)
    module, watch, data = SegmentationModule(network, 5e-2), Watch(), LargeOrgans()
    options = {"check_val_every_n_epoch": 60, "precision": precision}
    run = trainer(tmp_path, 60, callbacks=[watch], **options)
    (before,) = run.validate(module, datamodule=data, verbose=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.fit(module, datamodule=data)
    known = ("LeafSpec", "does not have many workers", "non-tuple sequence")
    assert [w for w in caught if not any(x in str(w.message) for x in known)] == []
    assert watch.losses[-1] < 0.4 * watch.losses[0]
    assert set(run.callback_metrics) == {"train/loss", "validation/dice"}
    dice = float(run.callback_metrics["validation/dice"])
    if precision == "32-true":
        assert dice == pytest.approx(dice_of_largest_logits(module, data), abs=1e-6)
    assert dice > before["validation/dice"] + 0.2
    done = torch.arange(1, 61, dtype=torch.float64) / 60
    expected = 5e-2 * (1 + torch.cos(torch.pi * done)) / 2
    torch.testing.assert_close(torch.tensor(watch.rates).double(), expected)


def test_its_checkpoint_is_a_frozen_encoder(tmp_path):
    module, data = segmenter(), phantoms()
    last = ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
    trainer(tmp_path, enable_checkpointing=True, callbacks=[last]).fit(module, datamodule=data)
    frozen = FeatureEncoder(
        unet(CLASSES), weights=tmp_path / "last.ckpt", trainable=False, divisor=2
    )
    image = batches(data.val_dataloader())[0]["fixed"]
    torch.testing.assert_close(frozen.logits(image), module.eval().encoder.logits(image))
    before = {name: p.clone() for name, p in frozen.named_parameters()}
    registration = RegistrationModule(frozen)
    trainer(tmp_path).test(registration, datamodule=data, verbose=False)
    assert all(torch.equal(before[name], p) for name, p in frozen.named_parameters())


def test_what_cannot_be_trained_says_why(tmp_path):
    with pytest.raises(ValueError, match="cannot be frozen"):
        SegmentationModule(FeatureEncoder(unet(), trainable=False))
    with pytest.raises(InputError, match=r"\(5, 24, 20, 24\), expected \(14, 24, 20, 24\)"):
        trainer(tmp_path).fit(segmenter(channels=5), datamodule=phantoms())
    with pytest.raises(InputError, match="max_epochs or max_steps"):
        trainer(tmp_path, -1).fit(segmenter(), datamodule=phantoms())
