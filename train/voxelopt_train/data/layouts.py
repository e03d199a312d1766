"""Find the subjects of a dataset: which files there are, and which pairs they make."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from voxelopt_train.data.learn2reg import find_dataset_json, read_learn2reg
from voxelopt_train.data.pair_table import read_json, read_pair_table
from voxelopt_train.data.subjects import (
    Cohort,
    Subject,
    check_held_out,
    natural_order,
    ordered_pairs,
    override,
    paper_splits,
)
from voxelopt_train.errors import InputError

Layout = Literal["auto", "voxelopt", "learn2reg", "btcv", "table", "files"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

_IMAGES, _LABELS = "img/img*.nii.gz", "label/label*.nii.gz"
# Where img/ and label/ lie in the VoxelOpt authors' data, and in the BTCV archive.
_ROOTS = {"voxelopt": ("",), "btcv": ("RawData/Training/", "Training/")}


def find_cohort(
    source: str | Path,
    layout: Layout = "auto",
    *,
    images: str | None = None,
    labels: str | None = None,
    keypoints: str | None = None,
    train: str | None = None,
    validation: str | None = None,
    test: str | None = None,
) -> Cohort:
    """Subjects and pairs of a dataset on disk.

    Args:
        source: a folder, or the CSV or JSON file that lists it.
        layout: ``"voxelopt"``, the authors' ``img/img0001.nii.gz`` and ``label/label0001.nii.gz``;
            ``"btcv"``, the same below ``RawData/Training``; ``"learn2reg"``,
            ``TASK_dataset.json``; ``"table"``, see `read_pair_table`; ``"files"``, the patterns
            that follow; ``"auto"`` finds out.
        images: pattern of the image files below ``source``, with one ``*`` for the subject's name.
        labels: the same for the label maps.
        keypoints: the same for CSV files of keypoints.
        train: subjects to train on, see `select`; None: as the dataset says. A split that is given
            has all ordered pairs of its subjects.
        validation: subjects to validate on.
        test: subjects to test on.

    Returns:
        The subjects that are in some pair, with their pairs; all files exist.

    Raises:
        InputError: no layout fits, files are missing, no split is known, or training subjects are
            in another split too.
    """
    source = Path(source)
    if not source.exists():
        raise InputError(f"{source}: there is no such file or folder")
    if images is not None:
        layout = "files"
    elif layout == "auto":
        layout = _detect(source)
    if layout == "files":
        if images is None:
            raise InputError("the layout files needs a pattern of images, as image_*.nii.gz")
        cohort = Cohort(_match(source, images, labels, keypoints), {})
    elif layout == "table":
        cohort = read_pair_table(source)
    elif layout == "learn2reg":
        cohort = read_learn2reg(_learn2reg_json(source))
    else:
        cohort = _numbered(source, layout)
    names = sorted(cohort.subjects, key=natural_order)
    pairs = override(cohort.pairs, names, {"train": train, "validation": validation, "test": test})
    cohort = Cohort(cohort.subjects, pairs)
    check_held_out(cohort)
    used = {name for split in pairs for name in cohort.names(split)}
    subjects = {name: cohort.subjects[name] for name in names if name in used}
    for subject in subjects.values():
        for file in subject.files:
            if not file.is_file():
                raise InputError(f"subject {subject.name}: there is no file {file}")
    return Cohort(subjects, pairs)


def _detect(source: Path) -> Layout:
    if source.is_file():
        if source.suffix == ".json" and isinstance(read_json(source), dict):
            return "learn2reg"
        return "table"
    if find_dataset_json(source):
        return "learn2reg"
    for layout in ("voxelopt", "btcv"):
        if _root(source, layout) is not None:
            return layout
    raise InputError(
        f"{source}: no known layout: expected img/img0001.nii.gz, RawData/Training/img, "
        "TASK_dataset.json or a CSV of pairs; for other names give patterns, as --images "
        "image_*.nii.gz --labels label_*.nii.gz"
    )


def _learn2reg_json(source: Path) -> Path:
    found = source if source.is_file() else find_dataset_json(source)
    if found is None:
        raise InputError(f"{source}: expected a Learn2Reg dataset, with TASK_dataset.json")
    return found


def _root(source: Path, layout: str) -> str | None:
    return next((r for r in _ROOTS[layout] if any(source.glob(r + _IMAGES))), None)


def _numbered(source: Path, layout: Layout) -> Cohort:
    root = _root(source, layout)
    if root is None:
        raise InputError(f"{source}: expected images {_ROOTS[layout][0]}{_IMAGES}")
    labels = root + _LABELS
    subjects = _match(source, root + _IMAGES, labels if any(source.glob(labels)) else None, None)
    splits = paper_splits(sorted(subjects, key=natural_order))
    return Cohort(subjects, {split: ordered_pairs(names) for split, names in splits.items()})


def _match(
    source: Path, images: str, labels: str | None, keypoints: str | None
) -> dict[str, Subject]:
    """Subjects by the part of their file names that ``*`` stands for."""
    for pattern in filter(None, (images, labels, keypoints)):
        if pattern.count("*") != 1 or any(c in pattern for c in "?[") or pattern.startswith("/"):
            raise InputError(
                f"{pattern}: expected a pattern below {source} with one * for the subject's name, "
                "as image_*.nii.gz"
            )
    before, after = PurePosixPath(images).as_posix().split("*")  # without a leading ./
    subjects = {}
    for path in source.glob(images):
        name = path.relative_to(source).as_posix()
        name = name[len(before) : len(name) - len(after)]
        files = [None if p is None else source / p.replace("*", name) for p in (labels, keypoints)]
        subjects[name] = Subject(name, path, *files)
    if not subjects:
        raise InputError(f"{source}: no file fits {images}")
    return subjects
