"""``voxelopt register``: one pair, those of a table, or a folder of images to an atlas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from voxelopt_train.cohort.cases import FILES, Case, atlas_cases, read_cases
from voxelopt_train.cohort.registration import register_cohort
from voxelopt_train.cohort.results import FILES as TABLES
from voxelopt_train.commands import layer_settings, run_register
from voxelopt_train.errors import InputError
from voxelopt_train.files import check_kept
from voxelopt_train.progress import progress_bar

_EITHER = "expected FIXED and MOVING, or --pairs TABLE"


def add_cohort_options(parser: ArgumentParser) -> None:
    """The options of ``voxelopt register`` for many pairs."""
    add = parser.add_argument
    add(
        "--pairs",
        type=str,
        metavar="TABLE",
        help="many pairs, in place of FIXED and MOVING: CSV or JSON with fixed, moving and, where "
        "there is more, case (a name), initial, fixed_labels, fixed_mask, fixed_points and those "
        "of the moving one; paths relative to it",
    )
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes for many pairs, which share the cores (default: 1)",
    )
    add(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="of many pairs, end one that takes longer: it has failed, and the next begins",
    )


def run_registrations(options: Namespace) -> None:
    """``voxelopt register``: one pair, or a cohort."""
    if options.pairs is None and (options.fixed is None or options.moving is None):
        raise InputError(_EITHER)
    if options.pairs is None and not Path(options.moving).is_dir():
        _refuse(
            options,
            ("workers", "time_limit"),
            "this is for many pairs, and here is one: give --pairs TABLE, or a folder as MOVING",
        )
        run_register(options)
    else:
        _run_cohort(options)


def _run_cohort(options: Namespace) -> None:
    """Many pairs in, their results and a table of them out; InputError where any failed."""
    cases, output = _cases(options), Path(options.output)
    tables = [output / name for name in TABLES]
    check_kept([options.pairs], tables)
    with progress_bar(stages=len(cases)) as stage:
        results = register_cohort(
            cases,
            options.output,
            encoder=options.features,
            layer=layer_settings(options).as_dict(),
            spacing_mm=options.spacing,
            initial=options.initial,
            window=None if options.window is None else (options.window[0], options.window[1]),
            protocol=options.protocol,
            inverse=options.inverse,
            entropy=options.entropy,
            jacobian=options.jacobian,
            device=options.device,
            workers=1 if options.workers is None else options.workers,
            time_limit=options.time_limit,
            progress=stage,
        )
    failed = results.failed
    if len(failed) < len(cases):
        Console().print(results.table())
    if results.kept:
        print(f"{results.kept} of {len(cases)} cases were complete already")
    for case in failed:
        print(f"{case.case} failed: {case.error}")
    print("wrote", *tables, sep="\n  ")
    if failed:
        raise InputError(f"{len(failed)} of {len(cases)} cases failed, see {tables[0]}")


def _cases(options: Namespace) -> list[Case]:
    if options.pairs is None:
        _refuse(
            options,
            ("moving_mask", "fixed_points", "moving_points"),
            "of many pairs they belong in a table, see --pairs",
        )
        return atlas_cases(
            options.fixed,
            options.moving,
            options.fixed_labels,
            options.moving_labels,
            options.fixed_mask,
        )
    if options.fixed is not None:
        raise InputError(f"{_EITHER}, not both")
    _refuse(options, FILES[2:], "with --pairs these are columns of the table")
    return read_cases(options.pairs)


def _refuse(options: Namespace, names: Sequence[str], why: str) -> None:
    given = [f"--{name.replace('_', '-')}" for name in names if options[name] is not None]
    if given:
        raise InputError(f"{', '.join(given)}: {why}")
