"""Datasets of the Learn2Reg challenge: ``TASK_dataset.json`` beside ``imagesTr``, ``labelsTr``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from voxelopt_train.data.pair_table import read_json
from voxelopt_train.data.subjects import (
    Cohort,
    Pair,
    Split,
    Subject,
    check_unique,
    ordered_pairs,
    paper_splits,
)
from voxelopt_train.errors import InputError
from voxelopt_train.nifti_names import nifti_stem


def find_dataset_json(folder: Path) -> Path | None:
    """The dataset's JSON in a folder, if there is one."""
    found = sorted(folder.glob("*dataset.json"))
    return found[0] if found else None


def read_learn2reg(path: Path) -> Cohort:
    """Subjects and pairs of a Learn2Reg dataset.

    AbdomenCTCT is split as in the paper. Of the other tasks ``registration_val`` validates; the
    training pairs are those that are listed where images are paired, else all ordered pairs of the
    other training images.

    Args:
        path: ``TASK_dataset.json``.

    Raises:
        InputError: the file cannot be read, has no list of training images, or two of the same
            name.
    """
    content = read_json(path)
    try:
        pairs = {
            key: [(Path(pair["fixed"]), Path(pair["moving"])) for pair in content.get(key, [])]
            for key in ("training_paired_images", "registration_val")
        }
        files = {Path(entry["image"]): entry for entry in content["training"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: expected a Learn2Reg dataset with lists of training images and pairs"
        ) from error
    training = list(files)
    for image in [image for listed in pairs.values() for pair in listed for image in pair]:
        files.setdefault(image, {"image": image})
    names = _names(files)
    subjects = {names[image]: _subject(names[image], path, files[image]) for image in files}
    if content.get("name") == "AbdomenCTCT":
        splits = paper_splits(sorted(subjects))
        return Cohort(subjects, {split: ordered_pairs(n) for split, n in splits.items()})

    def named(key: str) -> list[Pair]:
        return [(names[fixed], names[moving]) for fixed, moving in pairs[key]]

    validation = named("registration_val")
    held_out = {name for pair in validation for name in pair}
    if content.get("pairings") == "paired":
        train = [p for p in named("training_paired_images") if not held_out & set(p)]
    else:
        train = ordered_pairs(names[image] for image in training if names[image] not in held_out)
    result: dict[Split, list[Pair]] = {"train": train, "validation": validation}
    return Cohort(subjects, result)


def _subject(name: str, path: Path, entry: dict[str, Any]) -> Subject:
    image = path.parent / entry["image"]
    labels = path.parent / entry["label"] if entry.get("label") else None
    keypoints = None
    if entry.get("keypoints"):
        # The lists of some tasks give these files the images' suffix.
        keypoints = path.parent / entry["keypoints"].replace(".nii.gz", ".csv")
    return Subject(name, image, labels, keypoints)


def _names(images: Iterable[Path]) -> dict[Path, str]:
    """Names of subjects: ``0001`` of ``AbdomenCTCT_0001_0000.nii.gz``.

    The last number is the modality, or the time; it stays where there are several.
    """
    names = {image: nifti_stem(image.name).partition("_")[2] for image in images}
    if all(name.endswith("_0000") for name in names.values()):
        names = {image: name.removesuffix("_0000") for image, name in names.items()}
    check_unique(names)
    return names
