"""PyTorch's automatic machinery: functions of our own, and an end to autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor


class _Function(torch.autograd.Function):
    """At run time nothing but its base."""

    if TYPE_CHECKING:
        # Their arguments are each function's own.
        forward: Any
        backward: Any


class TensorFunction(_Function):
    """A function of one tensor as its result."""

    if TYPE_CHECKING:

        @classmethod
        def apply(cls, *args: Any) -> Tensor: ...


class TensorsFunction(_Function):
    """A function of several tensors as its results."""

    if TYPE_CHECKING:

        @classmethod
        def apply(cls, *args: Any) -> tuple[Tensor, ...]: ...


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """No autocast within; nothing to do where there is none, as on the device ``meta``."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
