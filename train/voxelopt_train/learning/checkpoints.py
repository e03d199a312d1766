"""Checkpoints that are whole at any time, wherever they are kept, and run no code when read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from voxelopt_models import WeightsError
from voxelopt_models.weights import read_checkpoint
from voxelopt_train.errors import InputError
from voxelopt_train.files import atomic_output

_NEEDED = {"state_dict", "pytorch-lightning_version"}


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's, written beside the earlier checkpoint that they replace, and read as data.

    Lightning's own come from the system's temporary folder. Where that is another file system they
    are copied over the earlier one, and a process that is killed meanwhile leaves neither. And what
    Lightning reads, it may fetch from an address, and execute.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        file = _file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = io.BytesIO()  # torch.save says nothing of use where a disk is full
        torch.save(checkpoint, whole)
        with atomic_output(file) as temporary:
            temporary.write_bytes(whole.getbuffer())

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        # Whatever Lightning asks for: `weights_only` is not its default everywhere.
        checkpoint = read_checkpoint(_file(path))
        if not isinstance(checkpoint, dict) or not checkpoint.keys() >= _NEEDED:
            raise WeightsError(f"{path} is no checkpoint of a training, such as last.ckpt")
        return checkpoint


def _file(path: str | Path) -> Path:
    if "://" in str(path):
        raise InputError(f"a checkpoint is a file on this machine, not an address: {path}")
    return Path(path)
