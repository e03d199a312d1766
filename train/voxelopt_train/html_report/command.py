"""``voxelopt report``: its options, and what it does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from voxelopt_train.data.pair_table import read_json
from voxelopt_train.errors import InputError
from voxelopt_train.files import all_or_none, check_kept, check_writable
from voxelopt_train.html_report.page import write_page
from voxelopt_train.html_report.results import failed_cases, find_results
from voxelopt_train.progress import progress_bar


def report_parser() -> tuple[ArgumentParser, str]:
    """The options of ``voxelopt report``, and its summary."""
    summary = "One HTML page of a registration, or of a cohort, to look at in a browser."
    parser = ArgumentParser(description=summary, exit_on_error=False)
    add = parser.add_argument
    add(
        "results",
        type=str,
        nargs="+",
        metavar="PREFIX_OR_FOLDER",
        help="what voxelopt register -o was given, or a folder whose sub-folders were",
    )
    add("-o", "--output", type=str, default="report.html", metavar="FILE", help="the page (.html)")
    add("--fixed", type=str, metavar="FILE", help="the fixed image, where it has moved")
    add("--moving", type=str, metavar="FILE", help="the moving image, where it has moved")
    add(
        "--label-names",
        type=str,
        metavar="FILE",
        help='JSON with the names of labels, {"1": "liver"}, or a dataset.json that has labels',
    )
    return parser, summary


def run_report(options: Namespace) -> None:
    """``voxelopt report``: results of registrations in, one page out."""
    output = Path(options.output)
    if output.suffix not in (".html", ".htm"):
        raise InputError(f"--output {output}: expected a name ending in .html")
    check_writable(output.parent)
    given = {"fixed": options.fixed, "moving": options.moving}
    names = read_label_names(options.label_names) if options.label_names else {}
    cases = find_results(options.results)
    if len(cases) > 1 and any(given.values()):
        raise InputError(
            f"--fixed and --moving are for one registration, there are {len(cases)} here"
        )
    check_kept((*given.values(), options.label_names), [output])
    failed = failed_cases(options.results)
    with progress_bar(stages=len(cases)) as stage, all_or_none(output.parent) as temporary:
        size = write_page(temporary / output.name, cases, given, names, stage, failed)
    for note in [*(note for case in cases for note in case.notes), *failed]:
        print("note:", note)
    print(f"wrote {output} ({size / 1e6:.1f} MB)")


def read_label_names(file: str) -> Mapping[str, str]:
    """Names of labels by number, from JSON that says either of the two by the other.

    Raises:
        InputError: the file cannot be read, or has something else.
    """
    content = read_json(Path(file))
    labels = content.get("labels", content) if isinstance(content, dict) else content
    if isinstance(labels, dict):
        if all(str(key).isdecimal() for key in labels):
            return {str(key): str(name) for key, name in labels.items()}
        if all(isinstance(n, int) for n in labels.values()):
            return {str(n): str(name) for name, n in labels.items()}
    raise InputError(f'{file}: expected the names of labels, as {{"1": "liver", "2": "spleen"}}')
