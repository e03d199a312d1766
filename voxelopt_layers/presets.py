"""Settings by name: the paper's, and those of its authors' code."""

from __future__ import annotations

from typing import Any

_RELEASED_COUPLINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)

# What differs from the defaults of `VoxelOptLayer`; see its docstring for the keywords.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"alpha": 1.5, "assignment": "hard", "warps_per_level": 1},
    "released": {
        # An infinite theta first: v starts at the argmin of the filtered cost, uncoupled.
        "theta": (float("inf"), *(1 / (2 * coupling) for coupling in _RELEASED_COUPLINGS)),
        "sigma_range": (0.1, 0.5),
        "probability_floor": 1e-6,
        "filter_radius": 1,
        "filter_passes": 3,
        "assignment": "hard",
        "ties": "sum",
        "warps_per_level": 1,
        "boundary": "zeros",
        "align_corners": True,
        "upsampling_scale": 2.0,
    },
}
