"""``voxelopt pool``: the folds of a cross-validation in one table over all their pairs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from voxelopt_train.comparison import Comparison, row_folder
from voxelopt_train.errors import InputError
from voxelopt_train.files import check_writable
from voxelopt_train.input_files import read_text
from voxelopt_train.tables import ResultTable


def pool_parser() -> tuple[ArgumentParser, str]:
    """The options of ``voxelopt pool``, and its summary."""
    summary = "Join the tables of voxelopt compare on different pairs: folds of a cross-validation."
    parser = ArgumentParser(description=summary, exit_on_error=False)
    parser.add_argument(
        "tables",
        type=str,
        nargs="+",
        help="folders that voxelopt compare has written, with the same rows",
    )
    parser.add_argument(
        "-o", "--output", type=str, default="pooled", metavar="FOLDER", help="of the tables"
    )
    return parser, summary


def run_pool(options: Namespace) -> None:
    """``voxelopt pool``: read the rows of each fold, and write those of all folds together."""
    folders = [Path(folder) for folder in options.tables]
    methods = [_methods(folder) for folder in folders]
    for folder, found in zip(folders, methods, strict=True):
        if set(found) != set(methods[0]):
            raise InputError(
                f"{folders[0]} has the rows {', '.join(methods[0])} and {folder} "
                f"{', '.join(found)}: expected the same"
            )
    output = Path(options.output)
    if output.resolve() in {folder.resolve() for folder in folders}:
        raise InputError(f"-o {output}: this would replace the tables of a fold")
    check_writable(output)
    pooled = {name: _pooled(name, folders) for name in methods[0]}
    table = Comparison(pooled)
    for name, rows in pooled.items():
        rows.write(output / row_folder(name), "test")
    table.write(output, "comparison")
    Console().print(table.rich())
    print(f"{len(pooled[methods[0][0]].pairs)} pairs of {len(folders)} tables")
    print("wrote", *(output / f"comparison.{kind}" for kind in ("csv", "json", "md")), sep="\n  ")


def _methods(folder: Path) -> list[str]:
    path = folder / "comparison.json"
    text = read_text(path, str(path))
    try:
        methods = [str(name) for name in json.loads(text)["methods"]]
    except (RecursionError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no table that voxelopt compare wrote") from error
    # A name becomes a folder: it must not lead out of the output's.
    if not methods or any(row_folder(name) in ("", ".", "..") for name in methods):
        raise InputError(f"{path} is no table that voxelopt compare wrote")
    return methods


def _pooled(name: str, folders: Sequence[Path]) -> ResultTable:
    try:
        return ResultTable.pooled(
            [ResultTable.read(folder / row_folder(name) / "test.json") for folder in folders]
        )
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
