"""``voxelopt peers``: registration with no training beside other tools, over sets of pairs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace

import voxelopt_layers
from voxelopt_layers import VoxelOptLayer
from voxelopt_layers.presets import PRESETS
from voxelopt_train.benchmark.peer_pairs import MAGNITUDES_MM, pair_sets
from voxelopt_train.benchmark.peer_tools import TOOLS
from voxelopt_train.benchmark.peers import (
    Entry,
    entries,
    made_by,
    measure_tool,
    measures,
    packages_without,
    pair_files,
)
from voxelopt_train.benchmark.peers_tables import BEFORE, Rows, report
from voxelopt_train.commands import checked_settings
from voxelopt_train.errors import InputError
from voxelopt_train.files import atomic_output, check_writable
from voxelopt_train.phantom import Pair
from voxelopt_train.progress import progress_bar

_VARIED = "voxelopt, raw"


def peers_parser() -> tuple[ArgumentParser, str]:
    """The options of the command, and what it does in a sentence."""
    summary = "Compare with other registration tools over sets of pairs, with no training."
    parser = ArgumentParser(description=summary, exit_on_error=False)
    add = parser.add_argument
    add(
        "-o",
        "--output",
        type=str,
        required=True,
        metavar="FOLDER",
        help="of the tables; what an earlier run has found there is not computed again",
    )
    add("--phantom", action="store_true", help="pairs of two synthetic patients")
    add(
        "--deformed",
        action="store_true",
        help="pairs of a synthetic patient and itself under a known diffeomorphism; "
        "without any set: --phantom --deformed",
    )
    add(
        "--known-warp",
        type=str,
        nargs=2,
        metavar=("IMAGE", "LABELS"),
        help="the same of a scan and its label map, with noise on the deformed scan",
    )
    add("--data", type=str, metavar="PREPARED", help="a sample of a prepared folder's test pairs")
    add(
        "--magnitude",
        type=float,
        nargs="+",
        metavar="MM",
        help="longest displacements of the known warps, in turn "
        f"(default: {' '.join(f'{mm:g}' for mm in MAGNITUDES_MM)})",
    )
    add("--count", type=int, default=4, metavar="N", help="pairs of each set")
    add(
        "--tools",
        type=str,
        nargs="+",
        metavar="NAME",
        help="only these, as 'voxelopt, raw' greedy; default: all that are installed",
    )
    add(
        "--vary",
        type=str,
        nargs="+",
        metavar="KEY=VALUE",
        default=[],
        help="rows of the layer on raw intensities with one setting changed, as refinements=0, "
        "or another preset, as preset=paper (preset=null: the layer's defaults)",
    )
    add(
        "--window",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="cut intensities of --known-warp off here first (CT: -800 500)",
    )
    return parser, summary


def run_peers(options: Namespace) -> None:
    """Register every pair with every tool; print the tables and write them."""
    output, there = Path(options.output), entries()
    check_writable(output / "results")
    tools = {name: there[name] for name in _chosen(options.tools, list(there))}
    for name, entry in map(_varied, options.vary):
        if name in tools:
            raise InputError(f'--vary "{name.removeprefix(_VARIED + ", ")}" is given twice')
        tools[name] = entry
    sets = pair_sets(options)
    results: dict[str, Any] = {
        "voxelopt": voxelopt_layers.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "protocol": "voxelopt",
        "tools": {name: made_by(entry) for name, entry in tools.items()},
        "not_installed": packages_without(there),
        "sets": {},
    }
    try:
        with progress_bar(sum(len(s.pairs) for s in sets) * (2 + len(tools))) as stage:
            for s in sets:  # all before the first is registered: a wrong one is told at once
                pairs = [_describe(make, stage) for make in s.pairs]
                results["sets"][s.name] = {"title": s.title, "pairs": pairs}
            for s in sets:
                pairs = results["sets"][s.name]["pairs"]
                for n, (make, pair) in enumerate(zip(s.pairs, pairs, strict=True)):
                    folder = output / "results" / s.name / str(n)
                    pair["rows"] = _rows(make, pair["sha256"], tools, folder, stage)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt("what is done stays, the same command goes on") from interrupt
    report(output, results)


def _chosen(names: Sequence[str] | None, there: list[str]) -> list[str]:
    if names is None:
        return there
    known = {name.lower(): name for name in there}
    for name in names:
        if name.lower() not in known:
            quoted = ", ".join(f'"{tool}"' for tool in there)
            raise InputError(f'--tools "{name}": no tool that is installed; there are {quoted}')
    return [tool for tool in there if tool.lower() in {name.lower() for name in names}]


def _varied(text: str) -> tuple[str, Entry]:
    """Name and entry of a row of ``--vary``; InputError if the layer cannot be set so."""
    key, _, value = (part.strip() for part in text.partition("="))
    if not value:
        raise InputError(f'--vary "{text}": expected KEY=VALUE')
    try:
        changed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f'--vary "{text}": {value} is no value, as YAML goes') from error
    name = f"{_VARIED}, {key}={value}"
    if key == "preset":
        if changed is not None and changed not in list(PRESETS):
            raise InputError(f'--vary "{text}": expected null or one of {", ".join(PRESETS)}')
        return name, Entry(_VARIED, changed)
    if key not in signature(VoxelOptLayer).parameters:
        raise InputError(f'--vary "{text}": the layer has no setting of this name')
    preset = TOOLS[_VARIED].preset
    assert preset is not None
    settings = checked_settings({**PRESETS[preset], key: changed}, "vary")
    return name, Entry(_VARIED, preset, {key: settings[key]})


def _describe(make: Callable[[], Pair], stage: Callable[[str], None]) -> dict[str, Any]:
    """What the tables say of a pair, and a digest of all that it holds."""
    stage("checking the pairs")
    pair = make()
    digest = hashlib.sha256()
    for image in (pair.fixed, pair.fixed_labels, pair.moving, pair.moving_labels):
        digest.update(image.data.numpy().tobytes())
    digest.update(pair.fixed.grid.affine.tobytes())
    if pair.displacement is not None:
        digest.update(pair.displacement.numpy().tobytes())
    return {
        "fixed": pair.fixed.name,
        "moving": pair.moving.name,
        "shape": list(pair.fixed.grid.shape),
        "spacing_mm": list(pair.fixed.grid.spacing),
        "sha256": digest.hexdigest(),
    }


def _rows(
    make: Callable[[], Pair],
    sha256: str,
    tools: Mapping[str, Entry],
    folder: Path,
    stage: Callable[[str], None],
) -> Rows:
    """The measures of each tool on one pair: as they were kept in ``folder``, or made now."""
    threads = torch.get_num_threads()
    same = {"voxelopt": voxelopt_layers.__version__, "threads": threads, "pair": sha256}
    made_of = {BEFORE: same, **{name: {**same, **_made_of(entry)} for name, entry in tools.items()}}
    files = {name: folder / f"{_file_name(name)}.json" for name in made_of}
    rows = {name: kept for name in made_of if (kept := _kept(files[name], made_of[name]))}
    if len(rows) == len(made_of):
        return rows
    pair = make()
    with pair_files(pair) as images:
        for name in made_of:
            stage(f"{folder.parent.name}, pair {folder.name}, {name}")
            if name not in rows:
                rows[name] = row = (
                    measures(pair, None)
                    if name == BEFORE
                    else measure_tool(pair, tools[name], images, threads)
                )
                if "failed" not in row:  # what failed is tried again
                    _keep(files[name], {"made_of": made_of[name], "row": row})
    return {name: rows[name] for name in made_of}


def _made_of(entry: Entry) -> dict[str, Any]:
    """All that a result hangs on beside the pair: a preset may become another one."""
    preset = PRESETS[entry.preset] if entry.preset else {}
    return {**made_by(entry), "keywords": repr({**preset, **entry.settings})}


def _file_name(row: str) -> str:
    plain = re.sub("[^a-z0-9]+", "_", row.lower())
    # Values may differ in signs alone, and be long.
    return f"{plain[:60]}_{hashlib.sha256(row.encode()).hexdigest()[:8]}" if "=" in row else plain


def _kept(file: Path, made_of: dict[str, Any]) -> dict[str, Any] | None:
    try:
        record = json.loads(file.read_text())
        return record["row"] if record["made_of"] == made_of else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(file: Path, record: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_output(file) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
