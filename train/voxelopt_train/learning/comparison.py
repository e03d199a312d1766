"""``voxelopt compare`` and ``voxelopt ablate``: several methods on one test set, in one table."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from jsonargparse import Namespace
from rich.console import Console

from voxelopt_models.weights import read_state
from voxelopt_train.comparison import Comparison, row_folder
from voxelopt_train.configs import config_names, find_config, read_settings
from voxelopt_train.errors import InputError
from voxelopt_train.files import check_writable
from voxelopt_train.learning.training_cli import run_training
from voxelopt_train.tables import ResultTable

_QUIET = ["--trainer.enable_model_summary=false", "--verbose=false"]
_LAYER = "--model.init_args.layer.init_args"  # in the names of Lightning's options
_ENCODER = "--model.init_args.encoder"
_LEARNED = "net.layer.solver.log_parameters."
_THETA = (150.0, 0.5)  # of the first and the last iteration


def run_compare(options: Namespace) -> None:
    """``voxelopt compare``: one row for each recipe or finished training."""
    names = [Path(row).name if Path(row).is_dir() else Path(row).stem for row in options.rows]
    if len(set(names)) < len(names):  # runs/a/last and runs/b/last
        names = options.rows
    if len(set(names)) < len(names):
        raise InputError("each row of a comparison must be another recipe or training")
    rows = dict(zip(names, map(_row_arguments, options.rows), strict=True))
    _print_table(rows, options)


def run_ablate(options: Namespace) -> None:
    """``voxelopt ablate``: one row for each choice of the method, all else as in the first row."""
    base = _as_settings(options.row)
    rows = {"as it is": base}
    for features in ("mind", "raw"):
        encoder = _model(find_config(features, "training"))["init_args"]["encoder"]
        rows[f"{features} features"] = [*base, f"{_ENCODER}={json.dumps(encoder)}"]
    for name, settings in ablations(options.iterations).items():
        rows[name] = [*base, *(f"{_LAYER}.{key}={value}" for key, value in settings.items())]
    _print_table(rows, options)


def ablations(iterations: Sequence[int]) -> dict[str, dict[str, Any]]:
    """The rows of the paper's second table: name, and the keywords of the layer that differ.

    The schedules of theta are geometric, from the first value of the paper's to its last.
    """
    rows: dict[str, dict[str, Any]] = {
        "not adaptive": {"adaptive": False},
        "k = 2": {"search_radius": 2},
        "k = 3": {"search_radius": 3},
        "no cost filtering": {"cost_filtering": False},
        "neither": {"adaptive": False, "cost_filtering": False},
    }
    start, end = _THETA
    for n in iterations:
        steps = [start * (end / start) ** (i / max(n - 1, 1)) for i in range(n)]
        rows[f"{n} iterations"] = {"theta": steps if n > 1 else [end]}
    return rows


def _row_arguments(row: str) -> list[str]:
    """What Lightning's ``test`` needs to know for a recipe, or the folder of a training."""
    folder = Path(row)
    if row in config_names("training") or not folder.is_dir():
        config = find_config(row, "training")
        weights = _check_row(row, config).get("weights")
        if weights is not None and not Path(weights).is_file():
            raise InputError(
                f"{row}: there is no weights file {weights}; expected a training's there, or "
                "a YAML file in this one's place that names another"
            )
        return ["--config", str(config)]
    config, checkpoint = folder / "config.yaml", folder / "checkpoints" / "last.ckpt"
    for path in (config, checkpoint):
        if not path.is_file():
            raise InputError(f"{row} is no finished training: there is no {path}")
    _check_row(row, config)
    return ["--config", str(config), "--ckpt_path", str(checkpoint)]


def _check_row(row: str, config: Path) -> dict[str, Any]:
    """The encoder's settings; InputError for what would stop the table after the rows before it."""
    model = _model(config)
    if str(model.get("class_path")).endswith("SegmentationModule"):
        raise InputError(f"{row} registers nothing: its features do, see segmentation_features")
    encoder = (model.get("init_args") or {}).get("encoder")
    return (encoder.get("init_args") or {}) if isinstance(encoder, dict) else {}


def _model(config: Path) -> dict[str, Any]:
    """What a YAML file says of the model; nothing where it is about other things."""
    model = read_settings(config, str(config)).get("model")
    return model if isinstance(model, dict) else {}


def _as_settings(row: str) -> list[str]:
    """As `_row_arguments`, and a training by its settings alone, so that they can be changed.

    What the layer has learned becomes constants, and the encoder takes its weights from the
    checkpoint: a changed layer may have other parameters than the checkpoint.
    """
    arguments = _row_arguments(row)
    if "--ckpt_path" not in arguments:
        return arguments
    *config, _, checkpoint = arguments
    encoder = _model(Path(config[1]))["init_args"]["encoder"]
    if not str(encoder["class_path"]).endswith(".FeatureEncoder"):
        raise InputError(f"{row}: ablate takes trainings whose encoder is a FeatureEncoder")
    learned = {
        key.removeprefix(_LEARNED): value.exp().tolist()
        for key, value in read_state(checkpoint).items()
        if key.startswith(_LEARNED)
    }
    return [
        *config,
        f"{_ENCODER}.init_args.weights={checkpoint}",
        f"{_ENCODER}.init_args.trainable=false",
        f"{_LAYER}.learnable=false",
        *(f"{_LAYER}.{name}={value}" for name, value in learned.items()),
    ]


def _print_table(rows: Mapping[str, Sequence[str]], options: Namespace) -> None:
    output = Path(options.output)
    check_writable(output)
    _check_data(options.data)
    tables: dict[str, ResultTable] = {}
    writes = True
    with _lightning_quiet(), TemporaryDirectory() as temporary:
        for number, (name, arguments) in enumerate(rows.items()):
            print(f"{number + 1} of {len(rows)}: {name}", file=sys.stderr)
            folder = output / row_folder(name)
            row = _without_data(arguments, Path(temporary) / f"{number}.yaml")
            cli = run_training(["test", *row, "--data", options.data, "-o", str(folder), *_QUIET])
            tables[name] = cli.model.table
            writes = cli.trainer.is_global_zero
    if not writes:
        return
    table = Comparison(tables)
    table.write(output, "comparison")
    Console().print(table.rich())
    print("wrote", *(output / f"comparison.{kind}" for kind in ("csv", "json", "md")), sep="\n  ")


def _without_data(arguments: Sequence[str], path: Path) -> list[str]:
    """The row without the data that it was trained on, which would mix with those of all rows."""
    option, config, *others = arguments
    settings = read_settings(Path(config), config)
    settings.pop("data", None)
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return [option, str(path), *others]


def _check_data(data: str) -> None:
    """Raise InputError before the first row for a ``--data`` that nothing can be meant by."""
    if data not in config_names("training") and not Path(data).exists():
        raise InputError(
            f"--data {data}: there is no such file or folder; expected a prepared folder, a YAML "
            "file, phantom or abdomen_ct"
        )


@contextmanager
def _lightning_quiet() -> Generator[None]:
    """What Lightning says of the machine at every start is of no use in every row."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
