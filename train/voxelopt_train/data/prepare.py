"""Bring all subjects of a dataset to grids of one shape, spacing and orientation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel.affines import apply_affine
from nibabel.orientations import io_orientation

from voxelopt_models import RawIntensity
from voxelopt_train.alignment import center_of_mass
from voxelopt_train.data.keypoints import read_keypoints, write_keypoints
from voxelopt_train.data.manifest import NAME, Manifest, write_manifest
from voxelopt_train.data.subjects import Cohort, Subject
from voxelopt_train.errors import InputError
from voxelopt_train.files import atomic_output, check_kept, check_writable, read_record
from voxelopt_train.grids import Grid
from voxelopt_train.images import Image, read_image, write_nifti
from voxelopt_train.input_files import check_file
from voxelopt_train.label_maps import refuse_intensities
from voxelopt_train.resampling import resample

Center = Literal["volume", "mass"]

_PERCENTILES = (0.5, 99.5)
_OUTSIDE = 0.01  # share of the labelled voxels that may lie outside the grid without a note


@dataclass(frozen=True)
class Settings:
    """How subjects are prepared.

    Attributes:
        spacing_mm: edge of the cubic voxels.
        shape: voxels along the right, anterior and superior axes.
        window: intensities that become 0 and 1, for CT in HU; None: percentiles 0.5 and 99.5 of
            each image.
        center: what lies in the middle of the grid: that of the ``"volume"``, or the centre of
            ``"mass"`` of the intensities.

    Raises:
        InputError: no grid or window comes of these.
    """

    spacing_mm: float = 2.0
    shape: tuple[int, int, int] = (192, 160, 256)
    window: tuple[float, float] | None = None
    center: Center = "volume"

    def __post_init__(self) -> None:
        if not 0 < self.spacing_mm < np.inf:
            raise InputError(f"the spacing must be above 0 mm, got {self.spacing_mm:g}")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"the shape must be three numbers of voxels, got {self.shape}")
        if self.window is not None and not self.window[0] < self.window[1]:
            low, high = self.window
            raise InputError(f"the window must go from low to high, got {low:g} {high:g}")


@dataclass(frozen=True)
class Preparation:
    """Result of `prepare`.

    Attributes:
        manifest: the file.
        skipped: names of the subjects that were there already.
        notes: what is unusual about the labels, a sentence each.
    """

    manifest: Path
    skipped: list[str]
    notes: list[str]


def prepare(
    cohort: Cohort,
    output: str | Path,
    settings: Settings | None = None,
    progress: Callable[[str], None] | None = None,
) -> Preparation:
    """Resample, window and scale the subjects of a dataset, and write a manifest of them.

    Images become float32 from 0 to 1, 0 outside their field of view; labels uint8; keypoints
    voxels of the prepared grid. A subject that is there, made of the same files with the same
    settings, is not made again; so an interrupted run goes on where it was.

    Args:
        cohort: from `find_cohort`.
        output: folder for the files and, once all are complete, their ``manifest.json``.
        settings: the defaults are those of the paper, apart from the window.
        progress: called with the name of each subject as it begins.

    Raises:
        InputError: a file cannot be read, which is told once all other subjects are prepared, or
            cannot be written; the message says which, and why.
    """
    output, settings = Path(output), settings or Settings()
    check_writable(output)
    prepared = {name: _prepared(subject, output) for name, subject in cohort.subjects.items()}
    check_kept(
        [file for subject in cohort.subjects.values() for file in subject.files],
        [file for subject in prepared.values() for file in subject.files],
    )
    records, skipped, failed = {}, [], {}
    for name, subject in cohort.subjects.items():
        if progress is not None:
            progress(f"subject {name}")
        try:
            made_of = {"settings": asdict(settings), "sources": _fingerprints(subject)}
            record = _read_record(_record_path(output, name), made_of)
            if record is not None and all(file.is_file() for file in prepared[name].files):
                records[name] = record
                skipped.append(name)
                continue
            read = _read_subject(subject, settings)
        except InputError as error:  # the others can be prepared all the same
            failed[name] = str(error)
            continue
        records[name] = _write_subject(read, prepared[name], output, made_of, settings)
    if failed:
        raise InputError(_failure(failed, len(cohort.subjects)))
    labels = sorted({label for record in records.values() for label in record["labels"] or []})
    manifest = Manifest(
        settings.spacing_mm,
        settings.shape,
        settings.window,
        tuple(labels),
        Cohort(prepared, cohort.pairs),
    )
    return Preparation(write_manifest(output, manifest), skipped, _notes(records, labels))


def prepared_grid(
    grid: Grid, spacing_mm: float, shape: Sequence[int], center_mm: np.ndarray
) -> Grid:
    """Grid of cubic voxels along the axes of ``grid``, in the order and sense nearest to RAS.

    So that the first axis of every subject goes to the right, the second to the front, the third
    up, however its file is stored; oblique scans keep their own axes.

    Args:
        grid: where the image lies.
        spacing_mm: edge of the voxels.
        shape: number of voxels.
        center_mm: world point in the middle of the new grid, RAS mm.
    """
    directions = grid.affine[:3, :3] / grid.spacing
    steps = np.empty((3, 3))
    for axis, (ras_axis, sense) in enumerate(io_orientation(grid.affine)):
        steps[:, int(ras_axis)] = sense * directions[:, axis] * spacing_mm
    return Grid.around(center_mm, shape, steps)


# Image, labels and keypoints of a subject.
_Read = tuple[Image, Image | None, np.ndarray | None]


def _read_subject(subject: Subject, settings: Settings) -> _Read:
    """Image, scaled, labels and keypoints of one subject."""
    image = _scaled(read_image(subject.image, f"image of subject {subject.name}"), settings.window)
    labels = None if subject.labels is None else _read_labels(subject.labels, image.grid)
    if subject.keypoints is None:
        return image, labels, None
    return image, labels, read_keypoints(subject.keypoints, image.grid.shape)


def _write_subject(
    read: _Read, target: Subject, output: Path, made_of: dict[str, Any], settings: Settings
) -> dict[str, Any]:
    """Write the files of one subject, and last the record of them, which is returned."""
    path = _record_path(output, target.name)
    # From here on the files are not all what the manifest of an earlier run says.
    (output / NAME).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    for file in (path, *target.files):
        file.parent.mkdir(parents=True, exist_ok=True)
    record = {**made_of, **_resample_subject(read, target, settings)}
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps(record) + "\n")
    return record


def _resample_subject(read: _Read, target: Subject, settings: Settings) -> dict[str, Any]:
    """Write image, labels and keypoints; what is to be known of the labels."""
    image, labels, points = read
    center = center_of_mass(image) if settings.center == "mass" else image.grid.center
    grid = prepared_grid(image.grid, settings.spacing_mm, settings.shape, center)
    write_nifti(target.image, resample(image, grid, antialias=True).data, grid.affine)
    to_prepared = np.linalg.inv(grid.affine) @ image.grid.affine
    if points is not None and target.keypoints is not None:
        write_keypoints(target.keypoints, apply_affine(to_prepared, points))
    if labels is None or target.labels is None:
        return {"labels": None}
    on_grid = resample(labels, grid, mode="nearest").data.numpy().astype(np.uint8)
    write_nifti(target.labels, on_grid, grid.affine)
    at = apply_affine(to_prepared, np.argwhere(labels.data.numpy() > 0))
    outside = ((at < -0.5) | (at > np.asarray(settings.shape) - 0.5)).any(axis=1)
    present = np.unique(labels.data.numpy()).tolist()
    return {
        "labels": [label for label in present if label],
        "lost": sorted(set(present) - set(np.unique(on_grid).tolist()) - {0}),
        "outside": float(outside.mean()),
    }


def _scaled(image: Image, window: tuple[float, float] | None) -> Image:
    """The window from 0 to 1, cut off there."""
    # Before the resampling, so that what lies far outside the window does not bleed into it.
    low, high = window or np.percentile(image.data.numpy(), _PERCENTILES).tolist()
    if not low < high:
        raise InputError(f"{image.name}: nearly all voxels are {low:g}, there is nothing to see")
    scaled = RawIntensity((low, high))(image.data[None, None])[0, 0]
    return Image(scaled, image.grid, image.name)


def _read_labels(path: Path, grid: Grid) -> Image:
    labels = read_image(path, "labels", labels=True)
    if not labels.grid.matches(grid):
        raise InputError(f"{path}: these labels are not on the grid of their image")
    if labels.data.min() < 0 or labels.data.max() > 255:
        raise InputError(f"{path}: labels must lie within 0 and 255")
    if not labels.data.any():
        raise InputError(f"{path}: there are no labels in this file, all voxels are 0")
    refuse_intensities(labels)
    return labels


def _prepared(subject: Subject, output: Path) -> Subject:
    """The subject after its preparation."""
    name = subject.name
    return Subject(
        name,
        output / "images" / f"{name}.nii.gz",
        subject.labels and output / "labels" / f"{name}.nii.gz",
        subject.keypoints and output / "keypoints" / f"{name}.csv",
    )


def _fingerprints(subject: Subject) -> dict[str, list[int]]:
    """Size and time of each source file, by which a changed one is found out."""
    for path in subject.files:
        check_file(path, f"subject {subject.name}: {path}")
    stats = {str(path.resolve()): path.stat() for path in subject.files}
    return {path: [stat.st_size, stat.st_mtime_ns] for path, stat in stats.items()}


def _record_path(output: Path, name: str) -> Path:
    return output / "records" / f"{name}.json"


def _read_record(path: Path, made_of: dict[str, Any]) -> dict[str, Any] | None:
    """What was noted of a subject that is complete and made of the same; else None."""
    record = read_record(path)
    same = all(record.get(key) == json.loads(json.dumps(made_of[key])) for key in made_of)
    return record if same else None


def _failure(failed: dict[str, str], count: int) -> str:
    """One sentence on the subjects that could not be read, by name."""
    (name, error), *others = failed.items()
    if count == 1:
        return error
    kept = f", the other {count - len(failed)} are prepared" if len(failed) < count else ""
    more = f" (as {', '.join(other for other, _ in others)})" if others else ""
    return f"{len(failed)} of {count} subjects cannot be read{kept}: {name}{more}, {error}"


def _notes(records: dict[str, dict[str, Any]], labels: list[int]) -> list[str]:
    notes = []
    for name, record in records.items() if labels else ():
        if record["labels"] is None:
            notes.append(f"subject {name} has no labels, others have")
            continue
        missing = sorted(set(labels) - set(record["labels"]))
        if missing:
            notes.append(f"subject {name} has no label {', '.join(map(str, missing))}")
        if record["lost"]:
            lost = ", ".join(map(str, record["lost"]))
            notes.append(f"subject {name}: nothing of label {lost} is left on the new grid")
        if record["outside"] > _OUTSIDE:
            share = 100 * record["outside"]
            notes.append(f"subject {name}: {share:.0f} % of what is labelled is outside the grid")
    return notes
