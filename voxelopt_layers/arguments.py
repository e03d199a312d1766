"""What can be wrong with the tensors of the layer and its operators, said in one sentence.

Shapes, types and devices alone: values would have to be looked at, and a graph cannot do that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor


def check_tensor(value: object, name: str, floating: bool = False) -> None:
    """Raise TypeError unless this is a tensor of real numbers, or only of floating point.

    Users without a type checker pass arrays too.
    """
    tensor = value if isinstance(value, Tensor) else None
    if tensor is None or not (tensor.is_floating_point() if floating else not tensor.is_complex()):
        numbers = "floating point" if floating else "real numbers"
        kind = type(value).__name__ if tensor is None else tensor.dtype
        raise TypeError(f"{name} must be a tensor of {numbers}, got {kind}")


def check_choice(value: object, name: str, allowed: Sequence[str]) -> None:
    """Raise ValueError unless a keyword is one of these."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {tuple(allowed)}, got {value!r}")


def check_count(value: object, name: str, least: int) -> None:
    """Raise ValueError unless a keyword is a whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_shape(shape: object, d: int) -> None:
    """Raise ValueError unless this is the shape of a grid with as many axes as a displacement."""
    axes = cast(Sequence[int], shape) if isinstance(shape, Sequence) else ()
    if len(axes) != d or min(axes) < 1:
        raise ValueError(
            f"shape must have {d} axes, as the displacement has, of at least 1 voxel, got {shape!r}"
        )


def check_displacement(displacement: Tensor, name: str = "displacement") -> int:
    """Return the number of spatial axes d of a ``(B, d, *spatial)`` field, or raise."""
    check_tensor(displacement, name)
    d = displacement.dim() - 2
    if d not in (2, 3) or displacement.shape[1] != d:
        raise ValueError(
            f"{name} must have shape (B, 2, H, W) or (B, 3, D, H, W), "
            f"got {tuple(displacement.shape)}"
        )
    return d


def check_same_grid(image: Tensor, name: str, displacement: Tensor, displacement_name: str) -> None:
    """Raise unless ``image`` ``(B, C, *spatial)`` lies on the grid of a displacement."""
    check_tensor(image, name)
    check_displacement(displacement, displacement_name)
    if image.shape[2:] != displacement.shape[2:]:
        raise ValueError(
            f"{name} (B, C, *spatial) and {displacement_name} (B, d, *spatial) must have the same "
            f"spatial shape, got {tuple(image.shape)} and {tuple(displacement.shape)}"
        )
    check_samples(image, name, displacement, displacement_name)


def check_samples(image: Tensor, name: str, field: Tensor, field_name: str) -> None:
    """Raise ValueError unless a field has as many samples as an image, or one for all of them."""
    if field.shape[0] != image.shape[0] and field.shape[0] != 1:
        raise ValueError(
            f"{field_name} must have as many samples as {name}, or one, "
            f"got {field.shape[0]} and {image.shape[0]}"
        )


def check_features(fixed: Tensor, moving: Tensor) -> None:
    """Raise unless two feature maps can be compared voxel by voxel."""
    for features, name in ((fixed, "fixed features"), (moving, "moving features")):
        check_tensor(features, name, floating=True)
    if fixed.shape != moving.shape or fixed.dim() not in (4, 5) or 0 in fixed.shape:
        raise ValueError(
            "fixed and moving features must both be (B, C, H, W) or (B, C, D, H, W) of one shape, "
            f"with no axis of length 0, got {tuple(fixed.shape)} and {tuple(moving.shape)}"
        )
    _check_device(moving, "moving features", fixed)


def check_on_grid(
    batch: int,
    spatial: Sequence[int],
    fixed_mask: Tensor | None,
    moving_mask: Tensor | None,
    initial_displacement: Tensor | None = None,
) -> None:
    """Raise unless what there may be beside ``batch`` samples of a grid lies on it."""
    for mask, name in ((fixed_mask, "fixed_mask"), (moving_mask, "moving_mask")):
        if mask is not None:
            check_tensor(mask, name)
            _check_shape(mask, name, (batch, 1, *spatial))
    if initial_displacement is not None:
        check_displacement(initial_displacement, "initial_displacement")
        _check_shape(initial_displacement, "initial_displacement", (batch, len(spatial), *spatial))


def check_inputs(
    fixed: Tensor,
    moving: Tensor,
    fixed_mask: Tensor | None,
    moving_mask: Tensor | None,
    initial_displacement: Tensor | None = None,
) -> None:
    """Raise unless the arguments of `VoxelOptLayer.solve` are tensors that fit together."""
    check_features(fixed, moving)
    check_on_grid(fixed.shape[0], fixed.shape[2:], fixed_mask, moving_mask, initial_displacement)
    for tensor, name in (
        (fixed_mask, "fixed_mask"),
        (moving_mask, "moving_mask"),
        (initial_displacement, "initial_displacement"),
    ):
        if tensor is not None:
            _check_device(tensor, name, fixed)


def _check_shape(tensor: Tensor, name: str, expected: tuple[int, ...]) -> None:
    if tensor.shape != expected:
        raise ValueError(f"{name} must be {expected}, got {tuple(tensor.shape)}")


def _check_device(tensor: Tensor, name: str, fixed: Tensor) -> None:
    if tensor.device != fixed.device:
        raise ValueError(
            f"{name} must be on {fixed.device}, as the fixed features are, got {tensor.device}"
        )
