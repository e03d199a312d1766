"""How alike two images look: what can be said of a registration without labels or landmarks."""

from __future__ import annotations

import torch
from torch import Tensor

_MOST = 2**22  # voxels: more of them change the third digit at most
_TAILS = 0.001  # share of voxels at both ends of the intensities that share a bin


def normalised_mutual_information(fixed: Tensor, moving: Tensor, bins: int = 64) -> float:
    """``(H(fixed) + H(moving)) / H(fixed, moving)``, Studholme et al. (1999).

    1 where neither image says anything of the other, 2 where each says all; it takes images of
    different modalities, and compares stages of one pair, not pairs.

    Args:
        fixed: intensities, of any shape.
        moving: those at the same places, of the same shape.
        bins: of the histogram along each of the images.

    Returns:
        From 1 to 2; NaN where an image is constant.
    """
    step = -(-fixed.numel() // _MOST)
    a, b = (_binned(x.flatten()[::step].double(), bins) for x in (fixed, moving))
    joint = torch.bincount(a * bins + b, minlength=bins * bins).reshape(bins, bins)
    of_fixed, of_moving, both = (_entropy(n) for n in (joint.sum(1), joint.sum(0), joint))
    return (of_fixed + of_moving) / both if of_fixed > 0 and of_moving > 0 else float("nan")


def _binned(values: Tensor, bins: int) -> Tensor:
    order = values.sort().values
    tail = int(_TAILS * (len(order) - 1))
    low, high = order[tail], order[-1 - tail]
    if low == high:  # almost all of the image is background
        low, high = order[0], order[-1]
    share = (values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)
    return (share * bins).clamp(0, bins - 1).long()


def _entropy(counts: Tensor) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * p.log()).sum())
