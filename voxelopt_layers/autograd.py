"""PyTorch's automatic machinery: functions of one tensor, and an end to autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor


class TensorFunction(torch.autograd.Function):
    """A function of one tensor as its result; at run time nothing but its base."""

    if TYPE_CHECKING:
        # Their arguments are each function's own.
        forward: Any
        backward: Any

        @classmethod
        def apply(cls, *args: Any) -> Tensor: ...


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """No autocast within; nothing to do where there is none, as on the device ``meta``."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
