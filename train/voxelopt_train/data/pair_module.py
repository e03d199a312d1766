"""What all data modules share: loaders over the pairs of each split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from voxelopt_train.data.augmentation import (
    Augmentation,
    AugmentationChoice,
    Volumes,
    choose_augmentation,
)
from voxelopt_train.data.dataset import EpochSampler, PairDataset
from voxelopt_train.data.subjects import SPLITS, Pair, Split
from voxelopt_train.errors import InputError


class PairModule(LightningDataModule, ABC):
    """Loaders over the pairs of each split; what the subjects are is left to `volumes`.

    Attributes:
        labels: numbers of the labelled structures, ascending.
        spacing_mm: edge of the voxels.
        shape: number of voxels along each axis.
        label_names: names of the labels that have one, for tables.
    """

    label_names: Mapping[int, str] = {}

    def __init__(
        self,
        pairs: Mapping[Split, Sequence[Pair]],
        labels: tuple[int, ...],
        spacing_mm: float,
        shape: tuple[int, int, int],
        *,
        batch_size: int,
        augmentation: AugmentationChoice,
        num_workers: int,
        seed: int,
        predict_split: Split,
    ) -> None:
        super().__init__()
        self.labels = labels
        self.spacing_mm = spacing_mm
        self.shape = shape
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.predict_split: Split = predict_split
        self.augmentation: Augmentation | None = choose_augmentation(augmentation, spacing_mm)
        self._pairs = pairs
        self._datasets: dict[Split, PairDataset] = {}

    @abstractmethod
    def volumes(self, names: list[str]) -> Sequence[Volumes]:
        """The subjects of these names, in this order, kept in memory."""

    def pair_names(self, split: Split) -> list[Pair]:
        """Names of the fixed and moving subjects of a split; a batch's ``index`` counts these."""
        return list(self._pairs.get(split, []))

    def setup(self, stage: str | None = None) -> None:
        """Read the subjects of the splits that ``stage`` needs; all of them for None."""
        needed: dict[str | None, tuple[Split, ...]] = {
            "fit": ("train", "validation"),
            "validate": ("validation",),
            "test": ("test",),
            "predict": (self.predict_split,),
        }
        for split in needed.get(stage, SPLITS):
            pairs = self.pair_names(split)
            if split not in self._datasets and pairs:
                names = sorted({name for pair in pairs for name in pair})
                at = {name: n for n, name in enumerate(names)}
                self._datasets[split] = PairDataset(
                    self.volumes(names),
                    [(at[fixed], at[moving]) for fixed, moving in pairs],
                    self.spacing_mm,
                )

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """All but the affines, in float64, which are for files alone and which MPS cannot hold."""
        affines = {key: value for key, value in batch.items() if key.endswith("_affine")}
        rest = {key: value for key, value in batch.items() if key not in affines}
        return {**super().transfer_batch_to_device(rest, device, dataloader_idx), **affines}

    def train_dataloader(self) -> DataLoader[Any]:
        """Pairs to train on, augmented, in an order given by seed and epoch alone."""
        plain = self._dataset("train")
        dataset = PairDataset(
            plain.subjects, plain.pairs, self.spacing_mm, self.augmentation, self.seed
        )
        replicas, rank = 1, 0
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            replicas, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        return self._loader(dataset, EpochSampler(dataset, replicas, rank, seed=self.seed))

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Pairs to validate on, in order; for a training there need not be any."""
        training = self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING
        if training and not self._pairs.get("validation"):
            return []
        return self._loader(self._dataset("validation"))

    def test_dataloader(self) -> DataLoader[Any]:
        """Pairs to test on, in order."""
        return self._loader(self._dataset("test"))

    def predict_dataloader(self) -> DataLoader[Any]:
        """The pairs of ``predict_split``, in order."""
        return self._loader(self._dataset(self.predict_split))

    def _dataset(self, split: Split) -> PairDataset:
        if split not in self._datasets:
            raise InputError(f"this dataset has no pairs in its {split} split")
        return self._datasets[split]

    def _loader(self, dataset: PairDataset, sampler: EpochSampler | None = None) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,  # by name: Lightning gives it anew to predict
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
