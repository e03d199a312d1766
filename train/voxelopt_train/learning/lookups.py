"""What the modules look up in a batch and in their trainer, with a sentence where it is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning import Trainer

from voxelopt_train.data.subjects import Pair, Split
from voxelopt_train.errors import InputError


def both_have(batch: Mapping[str, Any], kind: str) -> bool:
    """Whether fixed and moving have it, as labels: of a subject that has none, a batch of 1."""
    return f"fixed_{kind}" in batch and f"moving_{kind}" in batch


def data_labels(trainer: Trainer) -> tuple[int, ...]:
    """The labels of the data, ascending; empty where they have none."""
    return _data_module(trainer).labels


def pair_names(trainer: Trainer, split: Split) -> list[Pair]:
    """Names of the fixed and the moving subject of each pair, by its index."""
    return _data_module(trainer).pair_names(split)


def label_names(trainer: Trainer) -> dict[int, str]:
    """Names of labels; of a data module without any, none."""
    return dict(getattr(_data_module(trainer), "label_names", {}))


def training_steps(trainer: Trainer) -> int:
    """How many steps the optimiser takes in the whole training."""
    steps = trainer.estimated_stepping_batches
    if not math.isfinite(steps):
        raise InputError(
            "what changes from the first to the last step needs to know how many there are: give "
            "the trainer max_epochs or max_steps"
        )
    return int(steps)


def _data_module(trainer: Trainer) -> Any:
    # A property that Lightning makes at run time.
    data = getattr(trainer, "datamodule", None)
    if not (hasattr(data, "labels") and hasattr(data, "pair_names")):
        raise InputError(
            "the pairs come from a data module with labels and pair_names, such as PairDataModule: "
            "trainer.fit(module, datamodule=data)"
        )
    return data
