"""Registration as a transform of TorchIO, which is imported here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torchio
from torch import nn
from torchio.transforms.transform import Transform

from voxelopt_layers import VoxelOptLayer
from voxelopt_train.carried import Channels, carry_channels, register_channels
from voxelopt_train.errors import InputError


class VoxelOptRegistration(Transform):
    """Register one image of a subject to another, and carry others along (`pip install torchio`).

    Images are in TorchIO's memory ``(C, x, y, z)`` with their affines in RAS mm; shapes, spacings
    and orientations may differ. What is matched is the first channel of each; all are warped.

    The moving image, and those named in ``along``, come to the fixed image's grid, each resampled
    once: linearly, a ``LabelMap`` by its nearest voxel. Beyond the image a value is the least of
    its channel, a label 0. All other images of the subject stay as they are.

    Args:
        fixed: name of the image that stays.
        moving: name of the image that is registered to it.
        along: names of further images of the moving image's world, as its labels.
        encoder: see `voxelopt_train.register`, as the arguments below.
        layer: the layer.
        spacing_mm: work on an isotropic grid of this voxel size; None: on the fixed grid.
        initial: ``"none"``, ``"center-of-mass"``, ``"affine"`` or a file.
        window: intensities beyond these two values are not matched.
        device: where the layer runs.
        kwargs: those of ``torchio.Transform``; ``p`` and ``keep``, for instance.

    Raises:
        InputError: when called: an image is not there, or cannot be used.
    """

    def __init__(
        self,
        fixed: str = "fixed",
        moving: str = "moving",
        along: Sequence[str] = (),
        *,
        encoder: nn.Module | str = "raw",
        layer: VoxelOptLayer | None = None,
        spacing_mm: float | None = None,
        initial: str = "none",
        window: tuple[float, float] | None = None,
        device: str | torch.device = "cpu",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.fixed = fixed
        self.moving = moving
        self.along: tuple[str, ...] = tuple(along)
        self.encoder = encoder
        self.layer = layer
        self.spacing_mm = spacing_mm
        self.initial = initial
        self.window = window
        self.device = device
        settings = ["encoder", "layer", "spacing_mm", "initial", "window", "device"]
        # By which TorchIO tells a subject's history, and makes the transform again.
        self.args_names: list[str] = ["fixed", "moving", "along", *settings]
        self._settings = settings

    def apply_transform(self, subject: torchio.Subject) -> torchio.Subject:
        """The subject with the moving image, and what goes along, on the fixed image's grid."""
        images = subject.get_images_dict(intensity_only=False)
        for name in (self.fixed, self.moving, *self.along):
            if name not in images:
                raise InputError(f"the subject has no image {name}, it has {', '.join(images)}")
        fixed, moving = images[self.fixed], images[self.moving]
        options = {name: getattr(self, name) for name in self._settings}
        result = register_channels(_channels(fixed), _channels(moving), **options)
        for name in (self.moving, *self.along):
            image = images[name]
            mode = "nearest" if isinstance(image, torchio.LabelMap) else "linear"
            warped = carry_channels(_channels(image), name, result, mode)
            image.set_data(warped)
            image.affine = fixed.affine.copy()
        return subject


def _channels(image: torchio.Image) -> Channels:
    return image.data, image.affine
