"""Pictures of a training: the first validation pair, for TensorBoard."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.image import imread
from torch import Tensor

from voxelopt_layers import Solution, warp
from voxelopt_train.grids import Grid
from voxelopt_train.images import Image
from voxelopt_train.learning.lookups import both_have
from voxelopt_train.picture import registration_picture


def log_picture(logger: Any, batch: dict[str, Any], solution: Solution, step: int) -> None:
    """Add the picture of a batch's first pair to TensorBoard; other loggers get none."""
    if not isinstance(logger, TensorBoardLogger) or batch["fixed"].dim() != 5:
        return
    u = solution.displacement[:1].float()
    nx, ny, nz = u.shape[2:]
    grid = Grid((nx, ny, nz), batch["fixed_affine"][0].double().cpu().numpy())

    def image(volume: Tensor, name: str) -> Image:
        data = volume[0, 0].cpu()
        return Image(data.float() if data.is_floating_point() else data.int(), grid, name)

    def images(kind: str, mode: Literal["linear", "nearest"]) -> tuple[Image, Image, Image]:
        fixed, moving = batch[f"fixed{kind}"], batch[f"moving{kind}"][:1]
        warped = warp(moving, u, mode)
        return image(fixed, "fixed"), image(moving, "moving"), image(warped, "warped")

    with TemporaryDirectory() as folder:
        path = Path(folder) / "pair.png"
        registration_picture(
            path,
            *images("", "linear"),
            u.cpu(),
            entropy=solution.entropy[-1][:1].float().cpu(),
            labels=images("_labels", "nearest") if both_have(batch, "labels") else None,
        )
        pixels = torch.from_numpy(imread(BytesIO(path.read_bytes())).copy())
    logger.experiment.add_image("validation/pair", pixels[..., :3], step, dataformats="HWC")
