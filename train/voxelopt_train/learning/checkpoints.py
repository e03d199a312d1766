"""Checkpoints that are whole at any time, wherever they are kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from voxelopt_train.files import atomic_output


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's, written beside the earlier checkpoint that they replace.

    Its own come from the system's temporary folder. Where that is another file system they are
    copied over the earlier one, and a process that is killed meanwhile leaves neither.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        if "://" in str(path):  # of a server
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        whole = io.BytesIO()  # torch.save says nothing of use where a disk is full
        torch.save(checkpoint, whole)
        with atomic_output(Path(path)) as temporary:
            temporary.write_bytes(whole.getbuffer())
