"""Settings by name: the paper's, those of its authors' code, and our best for plain intensities."""

from __future__ import annotations

from typing import Any

_RELEASED_COUPLINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)

# What differs from the defaults of `VoxelOptLayer`; see its docstring for the keywords.
PRESETS: dict[str, dict[str, Any]] = {
    # For images without features, in [0, 1]. Self-similarity finds what belongs together whatever
    # the contrast, and the correlation of patches, at the finest level, its exact place. At a fifth
    # level patches would be as large as the body.
    "intensity": {
        "levels": 4,
        "dissimilarity": {"lncc": 0.7, "l1": 1.0},
        "coarse_dissimilarity": {"mind": 1.5, "l1": 1.0},
        "theta": (150.0, 50.0, 15.0, 5.0, 1.5),
        "beta": 0.06,
        "alpha": 5.0,
        "sigma_smoothing": 1.0,
        "filter_radius": 6,
        "assignment": "hard",
        "refinements": 10,
    },
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
