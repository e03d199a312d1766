"""Register a cohort: every pair of a table, or every image of a folder to an atlas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from numbers import Real
from pathlib import Path
from typing import Any, get_args

import torch

from voxelopt_train.alignment import check_alignment
from voxelopt_train.cohort.cases import Case, check_names, listed, read_cases
from voxelopt_train.cohort.one_case import (
    Settings,
    all_keywords,
    is_complete,
    kept_report,
    register_case,
)
from voxelopt_train.cohort.results import FILES, CaseResult, CohortResults
from voxelopt_train.cohort.workers import Died, TookLonger, end_if_worker, in_workers
from voxelopt_train.devices import torch_device
from voxelopt_train.errors import InputError, warn_once
from voxelopt_train.files import check_kept, check_targets, check_writable
from voxelopt_train.grids import check_spacing
from voxelopt_train.label_metrics import Protocol
from voxelopt_train.pair_checks import check_window
from voxelopt_train.registration import ENCODERS, best_settings
from voxelopt_train.temporary import InUseError, temporary_folder
from voxelopt_train.transforms import transform_file


def register_cohort(
    cases: str | Path | Iterable[Case],
    output: str | Path,
    *,
    encoder: str = "raw",
    layer: Mapping[str, Any] | None = None,
    spacing_mm: float | None = None,
    initial: str = "none",
    window: tuple[float, float] | None = None,
    protocol: Protocol = "voxelopt",
    inverse: bool = False,
    entropy: bool = False,
    jacobian: bool = False,
    device: str = "cpu",
    workers: int = 1,
    time_limit: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> CohortResults:
    """Register many pairs with no training, in several processes, and write all of their results.

    A case whose results are there, made from the same files and settings, is not registered again:
    after an interruption, or with more cases, the same call goes on. A case that fails, by a bad
    file or with its process, is recorded, and the others are done all the same.

    Processes are spawned, so a script that calls this has to do so below
    ``if __name__ == "__main__":``. All of them are on one machine; for prepared data and trained
    networks, ``voxelopt predict`` takes several GPUs and several machines.

    Args:
        cases: a CSV or JSON file, see `read_cases`; or cases, as those of `atlas_cases`.
        output: folder; each case leaves its files in a folder of its name there, see
            `voxelopt_train.outputs.save`, and all of them ``results.csv``, ``.json`` and ``.md``.
        encoder: ``"raw"`` or ``"mind"`` (for images of different modalities).
        layer: keywords of `VoxelOptLayer`; None: those that measured best with these features.
        spacing_mm: work on an isotropic grid of this voxel size; None: on the fixed grid.
        initial: initial alignment of cases that name none, see `voxelopt_train.register`.
        window: intensities outside these two values are cut off first.
        protocol: how labels and regularity are evaluated.
        inverse: write ``1InverseWarp.nii.gz`` too.
        entropy: write ``Entropy.nii.gz`` too.
        jacobian: write ``Jacobian.nii.gz`` too.
        device: where the layer runs, in all processes; results do not count as made anew for it.
        workers: number of processes; they share the threads that PyTorch has here, and each takes
            the memory of a registration.
        time_limit: seconds that each case may take; one that takes longer is ended, and has
            failed. None: it takes what it takes.
        progress: called as each case ends, with the numbers of those done, failed and left.

    Returns:
        A row for each case, failed ones too.

    Raises:
        InputError: the cases or settings cannot be used, nothing can be written, or another call
            is at work in ``output``; found out before the first case begins.
        KeyboardInterrupt: with a sentence on what stays; all processes have ended.
    """
    end_if_worker()
    table = [cases] if isinstance(cases, str | Path) else []
    cases = read_cases(cases) if isinstance(cases, str | Path) else listed(cases)
    settings = Settings(
        encoder=encoder,
        layer=all_keywords(best_settings(encoder) if layer is None else layer),
        spacing_mm=spacing_mm,
        initial=initial,
        window=window,
        protocol=protocol,
        inverse=inverse,
        entropy=entropy,
        jacobian=jacobian,
        device=device,
    )
    output = Path(output)
    _check_settings(settings, workers, time_limit)
    _check_places(cases, output, [*table, initial])
    try:
        with _at_work_in(output) as temporary:
            due = [case for case in cases if not is_complete(case, settings, output)]
            tasks = [(case, settings, output, temporary) for case in due]
            errors = _register_all(
                tasks, len(cases), workers, time_limit, progress or (lambda _: None)
            )
            results = CohortResults(
                protocol,
                [_result(case, errors.get(case.name, ""), output) for case in cases],
                kept=len(cases) - len(due),
            )
            results.write(output)
    except KeyboardInterrupt as interrupt:
        complete = sum(is_complete(case, settings, output) for case in cases)
        raise KeyboardInterrupt(
            f"{complete} of {len(cases)} cases are complete and stay, the same command goes on"
        ) from interrupt
    return results


@contextmanager
def _at_work_in(output: Path) -> Iterator[Path]:
    """One folder for all that is not complete: it goes in the end, whatever became of the workers.

    As long as it is there nobody else can have one: two cohorts would mix the files of a case.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with temporary_folder(output, "cohort") as temporary:
            yield temporary
    except InUseError:
        raise InputError(
            f"another registration of many pairs is at work in {output}, choose another --output "
            "or wait for its end"
        ) from None


def _register_all(
    tasks: Sequence[tuple[Case, Settings, Path, Path]],
    count: int,
    workers: int,
    time_limit: float | None,
    progress: Callable[[str], None],
) -> dict[str, str]:
    """Do the tasks of `register_case`; returns a sentence for each case that failed, by its name.

    ``count`` is that of all cases, those included that are complete already.
    """
    errors: dict[str, str] = {}

    def tell(ended: int) -> None:
        done = ended - len(errors)
        progress(f"{done} done, {len(errors)} failed, {count - ended} left")

    kept = count - len(tasks)
    for ended in range(1, kept + 1):
        tell(ended)
    workers = max(1, min(workers, len(tasks)))
    threads = max(1, torch.get_num_threads() // workers)
    with closing(in_workers(register_case, tasks, workers, threads, time_limit)) as outcomes:
        for ended, (index, outcome) in enumerate(outcomes, kept + 1):
            lost = isinstance(outcome, Died | TookLonger)
            error, told = (str(outcome), ()) if lost else outcome
            for warning in told:
                warn_once(warning)
            if error:
                errors[tasks[index][0].name] = error
            tell(ended)
    return errors


def _result(case: Case, error: str, output: Path) -> CaseResult:
    names = case.name, str(case.fixed), str(case.moving)
    if error:
        return CaseResult(*names, "failed", error=error)
    return CaseResult.done(*names, kept_report(output / case.name))


def _check_settings(settings: Settings, workers: int, time_limit: float | None) -> None:
    """What `voxelopt_train.register` refuses whatever the images are, before there are any."""
    if settings.encoder not in ENCODERS:
        raise InputError(f"features must be one of {', '.join(ENCODERS)}, got {settings.encoder}")
    check_window(settings.window)
    check_spacing(settings.spacing_mm)
    check_alignment(settings.initial)
    torch_device(settings.device)
    if settings.protocol not in get_args(Protocol):
        raise InputError(f"protocol must be one of {get_args(Protocol)}, got {settings.protocol!r}")
    if not isinstance(workers, int) or workers < 1:
        raise InputError(f"the number of workers must be whole, 1 or more, got {workers!r}")
    if time_limit is not None and not (isinstance(time_limit, Real) and time_limit > 0):
        raise InputError(f"the time limit must be a number above 0 s, got {time_limit!r}")


def _check_places(cases: Sequence[Case], output: Path, more: Iterable[str | Path]) -> None:
    """Raise InputError where results could not be written, or would overwrite what is read.

    ``more`` is read too: initial alignments, and the table.
    """
    from voxelopt_train.outputs import output_paths, split_prefix  # plots take time to import

    if not cases:
        raise InputError("a cohort needs at least one case")
    check_names(cases, FILES)
    split_prefix(str(output))
    results = [output / name for name in FILES]
    for case in cases:
        check_writable(output / case.name)
        results += output_paths(f"{output / case.name}/")
    check_targets(results)
    inputs = [file for case in cases for file in case.files.values()]
    alignments = [case.initial for case in cases if case.initial]
    check_kept([*inputs, *(transform_file(a) for a in [*alignments, *more])], results)
