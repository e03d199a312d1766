"""What `voxelopt register` leaves behind: files with ANTs' names, all of them or none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxelopt_layers import jacobian_determinant
from voxelopt_train.errors import InputError
from voxelopt_train.files import all_or_none, check_targets, check_writable
from voxelopt_train.images import Image, ImageLike, read_grid, write_nifti
from voxelopt_train.metrics import log_jacobian
from voxelopt_train.nifti_names import is_nifti
from voxelopt_train.picture import registration_picture
from voxelopt_train.provenance import input_paths
from voxelopt_train.registered import Registration
from voxelopt_train.report import Report
from voxelopt_train.transforms import (
    check_right_angles,
    write_affine,
    write_displacement_field,
)

# What a registration may leave behind, after the start of the names.
_NAMES = (
    "Warped.nii.gz",
    "1Warp.nii.gz",
    "Report.png",
    "Report.json",
    "0GenericAffine.mat",
    "WarpedLabels.nii.gz",
    "1InverseWarp.nii.gz",
    "Entropy.nii.gz",
    "Jacobian.nii.gz",
    "LogJacobian.nii.gz",
)


def split_prefix(prefix: str) -> tuple[Path, str]:
    """Folder and start of the file names: ``out/a_`` is ``out`` and ``a_``, ``out/`` has no start.

    An existing folder is taken as the folder, with or without the slash.

    Raises:
        InputError: the prefix is the name of an image, as of a single result, or a file.
    """
    if is_nifti(prefix):
        raise InputError(
            f"--output {prefix}: expected a folder (out/) or the start of several file names, "
            "not the name of an image"
        )
    if prefix.endswith("/") or Path(prefix).is_dir():
        return Path(prefix), ""
    if Path(prefix).is_file():
        raise InputError(
            f"--output {prefix}: expected a folder (out/) or the start of several file names, "
            "not a file that is there"
        )
    return Path(prefix).parent, Path(prefix).name


def output_paths(prefix: str) -> list[Path]:
    """All files that a registration with this prefix may write, or remove as outdated."""
    folder, start = split_prefix(prefix)
    return [folder / f"{start}{name}" for name in _NAMES]


def check_output(prefix: str) -> None:
    """Raise InputError where a registration with this prefix could not be written."""
    check_writable(split_prefix(prefix)[0])
    check_targets(output_paths(prefix))


def check_fixed(fixed: ImageLike) -> None:
    """Raise InputError where a field on the grid of the fixed image, a file, cannot be written."""
    if isinstance(fixed, str | Path):
        check_right_angles(read_grid(fixed, "fixed image"), str(fixed))


def save(
    result: Registration,
    prefix: str,
    report: Report,
    *,
    inverse: bool = False,
    entropy: bool = False,
    jacobian: bool = False,
    window: tuple[float, float] | None = None,
    beside: Mapping[str, Image] | None = None,
    inputs: Mapping[str, ImageLike | None] | None = None,
    details: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write a registration.

    Always ``Warped.nii.gz``, ``1Warp.nii.gz`` (ITK displacement field), ``Report.png`` and
    ``Report.json``; with an initial alignment ``0GenericAffine.mat``; with labels
    ``WarpedLabels.nii.gz``. Those of an earlier registration that this one does not write are
    removed, so that no two registrations ever stand mixed. ANTs and ITK apply
    ``-t 1Warp.nii.gz -t 0GenericAffine.mat``.

    Args:
        result: from `register`.
        prefix: folder and start of the names, see `split_prefix`.
        report: from `make_report`.
        inverse: write ``1InverseWarp.nii.gz`` too: apply ``-t [0GenericAffine.mat,1]
            -t 1InverseWarp.nii.gz`` to bring the fixed image to the moving one.
        entropy: write ``Entropy.nii.gz``, in nats.
        jacobian: write ``Jacobian.nii.gz``, the determinant of the deformable part, and
            ``LogJacobian.nii.gz``, its logarithm where clipped at 1e-3.
        window: intensities shown as black and white in the picture.
        beside: more images to keep with the results, by name.
        inputs: what was registered, by name, see `voxelopt_train.provenance.INPUTS`: the report
            names their files, so that `voxelopt report` finds them.
        details: more keys of the report, for JSON.

    Returns:
        The files, sorted.

    Raises:
        InputError: they cannot be written; nothing is left behind.
    """
    folder, start = split_prefix(prefix)
    grid = result.fixed.grid
    with all_or_none(folder) as temporary:

        def path(name: str) -> Path:
            return temporary / f"{start}{name}"

        def write_image(name: str, image: Image) -> None:
            write_nifti(path(name), image.data, image.grid.affine)

        write_image("Warped.nii.gz", result.warped)
        write_displacement_field(path("1Warp.nii.gz"), result.field)
        if result.initial is not None:
            write_affine(path("0GenericAffine.mat"), result.initial)
        if result.labels is not None:
            write_image("WarpedLabels.nii.gz", result.labels.warped)
        for name, image in (beside or {}).items():
            write_image(f"{name}.nii.gz", image)
        if inverse:
            write_displacement_field(path("1InverseWarp.nii.gz"), result.inverse_field)
        if entropy:
            write_image("Entropy.nii.gz", result.entropy)
        if jacobian:
            determinant = jacobian_determinant(result.displacement)[0]
            write_nifti(path("Jacobian.nii.gz"), determinant, grid.affine)
            write_nifti(path("LogJacobian.nii.gz"), log_jacobian(determinant), grid.affine)
        labels = result.labels
        registration_picture(
            path("Report.png"),
            result.fixed,
            result.aligned,
            result.warped,
            result.displacement,
            result.entropy.data[None, None],
            None if labels is None else (labels.fixed, labels.aligned, labels.warped),
            window,
            aligned=result.initial is not None,
        )
        kept = {name: folder / f"{start}{name}.nii.gz" for name in beside or {}}
        record = {
            **report.as_dict(),
            "inputs": input_paths({**(inputs or {}), **kept}, folder),
            **(details or {}),
        }
        path("Report.json").write_text(json.dumps(record, indent=2) + "\n")
        names = sorted(p.name for p in temporary.iterdir())
    for outdated in output_paths(prefix):
        if outdated.name not in names:
            outdated.unlink(missing_ok=True)
    return [folder / name for name in names]
