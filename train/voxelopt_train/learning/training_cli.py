"""``voxelopt fit | validate | test | predict``: Lightning's own command line, with our folders."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from voxelopt_models import EncoderError, WeightsError
from voxelopt_train.configs import config_names, find_configs, read_settings
from voxelopt_train.data.manifest import read_manifest
from voxelopt_train.errors import InputError
from voxelopt_train.files import atomic_output, check_writable
from voxelopt_train.learning.checkpoints import WholeCheckpoints
from voxelopt_train.learning.epoch_lines import EpochLines
from voxelopt_train.learning.predicted import PredictedFrom
from voxelopt_train.learning.registration_module import NOTHING_TO_TRAIN
from voxelopt_train.learning.segmentation_module import SegmentationModule
from voxelopt_train.learning.writer_errors import told_once

_GO_ON = "its complete epochs are kept: --ckpt_path last goes on from there"
_STAYS = "what is complete stays"
_SENTENCES = (InputError, EncoderError, WeightsError)
_TERMINATED = 128 + 15  # what shells and schedulers expect of a process that SIGTERM ended
_DATA = "voxelopt_train.learning.PairDataModule"
# Of libraries about each other; nothing that a user could act on.
_NOISE = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "Using a non-tuple sequence for multidimensional indexing",
    "The dirpath has changed from",  # a training is tested from another folder
    "Checkpoint directory .* exists and is not empty",  # a training goes on
    "Total length of `list` across ranks is zero",  # no pairs to validate on
)


class _SaveConfig(SaveConfigCallback):
    """Into the folder of the run, whichever logger is used."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        # What is of this run alone would mislead one that takes its network from here.
        config = self.config.clone()
        for key in ("ckpt_path", "output"):
            config.pop(key, None)
        settings = self.parser.dump(config, skip_unset=False)
        with atomic_output(folder / self.config_filename) as temporary:
            temporary.write_text(settings, encoding="utf-8")


class TrainingCLI(LightningCLI):
    """LightningCLI whose every run has one folder, ``--output``.

    ``fit`` leaves there ``config.yaml``, TensorBoard's event file and ``checkpoints/last.ckpt``,
    which ``--ckpt_path last`` goes on from; ``test`` its tables, ``predict`` its warps.
    """

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        # What is read of a checkpoint is no choice, see `WholeCheckpoints`.
        commands = LightningCLI.subcommands().items()
        return {command: {*skipped, "weights_only"} for command, skipped in commands}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "-o", "--output", type=str, default="runs/latest", help="the folder of this run"
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # Never sys.argv, which holds names of recipes.
        self.config: Namespace = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Not as Lightning: settings come from the configuration, a checkpoint names no classes."""

    def before_instantiate_classes(self) -> None:
        # A checkpoint has all weights: the file that the encoder started from may be gone by now.
        weights = "model.init_args.encoder.init_args.weights"
        settings = self.config[str(self.subcommand)]
        if settings.get("ckpt_path") and settings.get(weights):
            settings[weights] = None

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:
            # jsonargparse wraps what a constructor says into a listing of all its arguments.
            root: BaseException = error
            while isinstance(root.__cause__, ValueError) and not isinstance(root, _SENTENCES):
                root = root.__cause__
            raise InputError(str(root)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        folder = Path(str(self._get(self.config_init, "output")))
        check_writable(folder)
        self._check_run(folder)
        kwargs["default_root_dir"] = str(folder)
        fitting = self.subcommand == "fit"
        if self._get(self.config_init, "trainer")["log_every_n_steps"] is None:
            kwargs["log_every_n_steps"] = 10  # epochs of few pairs are common
        if not fitting:
            self.save_config_callback: Any = None  # the one of the training stays
        if self._get(self.config_init, "trainer")["logger"] is None:
            kwargs["logger"] = fitting and TensorBoardLogger(folder, name="", version="")
        # Only the last: every epoch replaces it, and a killed run goes on from it.
        last = ModelCheckpoint(
            folder / "checkpoints",
            "last",
            enable_version_counter=False,
            save_on_train_epoch_end=True,  # also where not every epoch is validated
        )
        callbacks = [last, EpochLines(), *self._of_prediction(folder)]
        self.trainer_defaults: dict[str, Any] = {"callbacks": callbacks}
        trainer = super().instantiate_trainer(**kwargs)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one that was asked for
            trainer.strategy.checkpoint_io = WholeCheckpoints()
        return trainer

    def _of_prediction(self, folder: Path) -> list[Callback]:
        """What notes of a prediction what it is made from; InputError where that was another."""
        if self.subcommand != "predict":
            return []
        config: Namespace = self.config[str(self.subcommand)]
        settings = self._parser(self.subcommand).dump(config, skip_unset=False)
        checkpoint = self._get(self.config_init, "ckpt_path")
        if checkpoint == "last":
            checkpoint = str(folder / "checkpoints" / "last.ckpt")
        return [PredictedFrom(folder, settings, checkpoint)]

    def _check_run(self, folder: Path) -> None:
        """Raise InputError before anything of an earlier training is replaced or confused."""
        last = folder / "checkpoints" / "last.ckpt"
        checkpoint = self._get(self.config_init, "ckpt_path")
        if checkpoint == "last" and not last.is_file():
            raise InputError(f"--ckpt_path last: there is no {last}; the folder is that of -o")
        if checkpoint is not None:
            # Lightning would read it only once it has written to the folder.
            WholeCheckpoints().load_checkpoint(last if checkpoint == "last" else checkpoint)
        trained = any(p.requires_grad for p in self.model.parameters())
        if self.subcommand in ("test", "predict") and isinstance(self.model, SegmentationModule):
            raise InputError(
                "a segmentation network registers nothing: its features do, --config "
                "segmentation_features --model.init_args.encoder.init_args.weights "
                "RUN/checkpoints/last.ckpt"
            )
        if self.subcommand != "fit":
            if trained and checkpoint is None:
                raise InputError(
                    "this network is to be trained: give what it has learned, --ckpt_path "
                    "RUN/checkpoints/last.ckpt, or set trainable and learnable to false"
                )
            return
        if checkpoint is None and last.is_file():
            raise InputError(
                f"{folder} holds a training already: go on with it (--ckpt_path last), or choose "
                "another -o"
            )
        if not trained:
            raise InputError(NOTHING_TO_TRAIN)

    def after_fit(self) -> None:
        if (Path(self.trainer.default_root_dir) / "checkpoints" / "last.ckpt").is_file():
            self._wrote("checkpoints/last.ckpt")

    def after_predict(self) -> None:
        self._wrote("warps")

    def after_test(self) -> None:
        self._wrote("test.csv, .json and .md")

    def _wrote(self, files: str) -> None:
        if self.trainer.is_global_zero:
            print(f"wrote {self.trainer.default_root_dir}/{files}")


def run_training(arguments: Sequence[str]) -> TrainingCLI:
    """Run one of Lightning's commands; ``--config`` takes the names of our recipes too.

    Raises:
        ArgumentError: an option is unknown or has a wrong value.
        InputError: something that the options name cannot be used.
        KeyboardInterrupt: the user's, with what can be done.
    """
    kept = _GO_ON if arguments[0] == "fit" else _STAYS
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(_of_use)
    try:
        with told_once():
            return _training_cli(arguments)
    except MisconfigurationException as error:  # as a GPU asked for where there is none
        raise InputError(" ".join(str(error).split())) from error
    except RuntimeError as error:
        if "Error(s) in loading state_dict" not in str(error):
            raise
        raise InputError(
            "--ckpt_path: this checkpoint is of another network than the configuration's"
        ) from error
    except SIGTERMException:  # as at the time limit of a cluster's job
        print(f"voxelopt: terminated, {kept}", file=sys.stderr)
        sys.exit(_TERMINATED)
    except SystemExit as exit:  # how Lightning ends after an interrupt
        if exit.code in (None, 0):
            raise
        raise KeyboardInterrupt(kept) from exit


def _with_data(arguments: Sequence[str]) -> list[str]:
    """The arguments, with ``--data`` of a name, a YAML file or a folder in Lightning's terms."""
    found = list(arguments)
    for i, (option, data) in enumerate(pairwise(arguments)):
        if option != "--data":
            continue
        if data in config_names("training") or _is_config(data):
            found[i] = "--config"
        elif _is_folder(data):
            read_manifest(data)  # which says what is missing
            found[i : i + 2] = [f"--data={_DATA}", f"--data.init_args.data={data}"]
    return found


def _is_config(value: str) -> bool:
    """Whether it is a file of settings for several things, data among them."""
    path = Path(value)
    is_file = path.suffix in (".yaml", ".yml") and path.is_file()
    return is_file and "data" in read_settings(path, f"--data {value}")


def _is_folder(value: str) -> bool:
    """Whether a folder is meant, one that is not there too, and not a class or a file."""
    path = Path(value)
    if path.exists():
        return path.is_dir()
    is_class = value.rpartition(".")[2][:1].isupper()
    return not (is_class or value.startswith("{") or path.suffix in (".yaml", ".yml"))


def _of_use(record: logging.LogRecord) -> bool:
    return not any(text in record.getMessage() for text in ("Tip:", "TPU available"))


def _training_cli(arguments: Sequence[str]) -> TrainingCLI:
    return TrainingCLI(
        datamodule_class=LightningDataModule,
        args=find_configs(_with_data(arguments), "training"),
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        save_config_callback=_SaveConfig,
        save_config_kwargs={"save_to_log_dir": False},
        parser_kwargs={
            "exit_on_error": False,
            **{name: {"exit_on_error": False} for name in TrainingCLI.subcommands()},
        },
    )
