"""The cases of a cohort: one pair each, from a table or from a folder beside an atlas."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from voxelopt_train.alignment import ALIGNMENTS
from voxelopt_train.data.pair_table import read_rows, resolve, subject_names
from voxelopt_train.data.subjects import natural_order
from voxelopt_train.errors import InputError, warn_once
from voxelopt_train.nifti_names import is_nifti
from voxelopt_train.transforms import transform_file

# Each a column of a table, and a field of `Case`.
FILES = tuple(
    f"{side}{kind}" for kind in ("", "_labels", "_mask", "_points") for side in ("fixed", "moving")
)
_COLUMNS = (*FILES, "case", "initial")
# What some file system or other refuses in the name of a folder.
_UNSAFE = r'[\\/:*?"<>|\x00-\x1f]|^\.|^ |[. ]$'
_LONGEST = 200
_EXPECTED = "cases must be the file of a table, or a list of voxelopt_train.cohort.Case"


@dataclass(frozen=True)
class Case:
    """One pair of a cohort.

    Attributes:
        name: unique in the cohort; that of the folder of its results.
        fixed: NIfTI file of the image that stays.
        moving: NIfTI file of the image that is warped onto it.
        fixed_labels: label map on the grid of ``fixed``, or None.
        moving_labels: label map on the grid of ``moving``, or None.
        fixed_mask: 0 where the fixed image is not to be matched, or None.
        moving_mask: the same of the moving one.
        fixed_points: landmarks of the fixed image, ANTs' CSV or Slicer's, or None.
        moving_points: those of the moving one.
        initial: initial alignment of this pair, as `voxelopt_train.register` takes it; None: that
            of the cohort.
    """

    name: str
    fixed: str | Path
    moving: str | Path
    fixed_labels: str | Path | None = None
    moving_labels: str | Path | None = None
    fixed_mask: str | Path | None = None
    moving_mask: str | Path | None = None
    fixed_points: str | Path | None = None
    moving_points: str | Path | None = None
    initial: str | None = None

    @property
    def files(self) -> dict[str, str | Path]:
        """Those that are read, by their role, without that of an initial alignment."""
        return {name: file for name in FILES if (file := getattr(self, name)) is not None}


def read_cases(table: str | Path) -> list[Case]:
    """The cases of a table.

    Its columns are ``fixed`` and ``moving``, and where there is more ``case`` (the name),
    ``fixed_labels``, ``moving_labels``, ``fixed_mask``, ``moving_mask``, ``fixed_points``,
    ``moving_points`` and ``initial``. Paths are relative to the table. A case without a name is
    called after its two files.

    Args:
        table: CSV with a header, or JSON with a list of objects.

    Raises:
        InputError: the table cannot be read, has other columns or no pairs. Files that it names
            are not looked for.
    """
    table = Path(table)
    rows = read_rows(table, _COLUMNS)
    for row in rows:
        row.update({name: str(resolve(table, row[name])) for name in FILES if row.get(name)})
    unnamed = [row for row in rows if not row.get("case")]
    names = subject_names(Path(row[side]) for row in unnamed for side in ("fixed", "moving"))
    for row in unnamed:
        row["case"] = _safe("_".join(names[Path(row[side])] for side in ("fixed", "moving")))
    return [
        Case(
            row["case"],
            initial=_alignment(table, row["initial"]) if row.get("initial") else None,
            **{name: row[name] for name in FILES if row.get(name)},
        )
        for row in rows
    ]


def atlas_cases(
    atlas: str | Path,
    folder: str | Path,
    atlas_labels: str | Path | None = None,
    labels: str | Path | None = None,
    atlas_mask: str | Path | None = None,
) -> list[Case]:
    """A case for each NIfTI file in a folder, in sorted order, with an atlas as the fixed image.

    Each is called after its moving file. The atlas itself is left out, if it lies there too.

    Args:
        atlas: the fixed image of all cases.
        folder: with the moving images; folders within it, and hidden files, are left out.
        atlas_labels: label map on the grid of the atlas, or None.
        labels: folder with the label maps of the moving images, under the same file names; an
            image without one is registered without labels, and an `InputWarning` says so.
        atlas_mask: 0 where the atlas is not to be matched, or None.

    Raises:
        InputError: the atlas is missing, the folder has no NIfTI files, or that of the labels none
            of the same name.
    """
    folder = Path(folder)
    of_atlas = {"fixed image": atlas, "fixed labels": atlas_labels, "fixed mask": atlas_mask}
    for name, file in of_atlas.items():
        if file is not None and not Path(file).is_file():
            raise InputError(f"{name} {file}: there is no such file")
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    files = sorted(
        (file for file in folder.iterdir() if _is_image(file, atlas)),
        key=lambda file: natural_order(file.name),
    )
    if not files:
        raise InputError(f"{folder}: this is a folder without NIfTI files (.nii, .nii.gz)")
    if (atlas_labels is None) != (labels is None):
        raise InputError("labels are compared, so both the fixed and the moving ones are needed")
    if labels is not None:
        if not Path(labels).is_dir():
            raise InputError(f"moving labels {labels}: expected a folder, as of the moving images")
        if not any((Path(labels) / file.name).exists() for file in files):
            raise InputError(
                f"moving labels {labels}: no file has the name of an image in {folder}"
            )
    names = subject_names(files)
    found = {file: _labels_of(file, labels) for file in files}
    if labels is not None and (bare := [file.name for file in files if found[file] is None]):
        others = f" and {len(bare) - 3} more" if len(bare) > 3 else ""
        warn_once(f"{labels}: no label map for {', '.join(bare[:3])}{others}, so no Dice there")
    return [
        Case(_safe(names[f]), atlas, f, atlas_labels if found[f] else None, found[f], atlas_mask)
        for f in files
    ]


def listed(cases: Iterable[Case]) -> list[Case]:
    """The cases that a caller has made.

    Raises:
        InputError: they are something else, or have something else in the place of files.
    """
    if not isinstance(cases, Iterable):
        raise InputError(f"{_EXPECTED}, got {type(cases).__name__}")
    found = list(cases)
    for case in found:
        if not isinstance(case, Case):
            raise InputError(f"{_EXPECTED}, got a list with {type(case).__name__}")
        for role in (*FILES, "initial"):
            file = getattr(case, role)
            if not isinstance(file, str | Path | None):
                got = type(file).__name__
                raise InputError(f"case {case.name}: {role} must be the name of a file, got {got}")
    return found


def check_names(cases: Sequence[Case], taken: Iterable[str]) -> None:
    """Raise InputError unless each case has a name of its own that can be a folder's.

    Args:
        cases: in the order of their table.
        taken: names of files beside those folders.
    """
    places = {name.casefold(): 0 for name in taken}  # as file systems that know no capitals
    for place, case in enumerate(cases, 1):
        name = case.name
        if not name or re.search(_UNSAFE, name) or len(name.encode()) > _LONGEST:
            raise InputError(
                f'case "{name}": expected a name for a folder, without / \\ : * ? " < > | and a '
                f"dot or space at its ends, of 1 to {_LONGEST} characters"
            )
        before = places.setdefault(name.casefold(), place)
        if before == 0:
            raise InputError(f"case {name}: a table of results has this name, choose another one")
        if before != place:
            raise InputError(
                f"pairs {before} and {place} would both be case {name}: give each a name of its "
                "own, in a column case"
            )


def _labels_of(file: Path, folder: str | Path | None) -> Path | None:
    """The label map of an image; a link that leads nowhere is one too, and fails."""
    labels = None if folder is None else Path(folder) / file.name
    return labels if labels and (labels.exists() or labels.is_symlink()) else None


def _safe(name: str) -> str:
    return re.sub(_UNSAFE, "_", name)


def _is_image(file: Path, atlas: str | Path) -> bool:
    """Whether a file of a folder is a moving image; one that cannot be read is, and fails."""
    if not is_nifti(file) or file.name.startswith(".") or file.is_dir():
        return False
    try:
        return not file.samefile(atlas)
    except OSError:  # removed meanwhile, or a link to nowhere
        return True


def _alignment(table: Path, value: str) -> str:
    """An initial alignment, with the path of a file relative to the table."""
    if value in ALIGNMENTS:
        return value
    file = str(transform_file(value))
    return value.replace(file, str(resolve(table, file)))
