"""``voxelopt prepare``: its options, and what it does."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from voxelopt_train.data.layouts import LAYOUTS, find_cohort
from voxelopt_train.data.prepare import Settings, prepare
from voxelopt_train.data.subjects import SPLITS
from voxelopt_train.progress import progress_bar


def prepare_parser() -> tuple[ArgumentParser, str]:
    """The options of ``voxelopt prepare``, and its summary."""
    summary = "Resample a dataset to one grid, for training and evaluation."
    parser = ArgumentParser(description=summary, exit_on_error=False)
    add = parser.add_argument
    add("source", type=str, help="folder of the dataset, or a CSV or JSON list of pairs")
    add("-o", "--output", type=str, required=True, metavar="FOLDER", help="for the prepared data")
    add("--layout", choices=list(LAYOUTS), default="auto", help="how the source is laid out")
    add(
        "--images",
        type=str,
        metavar="PATTERN",
        help="images below the source, with * for the subject's name: image_*.nii.gz",
    )
    add("--labels", type=str, metavar="PATTERN", help="the same for label maps")
    add("--keypoints", type=str, metavar="PATTERN", help="the same for CSV of voxels x,y,z")
    defaults = Settings()
    add("--spacing", type=float, default=defaults.spacing_mm, metavar="MM", help="voxel size")
    add(
        "--shape",
        type=int,
        nargs=3,
        default=list(defaults.shape),
        metavar=("X", "Y", "Z"),
        help="voxels to the right, to the front and up",
    )
    add(
        "--window",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="intensities that become 0 and 1 (CT: -800 500); default: percentiles of each image",
    )
    add(
        "--center",
        choices=["volume", "mass"],
        default=defaults.center,
        help="what the grid is centred on: the scanned volume or its centre of mass",
    )
    for split in SPLITS:
        add(
            f"--{split}",
            type=str,
            metavar="SUBJECTS",
            help="names, numbers and ranges, as 1-20,32; default: as the dataset says",
        )
    return parser, summary


def run_prepare(options: Namespace) -> None:
    """``voxelopt prepare``: a dataset in, prepared files and their manifest out."""
    window = None if options.window is None else (options.window[0], options.window[1])
    nx, ny, nz = options.shape
    settings = Settings(options.spacing, (nx, ny, nz), window, options.center)
    cohort = find_cohort(
        options.source,
        options.layout,
        images=options.images,
        labels=options.labels,
        keypoints=options.keypoints,
        **{split: options[split] for split in SPLITS},
    )
    try:
        with progress_bar(stages=len(cohort.subjects)) as stage:
            done = prepare(cohort, options.output, settings, stage)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt("what is done stays, the same command goes on") from interrupt
    table = Table("split", "subjects", "pairs")
    for split in SPLITS:
        table.add_row(split, str(len(cohort.names(split))), str(len(cohort.pairs.get(split, []))))
    console = Console()
    console.print(table)
    for note in done.notes:
        print("note:", note)
    if done.skipped:
        print(f"{len(done.skipped)} of {len(cohort.subjects)} subjects were there already")
    print("wrote", done.manifest)
