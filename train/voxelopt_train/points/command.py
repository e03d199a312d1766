"""``voxelopt points``: its options, and what it does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from voxelopt_train.errors import InputError
from voxelopt_train.files import all_or_none, check_kept, check_writable
from voxelopt_train.images import read_grid
from voxelopt_train.points.files import check_suffix, read_points, write_points
from voxelopt_train.points.landmarks import landmark_pair, landmark_table
from voxelopt_train.points.point_set import map_positions, outside_notes
from voxelopt_train.transforms import read_transform, transform_file

_DIRECTION = (
    "The transforms that warp the moving image onto the fixed one, in the same order, carry points "
    "of the fixed image to the moving one: -t 1Warp.nii.gz -t 0GenericAffine.mat. Points of the "
    "moving image go to the fixed one by -t [0GenericAffine.mat,1] -t 1InverseWarp.nii.gz."
)


def points_parser() -> tuple[ArgumentParser, str]:
    """The options of ``voxelopt points``, and its summary."""
    summary = "Carry points through a list of transforms, or measure how far landmarks miss (TRE)."
    parser = ArgumentParser(description=f"{summary} {_DIRECTION}", exit_on_error=False)
    add = parser.add_argument
    add(
        "points",
        type=str,
        help="points in mm: ANTs' CSV (a header with x,y,z; LPS), Slicer's .mrk.json or .fcsv",
    )
    add(
        "-t",
        "--transform",
        type=str,
        action="append",
        metavar="FILE",
        help="1Warp.nii.gz, 0GenericAffine.mat, ... in the order of antsApplyTransformsToPoints: "
        "points go through the first one first; [FILE,1] inverts; repeat",
    )
    add(
        "-o",
        "--output",
        type=str,
        metavar="FILE",
        help="the points where they end (.csv, .mrk.json, .fcsv); all else in the file stays",
    )
    add(
        "--moving-points",
        type=str,
        metavar="FILE",
        help="where the points belong: prints the TRE in mm before and after; paired by label "
        "where all labels are unique and the same in both files, otherwise in order",
    )
    add(
        "-r",
        "--reference",
        type=str,
        metavar="FILE",
        help="the image that the points belong to, for transforms of FSL and Learn2Reg",
    )
    add("-m", "--moving", type=str, metavar="FILE", help="the image that they go to")
    add("--frame", choices=["lps", "ras"], default="lps", help="of CSV; Slicer's files say theirs")
    return parser, summary


def run_points(options: Namespace) -> None:
    """``voxelopt points``: points through transforms, into a file, beside others, or both."""
    output = None if options.output is None else Path(options.output)
    specs = options.transform or []
    if output is None and options.moving_points is None:
        raise InputError("nothing to do: give --output, --moving-points or both")
    if output is not None:
        check_suffix(output)
        check_writable(output.parent)
        check_kept((options.points, options.moving_points, *map(transform_file, specs)), [output])
    points = read_points(options.points, options.frame)
    pair = None
    if options.moving_points is not None:
        pair = landmark_pair(points, read_points(options.moving_points, options.frame))
    fixed = read_grid(options.reference, "reference") if options.reference else None
    moving = read_grid(options.moving, "moving image") if options.moving else None
    transforms = [read_transform(spec, fixed, moving) for spec in specs]
    notes = outside_notes(points.positions_mm, transforms)
    if output is not None:
        mapped = replace(points, positions_mm=map_positions(points.positions_mm, transforms))
        with all_or_none(output.parent) as temporary:
            write_points(temporary / output.name, mapped, options.frame)
    if pair is not None:
        stages = {"before": pair.errors_mm(), "after": pair.errors_mm(transforms)}
        Console().print(landmark_table(pair, stages))
    for note in notes:
        print("note:", note)
    if output is not None:
        print("wrote", output)
