"""Phantom pairs, networks and trainers small enough to train within a test."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from voxelopt_layers import VoxelOptLayer
from voxelopt_models import FeatureEncoder, monai_network
from voxelopt_train.learning import PhantomDataModule
from voxelopt_train.phantom import ORGANS

SHAPE, SPACING_MM = (24, 20, 24), 16.0
CLASSES = len(ORGANS) + 1
UNET: dict[str, Any] = {
    "spatial_dims": 3, "in_channels": 1, "out_channels": 5, "channels": [4, 8], "strides": [2],
}  # fmt: skip


@cache
def phantoms(*subjects: int, **options: Any) -> PhantomDataModule:
    """Patients to train, validate and test with; they take longer to make than to train on."""
    train, validation, test = subjects or (2, 2, 2)
    return PhantomDataModule((train, validation, test), SHAPE, SPACING_MM, **options)


class OnePair(PhantomDataModule):
    """One pair to train on, and the same one to validate and test on."""

    def __init__(self) -> None:
        super().__init__((2, 2, 2), (32, 28, 32), 12.0)

    def pair_names(self, split):
        return super().pair_names("train")[:1]


def unet(channels: int = 6, widths: tuple[int, ...] = (4, 8)) -> torch.nn.Module:
    """A U-Net with instance normalisation, the same at every call."""
    torch.manual_seed(0)
    strides = [2] * (len(widths) - 1)
    changed = {"out_channels": channels, "channels": widths, "strides": strides}
    return monai_network("UNet", {**UNET, **changed})


def encoder(normalisation: Any = "channel", **options: Any) -> FeatureEncoder:
    return FeatureEncoder(unet(), normalisation=normalisation, divisor=2, **options)


def layer(**options: Any) -> VoxelOptLayer:
    fewer: dict[str, Any] = {
        "levels": 3, "theta": (150.0, 15.0, 1.5), "warps_per_level": 1, "integration_steps": 4,
    }  # fmt: skip
    return VoxelOptLayer(**{**fewer, "temperature": 0.03, **options})


def trainer(folder: Path, epochs: int = 1, **options: Any) -> Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False,
        "num_sanity_val_steps": 0, "log_every_n_steps": 1,
    }  # fmt: skip
    return Trainer(default_root_dir=folder, max_epochs=epochs, **{**quiet, **options})


def batches(loaders: Any) -> list[dict[str, Any]]:
    """What a data module's loader gives."""
    return list(loaders)


def first_convolution(module: torch.nn.Module) -> torch.nn.Parameter:
    weight = next(m for m in module.modules() if isinstance(m, torch.nn.Conv3d)).weight
    assert isinstance(weight, torch.nn.Parameter)
    return weight
