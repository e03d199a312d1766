"""Random changes of training subjects, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandBiasFieldd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from monai.transforms.spatial.dictionary import RandAffined
from torch import Tensor

from voxelopt_train.data.deformation import RandDiffeomorphismd

Volumes = dict[str, Any]
Augmentation = Callable[[Any], Any]
AugmentationChoice = Literal["none", "mild", "strong"] | Augmentation
_KEYS = ("image", "labels")


def choose_augmentation(choice: AugmentationChoice, spacing_mm: float) -> Augmentation | None:
    """The transform of ``{"image", "labels"}`` that a name stands for, or a function as it is.

    ``"mild"`` changes pose, size and brightness a little; ``"strong"`` more, with contrast, noise,
    uneven brightness and smooth deformation, for networks that see few subjects. Both move and
    deform by the same millimetres whatever the voxels' edge ``spacing_mm``.

    Raises:
        ValueError: another name.
    """
    if callable(choice):
        return choice
    if choice not in ("none", "mild", "strong"):
        raise ValueError(f"augmentation must be none, mild, strong or a function, got {choice!r}")
    return {"none": None, "mild": _mild(spacing_mm), "strong": _strong(spacing_mm)}[choice]


def _affine(spacing_mm: float, rotate_rad: float, scale: float) -> RandAffined:
    return RandAffined(
        _KEYS,
        prob=1.0,
        rotate_range=(rotate_rad,) * 3,
        translate_range=(18.0 / spacing_mm,) * 3,
        scale_range=(scale,) * 3,
        mode=("bilinear", "nearest"),
        padding_mode="border",
        allow_missing_keys=True,
    )


def _mild(spacing_mm: float) -> Augmentation:
    return Compose(
        [
            _affine(spacing_mm, 0.1, 0.07),
            RandScaleIntensityd("image", factors=0.15, prob=0.7),
            RandShiftIntensityd("image", offsets=0.05, prob=0.7),
        ]
    )


def _strong(spacing_mm: float) -> Augmentation:
    """Key points follow the affine part alone, as MONAI does not track the other."""
    return Compose(
        [
            _affine(spacing_mm, 0.15, 0.15),
            RandDiffeomorphismd(_KEYS, spacing_mm, 0.7, (24.0, 36.0), (5.0, 12.0)),
            RandAdjustContrastd("image", prob=0.7, gamma=(0.6, 1.6)),
            # Brightness that drifts across the image by a fifth, as MR's coils leave it.
            RandBiasFieldd("image", prob=0.5, degree=3, coeff_range=(-0.2, 0.2)),
            RandGaussianNoised("image", prob=0.5, std=0.05),
            RandShiftIntensityd("image", offsets=0.05, prob=0.5),
        ]
    )


def augment(volumes: Volumes, augmentation: Augmentation, seed: int) -> Volumes:
    """A subject after a random transform; its affine and keypoints follow where MONAI tracks it."""
    set_random_state = getattr(augmentation, "set_random_state", None)
    if set_random_state is not None:
        set_random_state(seed)
    affine: Tensor = volumes["affine"]
    given = {
        key: MetaTensor(volumes[key].clone(), affine=affine)
        for key in ("image", "labels")
        if key in volumes
    }
    changed = augmentation(dict(given))
    result = dict(volumes)
    for key, before in given.items():
        after = changed[key]
        after = after.as_tensor() if isinstance(after, MetaTensor) else torch.as_tensor(after)
        result[key] = after.to(before.dtype)
    if isinstance(changed["image"], MetaTensor):
        result["affine"] = changed["image"].affine
    if "keypoints" in volumes:
        moved = torch.linalg.solve(result["affine"], affine)
        points = volumes["keypoints"].double() @ moved[:3, :3].T + moved[:3, 3]
        result["keypoints"] = points.float()
    return result
