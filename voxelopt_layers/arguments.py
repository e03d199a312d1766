"""What can be wrong with the tensors that a layer is given, said in one sentence."""

from __future__ import annotations

from torch import Tensor

from voxelopt_layers.displacement import check_displacement


def check_inputs(
    fixed: Tensor,
    moving: Tensor,
    fixed_mask: Tensor | None,
    moving_mask: Tensor | None,
    initial_displacement: Tensor | None,
) -> None:
    """Raise unless the arguments of `VoxelOptLayer.solve` are tensors that fit together."""
    for name, features in (("fixed", fixed), ("moving", moving)):
        # Users without a type checker pass arrays too.
        is_tensor = isinstance(features, Tensor)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not is_tensor or not features.is_floating_point():
            kind = getattr(features, "dtype", type(features).__name__)
            raise TypeError(f"{name} features must be a tensor of floating point, got {kind}")
    if fixed.shape != moving.shape or fixed.dim() not in (4, 5) or 0 in fixed.shape:
        raise ValueError(
            "fixed and moving features must both be (B, C, H, W) or (B, C, D, H, W) of one shape, "
            f"got {tuple(fixed.shape)} and {tuple(moving.shape)}"
        )
    batch, spatial = fixed.shape[0], fixed.shape[2:]
    for name, mask in (("fixed_mask", fixed_mask), ("moving_mask", moving_mask)):
        if mask is not None and mask.shape != (batch, 1, *spatial):
            raise ValueError(
                f"{name} must be {(batch, 1, *spatial)}, as the features are, "
                f"got {tuple(mask.shape)}"
            )
    if initial_displacement is not None:
        check_displacement(initial_displacement, "initial_displacement")
        if initial_displacement.shape[2:] != spatial or initial_displacement.shape[0] != batch:
            raise ValueError(
                f"initial_displacement must be {(batch, len(spatial), *spatial)}, got "
                f"{tuple(initial_displacement.shape)}"
            )
