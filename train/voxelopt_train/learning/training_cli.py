"""``voxelopt fit | validate | test | predict``: Lightning's own command line, with our folders."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from voxelopt_train.configs import find_configs
from voxelopt_train.errors import InputError
from voxelopt_train.outputs import check_writable

# Of libraries about each other; nothing that a user could act on.
_NOISE = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "Using a non-tuple sequence for multidimensional indexing",
    "The dirpath has changed from",  # a training is tested from another folder
    "Checkpoint directory .* exists and is not empty",  # a training goes on
)


class TrainingCLI(LightningCLI):
    """LightningCLI whose every run has one folder, ``--output``.

    ``fit`` leaves there ``config.yaml``, TensorBoard's event file and ``checkpoints/last.ckpt``,
    which ``--ckpt_path last`` goes on from; ``test`` its tables, ``predict`` its warps.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "-o", "--output", type=str, default="runs/latest", help="the folder of this run"
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)  # never sys.argv, which holds names of recipes

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:
            # jsonargparse wraps what a constructor says into a listing of all its arguments.
            root: BaseException = error
            while root.__cause__ is not None:
                root = root.__cause__
            raise InputError(str(root)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        folder = Path(str(self._get(self.config_init, "output")))
        check_writable(folder)
        kwargs["default_root_dir"] = str(folder)
        fitting = self.subcommand == "fit"
        if not fitting:
            self.save_config_callback = None  # the one of the training stays
        if self._get(self.config_init, "trainer")["logger"] is None:
            kwargs["logger"] = fitting and TensorBoardLogger(folder, name="", version="")
        # Only the last: every epoch replaces it, and a killed run goes on from it.
        last = ModelCheckpoint(folder / "checkpoints", "last", enable_version_counter=False)
        self.trainer_defaults = {"callbacks": [last]}
        return super().instantiate_trainer(**kwargs)


def run_training(arguments: Sequence[str]) -> TrainingCLI:
    """Run one of Lightning's commands; ``--config`` takes the names of our recipes too.

    Raises:
        ArgumentError: an option is unknown or has a wrong value.
        InputError: something that the options name cannot be used.
    """
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)
    return TrainingCLI(
        datamodule_class=LightningDataModule,
        args=find_configs(arguments, "training"),
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={
            "exit_on_error": False,
            **{name: {"exit_on_error": False} for name in LightningCLI.subcommands()},
        },
    )
