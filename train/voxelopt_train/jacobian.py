"""Jacobian determinant of a list of transforms, and ``voxelopt jacobian``, which writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from torch import Tensor

from voxelopt_layers import jacobian_determinant
from voxelopt_train.files import all_or_none, check_kept, check_writable
from voxelopt_train.grids import Grid
from voxelopt_train.images import read_grid, write_nifti
from voxelopt_train.metrics import folds, log_jacobian, sd_log_jacobian, sd_log_jacobian_strict
from voxelopt_train.nifti_names import check_nifti_name
from voxelopt_train.transforms import Transform, read_transform, to_ddf, transform_file


def map_jacobian(transforms: Sequence[Transform], grid: Grid) -> Tensor:
    """Determinant of the Jacobian of the whole map, affine transforms included, in world space.

    The map is written in voxels of ``grid`` on both sides: a change of basis leaves determinants
    as they are, whatever the voxels' size, direction and handedness. Central differences inside,
    one-sided at the border of ``grid``.

    Args:
        transforms: maps from the fixed to the moving world, the first first.
        grid: where the determinant is wanted.

    Returns:
        ``(1, *shape)`` float32: how many times larger a piece of the moving image is than the
        piece of the fixed image that it belongs to; ``<= 0`` where the map folds.
    """
    return jacobian_determinant(to_ddf(transforms, grid))


def jacobian_parser() -> tuple[ArgumentParser, str]:
    """The options of ``voxelopt jacobian``, and its summary."""
    summary = "Write the Jacobian determinant of a list of transforms: local change of volume."
    details = (
        "Above 1 where the moving image is larger than the fixed one: an affine that scales points "
        "by 1.1 has 1.331. Of all transforms together, affine ones too; of the deformation alone "
        "with -t 1Warp.nii.gz alone."
    )
    parser = ArgumentParser(description=f"{summary} {details}", exit_on_error=False)
    add = parser.add_argument
    add(
        "-r",
        "--reference",
        type=str,
        required=True,
        metavar="FILE",
        help="image with the grid of the result, the fixed one",
    )
    add(
        "-t",
        "--transform",
        type=str,
        action="append",
        required=True,
        metavar="FILE",
        help="1Warp.nii.gz, 0GenericAffine.mat, ... in the order of antsApplyTransforms; repeat",
    )
    add(
        "-o", "--output", type=str, required=True, metavar="FILE", help="the result (.nii, .nii.gz)"
    )
    add("-m", "--moving", type=str, metavar="FILE", help="the moving image, for FSL, Learn2Reg")
    add("--log", action="store_true", help="write log J instead, of J clipped at 1e-3")
    return parser, summary


def run_jacobian(options: Namespace) -> None:
    """``voxelopt jacobian``: transforms in, an image of J or log J out, and a line about it."""
    output = Path(options.output)
    check_nifti_name(output, f"--output {output}")
    check_writable(output.parent)
    check_kept((options.reference, *map(transform_file, options.transform)), [output])
    grid = read_grid(options.reference, "reference")
    moving = read_grid(options.moving, "moving image") if options.moving else None
    transforms = [read_transform(spec, grid, moving) for spec in options.transform]
    jacobian = map_jacobian(transforms, grid)
    with all_or_none(output.parent) as temporary:
        image = log_jacobian(jacobian) if options.log else jacobian
        write_nifti(temporary / output.name, image[0], grid.affine)
    print(_summary(jacobian))
    print("wrote", output)


def _summary(jacobian: Tensor) -> str:
    low, high = float(jacobian.min()), float(jacobian.max())
    return (
        f"J from {low:.4g} to {high:.4g}; J <= 0 in {100 * folds(jacobian):.4f} % of voxels; "
        f"SD of log J {sd_log_jacobian_strict(jacobian):.4f} (J clipped at 1e-3), "
        f"SDlogJ as of challenges and register, of log(J + 3), {sd_log_jacobian(jacobian):.4f}; "
        "two voxels cropped per side"
    )
