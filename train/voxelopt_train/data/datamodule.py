"""Lightning data modules: a prepared dataset, or phantom patients that need no download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from monai.data.dataset import CacheDataset

from voxelopt_models import RawIntensity
from voxelopt_train.data.augmentation import AugmentationChoice
from voxelopt_train.data.dataset import PreparedSubjects, Volumes
from voxelopt_train.data.keypoints import read_keypoints
from voxelopt_train.data.manifest import read_manifest
from voxelopt_train.data.pair_module import PairModule
from voxelopt_train.data.subjects import SPLITS, Cohort, Split, Subject, ordered_pairs
from voxelopt_train.errors import InputError
from voxelopt_train.phantom import CT_WINDOW, ORGANS, abdomen

_PATIENTS = 1000  # phantom patients that belong to one seed


class PairDataModule(PairModule):
    """Pairs of a dataset that ``voxelopt prepare`` made.

    Args:
        data: the prepared folder or its ``manifest.json``.
        batch_size: pairs per step and process.
        augmentation: random changes of the training images, none, mild or strong, see
            `choose_augmentation`; or a transform of ``{"image", "labels"}`` (MONAI's random ones
            are seeded by pair).
        features: folder with a precomputed feature map ``NAME.npy`` (F, X, Y, Z) or
            ``NAME.nii.gz`` (features last) of every subject, on the prepared grid.
        num_workers: processes that load and augment.
        cache_rate: share of the subjects that are kept in memory.
        seed: of the training order and of the augmentation.
        predict_split: which pairs `predict` is for.
        label_names: names of the labels, for tables.

    Raises:
        InputError: the manifest cannot be used, or what it says does not fit the other arguments.
    """

    def __init__(
        self,
        data: str | Path,
        batch_size: int = 1,
        augmentation: AugmentationChoice = "none",
        features: str | Path | None = None,
        num_workers: int = 0,
        cache_rate: float = 1.0,
        seed: int = 0,
        predict_split: Split = "test",
        label_names: dict[int, str] | None = None,
    ) -> None:
        manifest = read_manifest(data)
        cohort = manifest.cohort
        super().__init__(
            cohort.pairs,
            manifest.labels,
            manifest.spacing_mm,
            manifest.shape,
            batch_size=batch_size,
            augmentation=augmentation,
            num_workers=num_workers,
            seed=seed,
            predict_split=predict_split,
        )
        self.cache_rate = cache_rate
        self.label_names: Mapping[int, str] = label_names or {}
        if features is not None:
            if self.augmentation is not None:
                raise InputError("precomputed features do not follow an augmentation: choose one")
            subjects = {n: _with_features(s, Path(features)) for n, s in cohort.subjects.items()}
            cohort = Cohort(subjects, cohort.pairs)
        self._subjects = cohort.subjects
        _check_keypoints(cohort, batch_size)
        if batch_size > 1:
            _check_batches(cohort)

    def volumes(self, names: list[str]) -> Sequence[Volumes]:
        subjects = PreparedSubjects([self._subjects[name] for name in names], self.shape)
        return CacheDataset(subjects, cache_rate=self.cache_rate, progress=False)  # pyright: ignore[reportReturnType]


class PhantomDataModule(PairModule):
    """Pairs of phantom patients, made in memory: CT of the abdomen with 13 labelled organs.

    Args:
        subjects: number of patients to train, validate and test with; splits share none.
        shape: voxels along the right, anterior and superior axes.
        spacing_mm: edge of the voxels.
        seed: which patients; and of the training order and the augmentation.
        batch_size: pairs per step and process.
        augmentation: see `PairDataModule`.
        num_workers: processes that load and augment.
        predict_split: which pairs `predict` is for.
    """

    label_names: Mapping[int, str] = ORGANS

    def __init__(
        self,
        subjects: tuple[int, int, int] = (4, 2, 2),
        shape: tuple[int, int, int] = (48, 40, 44),
        spacing_mm: float = 8.0,
        seed: int = 0,
        batch_size: int = 1,
        augmentation: AugmentationChoice = "none",
        num_workers: int = 0,
        predict_split: Split = "test",
    ) -> None:
        patients = iter(f"phantom{seed * _PATIENTS + n}" for n in range(sum(subjects)))
        super().__init__(
            {
                split: ordered_pairs([next(patients) for _ in range(count)])
                for split, count in zip(SPLITS, subjects, strict=True)
            },
            tuple(ORGANS),
            spacing_mm,
            (shape[0], shape[1], shape[2]),
            batch_size=batch_size,
            augmentation=augmentation,
            num_workers=num_workers,
            seed=seed,
            predict_split=predict_split,
        )

    def volumes(self, names: list[str]) -> Sequence[Volumes]:
        return [self._patient(name) for name in names]

    def _patient(self, name: str) -> Volumes:
        patient = int(name.removeprefix("phantom"))
        image, labels = abdomen(patient, self.shape, self.spacing_mm)
        return {
            "name": name,
            "image": RawIntensity(CT_WINDOW)(image.data[None, None])[0],
            "affine": torch.from_numpy(image.grid.affine),
            "labels": labels.data[None].byte(),
        }


def _with_features(subject: Subject, folder: Path) -> Subject:
    for suffix in (".npy", ".nii.gz"):
        path = folder / f"{subject.name}{suffix}"
        if path.is_file():
            return replace(subject, features=path)
    raise InputError(f"{folder}: no features of subject {subject.name}, as {subject.name}.npy")


def _check_keypoints(cohort: Cohort, batch_size: int) -> None:
    """Rows of keypoints belong together, so both of a pair have as many; and so has a batch."""
    numbers = {
        name: len(read_keypoints(subject.keypoints))
        for name, subject in cohort.subjects.items()
        if subject.keypoints is not None
    }
    for split, pairs in cohort.pairs.items():
        for fixed, moving in pairs:
            if fixed in numbers and moving in numbers and numbers[fixed] != numbers[moving]:
                raise InputError(
                    f"{fixed} has {numbers[fixed]} keypoints and {moving} has {numbers[moving]}; "
                    "row by row they must be the same points"
                )
        if batch_size > 1 and len({numbers.get(name) for name in cohort.names(split)}) > 1:
            raise InputError(
                f"batch_size {batch_size}: the subjects of the {split} split have different "
                "numbers of keypoints, which takes a batch_size of 1"
            )


def _check_batches(cohort: Cohort) -> None:
    """Without labels of some subjects there is no batch of labels."""
    for split in cohort.pairs:
        have = {cohort.subjects[name].labels is not None for name in cohort.names(split)}
        if len(have) > 1:
            raise InputError(
                f"some subjects of the {split} split have no labels, which takes a batch_size of 1"
            )
