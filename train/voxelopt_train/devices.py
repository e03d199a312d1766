"""The device that the layer runs on."""

from __future__ import annotations

import torch

from voxelopt_train.errors import InputError


def torch_device(name: str | torch.device) -> torch.device:
    """The device of this name, or InputError where this machine has none."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"device {name}: no such device here, cpu always works") from error
    return device
