"""``voxelopt convert``: its options, and what it does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace

from voxelopt_train.files import all_or_none, check_kept, check_writable
from voxelopt_train.grids import Grid
from voxelopt_train.images import read_grid
from voxelopt_train.transforms import (
    FORMATS,
    AffineTransform,
    InverseDisplacementField,
    Transform,
    flatten,
    read_transform,
    slabs,
    transform_file,
    write_transform,
)


def convert_parser() -> tuple[ArgumentParser, str]:
    """The options of ``voxelopt convert``, and its summary."""
    summary = "Join transforms into one file, of this or another tool's format."
    parser = ArgumentParser(description=summary, exit_on_error=False)
    add = parser.add_argument
    add(
        "-t",
        "--transform",
        type=str,
        action="append",
        required=True,
        metavar="FILE",
        help="as of voxelopt apply, in the same order: any format that it can read, "
        "learn2reg:FILE, [FILE,1] for the inverse; repeat",
    )
    formats = "; ".join(f"{name}: {text}" for name, text in FORMATS.items())
    add("--to", choices=list(FORMATS), default="itk", help=formats)
    add(
        "-r",
        "--reference",
        type=str,
        metavar="FILE",
        help="the fixed image, on whose grid a displacement field is written; default: the grid "
        "of the first transform",
    )
    add(
        "-m",
        "--moving",
        type=str,
        metavar="FILE",
        help="the moving image, where it lies on another grid (FSL, Learn2Reg)",
    )
    add("-o", "--output", type=str, required=True, metavar="FILE", help="the result")
    return parser, summary


def run_convert(options: Namespace) -> None:
    """Read, join, write, and say how well fields were inverted where they had to be."""
    output = Path(options.output)
    check_writable(output.parent)
    check_kept(
        (options.reference, options.moving, *map(transform_file, options.transform)), [output]
    )
    fixed = read_grid(options.reference, "reference") if options.reference else None
    moving = read_grid(options.moving, "moving image") if options.moving else None
    transforms = [read_transform(spec, fixed, moving) for spec in options.transform]
    with all_or_none(output.parent) as temporary:
        write_transform(temporary / output.name, transforms, options.to, fixed, moving)
    for part in _inverses(transforms):
        mean, largest = inverse_error_mm(part)
        print(f"inverse off by {mean:.3f} mm on average, {largest:.3f} mm at most (inner half)")
    print("wrote", output)


def _inverses(transforms: Iterable[Transform]) -> list[InverseDisplacementField]:
    return [part for part in flatten(transforms) if isinstance(part, InverseDisplacementField)]


def inverse_error_mm(inverse: InverseDisplacementField) -> tuple[float, float]:
    """Mean and largest distance of points from where the inverse and the field take them.

    Over the inner half of each axis of the field's grid: its border comes from points beyond it.
    """
    grid = inverse.field.grid
    first = [n // 4 for n in grid.shape]
    nx, ny, nz = (n - 2 * k for n, k in zip(grid.shape, first, strict=True))
    affine = grid.affine.copy()
    affine[:3, 3] += grid.affine[:3, :3] @ first
    inner = Grid((nx, ny, nz), affine)
    distances = []
    for _, indices in slabs(inner):
        points = AffineTransform(affine)(indices)
        distances.append((inverse.field(inverse(points)) - points).norm(dim=1).flatten())
    distance = torch.cat(distances)
    return float(distance.mean()), float(distance.max())
