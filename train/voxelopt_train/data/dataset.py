"""Pairs of prepared subjects as a dataset, in an order that a resumed run continues exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from voxelopt_train.data.augmentation import Augmentation, Volumes, augment
from voxelopt_train.data.keypoints import read_keypoints
from voxelopt_train.data.subjects import Subject
from voxelopt_train.errors import InputError
from voxelopt_train.headers import check_units
from voxelopt_train.images import load_volume, read_image, voxels
from voxelopt_train.input_files import check_file


class PreparedSubjects(Sequence[Volumes]):
    """Reads the files of prepared subjects, each time anew: to be put into a `CacheDataset`.

    Args:
        subjects: from a manifest.
        shape: of every image in the manifest.

    Items are dicts of ``name``, ``image (1, *shape)`` float32, ``affine (4, 4)`` float64 and,
    where the subject has them, ``labels (1, *shape)`` uint8, ``keypoints (N, 3)`` float32 and
    ``features (F, *shape)`` float32.
    """

    def __init__(self, subjects: Sequence[Subject], shape: tuple[int, int, int]) -> None:
        self.subjects = subjects
        self.shape = shape

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, index: int) -> Volumes:  # pyright: ignore[reportIncompatibleMethodOverride]
        subject = self.subjects[index]
        image = read_image(subject.image, "prepared image")
        item: Volumes = {
            "name": subject.name,
            "image": image.data[None],
            "affine": torch.from_numpy(image.grid.affine),
        }
        if subject.labels is not None:
            item["labels"] = read_image(subject.labels, "labels", labels=True).data[None].byte()
        if subject.features is not None:
            item["features"] = _read_features(subject)
        for key in item.keys() & {"image", "labels", "features"}:
            if tuple(item[key].shape[1:]) != self.shape:
                raise InputError(
                    f"subject {subject.name}: {key} of {tuple(item[key].shape[1:])} voxels, the "
                    f"manifest says {self.shape}"
                )
        if subject.keypoints is not None:
            item["keypoints"] = torch.from_numpy(read_keypoints(subject.keypoints)).float()
        return item


class PairDataset(Dataset[dict[str, Any]]):
    """Pairs of subjects, each of the two augmented on its own.

    Args:
        subjects: as `PreparedSubjects` gives them.
        pairs: positions of the fixed and the moving subject.
        spacing_mm: edge of the voxels.
        augmentation: transform of ``{"image", "labels"}``, see `choose_augmentation`.
        seed: of the augmentation, which depends on it, the epoch and the pair alone.

    The index ``epoch * len(dataset) + pair`` gives a pair as it is in that epoch.
    """

    def __init__(
        self,
        subjects: Sequence[Volumes],
        pairs: Sequence[tuple[int, int]],
        spacing_mm: float,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.subjects = subjects
        self.pairs = pairs
        self.spacing_mm = spacing_mm
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch, number = divmod(index, len(self))
        item = {"index": number, "spacing_mm": torch.full((3,), self.spacing_mm)}
        for side, subject in enumerate(self.pairs[number]):
            volumes = self.subjects[subject]
            if self.augmentation is not None:
                entropy = np.random.SeedSequence([self.seed, epoch, number, side])
                volumes = augment(volumes, self.augmentation, int(entropy.generate_state(1)[0]))
            item |= {f"{('fixed', 'moving')[side]}_{key}": v for key, v in volumes.items()}
        item["fixed"], item["moving"] = item.pop("fixed_image"), item.pop("moving_image")
        return item


class EpochSampler(DistributedSampler[Any]):
    """A new order of the pairs in each epoch, told apart by their indices.

    Being a `DistributedSampler`, with one process too, Lightning tells it the epoch, that of the
    checkpoint after a resumption, and leaves it alone.
    """

    def __iter__(self) -> Iterator[int]:
        start = self.epoch * len(self.dataset)  # pyright: ignore[reportArgumentType]
        return (start + index for index in super().__iter__())


def _read_features(subject: Subject) -> Tensor:
    """Feature map of a ``.npy`` ``(F, *shape)``, or a NIfTI file with the features last."""
    path = subject.features
    assert path is not None
    if path.suffix == ".npy":
        check_file(path, str(path))
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise InputError(f"{path}: this is no array that can be read") from error
        if not isinstance(array, np.ndarray):
            raise InputError(f"{path}: expected one array, got a .npz file of several")
    else:
        volume = load_volume(path, "features")
        check_units(volume, str(path))
        array = voxels(volume, str(path))
        array = np.moveaxis(array.reshape(*array.shape[:3], -1), -1, 0)
    if array.ndim != 4 or not np.isfinite(array).all():
        raise InputError(f"{path}: expected finite features (F, X, Y, Z), got {array.shape}")
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
