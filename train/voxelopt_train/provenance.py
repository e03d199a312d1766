"""Where a registration came from, as `Report.json` tells it: its input files and its settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nibabel.spatialimages import SpatialImage

import voxelopt_layers
from voxelopt_train.images import ImageLike
from voxelopt_train.registration import ENCODERS

INPUTS = ("fixed", "moving", "fixed_labels", "moving_labels")  # the images that a page shows
_OTHERS = ("fixed_mask", "moving_mask", "fixed_points", "moving_points")  # told where given


def input_paths(inputs: Mapping[str, ImageLike | None], folder: Path) -> dict[str, str | None]:
    """The files of a registration as JSON keeps them; None for what has none.

    A file in ``folder`` or below it is told relative to ``folder``, so that the folder can be moved
    as a whole; any other by its absolute path, which holds wherever the folder is moved.

    Args:
        inputs: `INPUTS`, masks and points by name; arrays, and images never saved, have no file.
        folder: where the results lie.
    """
    root, paths = folder.resolve(), {}
    for name in (*INPUTS, *(other for other in _OTHERS if inputs.get(other) is not None)):
        source = inputs.get(name)
        file = source.get_filename() if isinstance(source, SpatialImage) else source
        if not isinstance(file, str | Path):
            paths[name] = None
            continue
        path = Path(file).resolve()
        inside = path.is_relative_to(root)
        paths[name] = path.relative_to(root).as_posix() if inside else str(path)
    return paths


def as_json(value: Any) -> Any:
    """A setting as JSON gives it back: tuples as lists, functions by their names."""
    return json.loads(json.dumps(value, default=repr))


def method_settings(
    *,
    features: str,
    preset: str | None,
    layer: Mapping[str, Any],
    spacing_mm: float | None,
    initial: str,
    window: tuple[float, float] | None,
    shown: tuple[float, float] | None,
    device: str,
) -> dict[str, Any]:
    """What a registration was asked for, for JSON.

    Args:
        features: what was matched, one of `voxelopt_train.registration.ENCODERS`.
        preset: of the layer; None: the one that goes with the features.
        layer: the single settings that differ from it.
        spacing_mm: of the working grid, or None.
        initial: initial alignment.
        window: intensities outside of which all was cut off, or None.
        shown: intensities that pictures show as black and white, or None.
        device: where the layer ran.

    Returns:
        The same, with a ``preset`` of None where the layer's defaults were taken.
    """
    return {
        "version": voxelopt_layers.__version__,
        "features": features,
        "preset": preset or ENCODERS[features],
        "layer": as_json(layer),
        "initial": initial,
        "spacing_mm": spacing_mm,
        "window": window,
        "shown": shown,
        "device": device,
    }
