"""One case of a cohort: what its results are made from, and what a worker does of it.

A case is complete where its ``Report.json`` says that it was made from the same inputs and
settings. Results move to their folder together, that file last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import voxelopt_layers
from voxelopt_layers import VoxelOptLayer
from voxelopt_train.alignment import ALIGNMENTS
from voxelopt_train.cohort.cases import Case
from voxelopt_train.errors import InputError, input_warnings_to, sentence
from voxelopt_train.files import read_record, stamp
from voxelopt_train.label_metrics import Protocol
from voxelopt_train.points import read_landmarks
from voxelopt_train.provenance import as_json, method_settings
from voxelopt_train.registration import best_settings, register
from voxelopt_train.report import make_report
from voxelopt_train.transforms import transform_file

REPORT = "Report.json"


@dataclass(frozen=True)
class Settings:
    """What holds for all cases of a cohort, see `register_cohort`; ``layer`` has all keywords."""

    encoder: str
    layer: dict[str, Any]
    spacing_mm: float | None
    initial: str
    window: tuple[float, float] | None
    protocol: Protocol
    inverse: bool
    entropy: bool
    jacobian: bool
    device: str


def made_from(case: Case, settings: Settings) -> dict[str, Any]:
    """All that the results of a case hang on, as JSON gives it back.

    Files by path, size and time of change in ns; None for one that is not there.
    """
    initial = case.initial or settings.initial
    files = dict(case.files)
    if initial not in ALIGNMENTS:
        files["initial"] = transform_file(initial)
    chosen = asdict(settings) | {"initial": initial}
    del chosen["device"]  # where it was made
    stamps = {role: stamp(Path(file)) for role, file in files.items()}
    made = {"voxelopt": voxelopt_layers.__version__, "inputs": stamps, "settings": chosen}
    return as_json(made)


def is_complete(case: Case, settings: Settings, output: Path) -> bool:
    """Whether there are results of a case in the cohort's folder, made from the same."""
    return kept_report(output / case.name).get("made_from") == made_from(case, settings)


def kept_report(folder: Path) -> dict[str, Any]:
    """The report of a case that is complete; empty where there is none that can be read."""
    return read_record(folder / REPORT)


class Outcome(NamedTuple):
    """What there is to say of a case."""

    error: str  # empty where nothing went wrong
    warnings: tuple[str, ...]


def register_case(case: Case, settings: Settings, output: Path, temporary: Path) -> Outcome:
    """Register a case and leave its files in a folder of its name; what a worker calls.

    Args:
        case: the pair.
        settings: how.
        output: the folder of the cohort.
        temporary: a folder on the same file system, for files that are not complete.

    Returns:
        What went wrong, if anything did, and what is odd about the files.
    """
    made, folder = temporary / case.name, output / case.name
    message, warnings = "", []
    try:
        with input_warnings_to(warnings.append):
            _register_and_save(case, settings, made)
        _publish(made, folder)
    except Exception as error:  # whatever it is, the other cases go on
        message = sentence(error)
        if message is None:
            message = f"a defect of this program, {type(error).__name__}: {error}"
    return Outcome(" ".join(message.replace(str(made), str(folder)).split()), tuple(warnings))


def _register_and_save(case: Case, settings: Settings, folder: Path) -> None:
    # Plots take half a second to import, which workers alone are to spend.
    from voxelopt_train.outputs import check_fixed, save

    made = made_from(case, settings)  # before anything is read: what changes now is out of date
    check_fixed(case.fixed)
    landmarks = read_landmarks(case.fixed_points, case.moving_points, case.fixed, case.moving)
    result = register(
        case.fixed,
        case.moving,
        encoder=settings.encoder,
        layer=VoxelOptLayer(**settings.layer),
        spacing_mm=settings.spacing_mm,
        initial=case.initial or settings.initial,
        window=settings.window,
        fixed_labels=case.fixed_labels,
        moving_labels=case.moving_labels,
        fixed_mask=case.fixed_mask,
        moving_mask=case.moving_mask,
        device=settings.device,
    )
    save(
        result,
        f"{folder}/",
        make_report(result, settings.protocol, landmarks),
        inverse=settings.inverse,
        entropy=settings.entropy,
        jacobian=settings.jacobian,
        window=settings.window,
        inputs=case.files,
        details={"settings": _method(case, settings), "made_from": made},
    )


def _method(case: Case, settings: Settings) -> dict[str, Any]:
    best = as_json(all_keywords(best_settings(settings.encoder)))
    return method_settings(
        features=settings.encoder,
        preset=None,
        layer={k: value for k, value in as_json(settings.layer).items() if value != best[k]},
        spacing_mm=settings.spacing_mm,
        initial=case.initial or settings.initial,
        window=settings.window,
        shown=settings.window,
        device=settings.device,
    )


def all_keywords(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of the layer with the defaults of those that are not given: they may change."""
    if not isinstance(layer, Mapping):
        got = type(layer).__name__
        raise InputError(
            f"layer: expected keywords, as {{'levels': 3}}, for each process, got {got}"
        )
    try:
        VoxelOptLayer(**layer)
        keywords = signature(VoxelOptLayer).bind(**layer)
    except (TypeError, ValueError) as error:
        raise InputError(f"layer: {error}") from error
    keywords.apply_defaults()
    return keywords.arguments


def _publish(made: Path, folder: Path) -> None:
    """Move results to their folder, in the place of older ones; the report that vouches last."""
    from voxelopt_train.outputs import output_paths

    try:
        folder.mkdir(exist_ok=True)
        (folder / REPORT).unlink(missing_ok=True)
        for outdated in output_paths(f"{folder}/"):
            outdated.unlink(missing_ok=True)
        for path in sorted(made.iterdir(), key=lambda path: path.name == REPORT):
            path.replace(folder / path.name)
    except OSError as error:
        raise InputError(f"the results cannot be written to {folder}: {error.strerror}") from error
