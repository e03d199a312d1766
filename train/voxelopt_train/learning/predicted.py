"""What a folder of warps was made from: `voxelopt predict` leaves those it would make again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from lightning import Callback, LightningModule, Trainer

from voxelopt_train.errors import InputError
from voxelopt_train.files import atomic_output, read_record, stamp
from voxelopt_train.provenance import as_json

_RECORD = "warps.json"
_HOW_IT_IS_READ = ("batch_size", "num_workers", "cache_rate")  # changes no field


class PredictedFrom(Callback):
    """Notes what the warps of a folder are made from as the first of them is to be made.

    Args:
        folder: of the run; its fields lie in ``warps``.
        settings: all of them, in YAML.
        checkpoint: file of what the network has learned, or None.

    Raises:
        InputError: there are warps that are made from something else.
    """

    def __init__(self, folder: Path, settings: str, checkpoint: str | None) -> None:
        self._record, self._made = folder / _RECORD, _made_from(settings, checkpoint)
        self._noted = read_record(self._record) == self._made
        if not self._noted and next((folder / "warps").glob("*"), None) is not None:
            raise InputError(
                f"{folder}/warps holds fields that were made with other settings, data or weights: "
                "choose another -o, or remove them"
            )

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """By now the data are known to be good. All processes write the same."""
        if self._noted:
            return
        self._record.parent.mkdir(parents=True, exist_ok=True)
        with atomic_output(self._record) as temporary:
            temporary.write_text(json.dumps(self._made, indent=2) + "\n")
        self._noted = True


def _made_from(settings: str, checkpoint: str | None) -> dict[str, Any]:
    chosen = yaml.safe_load(settings)
    data = (chosen.get("data") or {}).get("init_args") or {}
    for name in _HOW_IT_IS_READ:
        data.pop(name, None)
    model = chosen.get("model") or {}
    encoder = (model.get("init_args") or {}).get("encoder") or {}
    files = {"checkpoint": checkpoint, "weights": (encoder.get("init_args") or {}).get("weights")}
    stamps = {role: stamp(Path(file)) for role, file in files.items() if file}
    made = {"model": model, "data": chosen.get("data"), "seed": chosen.get("seed_everything")}
    return as_json({**made, **stamps})
