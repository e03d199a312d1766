"""`torch.autograd.Function` with the types that PyTorch leaves open."""

from __future__ import annotations

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
