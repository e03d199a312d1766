"""The volumes of one registration as the page embeds them: small, on one grid, in bytes.

All lie on the axes of the fixed image, in the order that is closest to RAS, cut to the body, with
at most so many voxels along each axis. They are stored with the first axis fastest, as in NIfTI.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from nibabel.affines import apply_affine
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from torch import Tensor

from voxelopt_layers import jacobian_determinant
from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid
from voxelopt_train.html_report.results import Results
from voxelopt_train.images import Image, smallest_integer
from voxelopt_train.picture import body_box
from voxelopt_train.resampling import resample
from voxelopt_train.transforms import (
    AffineTransform,
    DisplacementField,
    mm_to_voxels,
    read_transform,
)

_FIELD_VOXELS = 64  # along an axis; a field is smooth, and the page draws it in steps of 9 mm
_FIELD_STEP = 0.02  # voxels of the page that one unit of the stored displacement stands for
_LOG_JACOBIAN = float(np.log(4.0))  # the map's range: a quarter to four times the volume
# Bytes of the maps: 0 is nothing, then a linear range; what folds has a byte of its own, at a
# distance, as a graphics card mixes the colours of neighbouring bytes.
FIRST, LAST, FOLD = 1, 249, 255


@dataclass
class Volumes:
    """What the page shows of one registration.

    Attributes:
        grid: of all volumes but the displacement.
        layers: for JSON, by name: what the bytes of a volume mean.
        data: gzipped and in base64, by name.
    """

    grid: Grid
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, array: np.ndarray, **meaning: Any) -> None:
        little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
        packed = gzip.compress(little_endian.tobytes(order="F"), 6, mtime=0)
        self.data[name] = base64.b64encode(packed).decode()
        self.layers[name] = {"type": array.dtype.name, **meaning}

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the data."""
        return {
            "shape": list(self.grid.shape),
            "spacing": list(self.grid.spacing),
            "affine": self.grid.affine.tolist(),
            "layers": self.layers,
        }


def embedded_volumes(
    results: Results, given: Mapping[str, str | None], most_voxels: int
) -> Volumes | None:
    """Read a registration and bring all of it to the page's grid; None if nothing can be seen.

    Args:
        results: the registration.
        given: files that take the place of the inputs that the report names.
        most_voxels: along each axis.

    Raises:
        InputError: a file cannot be read, or does not belong to this registration.
    """
    warped = results.image("Warped")
    if warped is None:
        results.notes.append(f"{results.name}: there is no Warped.nii.gz, so no images are shown")
        return None
    inputs = results.inputs(given, warped)
    volumes = Volumes(display_grid(inputs.get("fixed", warped), most_voxels))
    initial = _initial(results)
    _add_images(volumes, results.report, warped, inputs, initial)
    _add_labels(volumes, results, inputs, initial)
    _add_field(volumes, results, warped)
    if entropy := results.image("Entropy"):
        _check_grid(entropy, warped)
        values = resample(entropy, volumes.grid, antialias=True).data.numpy()
        low, high = np.percentile(values, (0.5, 99.5)).tolist()
        volumes.add("entropy", _to_bytes(values, low, high), low=low, high=high)
    return volumes


def display_grid(image: Image, most_voxels: int) -> Grid:
    """Grid around the body in an image, along its axes in the order closest to RAS."""
    orientation = io_orientation(image.grid.affine)
    affine = image.grid.affine @ inv_ornt_aff(orientation, image.grid.shape)
    box = body_box(apply_orientation(image.data.numpy(), orientation))
    whole = np.asarray(image.grid.shape)[np.argsort(orientation[:, 0])]
    start, stop = (
        np.array([s.start for s in box]), np.minimum([s.stop for s in box], whole),
    )  # fmt: skip
    voxels = np.minimum(stop - start, most_voxels)
    steps = affine[:3, :3] * (stop - start) / voxels
    return Grid.around(apply_affine(affine, (start + stop - 1) / 2), voxels.tolist(), steps)


def _add_images(
    volumes: Volumes,
    report: Mapping[str, Any],
    warped: Image,
    inputs: Mapping[str, Image],
    initial: list[AffineTransform],
) -> None:
    """Fixed, moving (initially aligned) and warped in 256 greys, as the report's picture."""
    settings = report.get("settings")
    shown = settings.get("shown") if isinstance(settings, dict) else None
    window = shown if isinstance(shown, list) and len(shown) == 2 else None
    moving = inputs.get("moving")
    for name, image, source, transforms in (
        ("fixed", inputs.get("fixed"), inputs.get("fixed"), []),
        ("moving", moving, moving, initial),
        ("warped", warped, moving or warped, []),
    ):
        if image is None or source is None:
            continue
        low, high = window or np.percentile(source.data.numpy(), (1, 99.5)).tolist()
        fill = float(source.data.min())
        values = resample(image, volumes.grid, transforms, fill=fill, antialias=True).data
        bytes_ = _to_bytes(values.numpy(), low, high, 0, 255)
        volumes.add(name, bytes_, low=low, high=high, aligned=bool(transforms))


def _add_labels(
    volumes: Volumes,
    results: Results,
    inputs: Mapping[str, Image],
    initial: list[AffineTransform],
) -> None:
    for name, image, transforms in (
        ("fixed_labels", inputs.get("fixed_labels"), []),
        ("moving_labels", inputs.get("moving_labels"), initial),
        ("warped_labels", results.image("WarpedLabels", labels=True), []),
    ):
        if image is None:
            continue
        values = resample(image, volumes.grid, transforms, mode="nearest").data.numpy()
        volumes.add(name, values.astype(smallest_integer(values)))


def _add_field(volumes: Volumes, results: Results, warped: Image) -> None:
    """Log J in bytes, and the displacement in voxels of the page's grid."""
    path = results.path("1Warp.nii.gz")
    if path is None:
        return
    transform = read_transform(path)
    assert isinstance(transform, DisplacementField)
    if not transform.grid.matches(warped.grid):
        raise InputError(f"{path} does not lie on the grid of {warped.name}")
    jacobian = jacobian_determinant(mm_to_voxels(transform.displacement_mm, transform.grid))[0]
    mean = resample(Image(jacobian, transform.grid, str(path)), volumes.grid, fill=1.0).data
    log = mean.clamp(min=np.exp(-2 * _LOG_JACOBIAN)).log().numpy()
    coded = _to_bytes(log, -_LOG_JACOBIAN, _LOG_JACOBIAN)
    coded[_voxels_holding(jacobian <= 0, transform.grid, volumes.grid)] = FOLD
    volumes.add("jacobian", coded, low=-_LOG_JACOBIAN, high=_LOG_JACOBIAN)
    grid = _coarser(volumes.grid)
    components = [
        resample(Image(component, transform.grid, str(path)), grid, fill=None).data
        for component in transform.displacement_mm[0]
    ]
    voxels = mm_to_voxels(torch.stack(components)[None], volumes.grid)[0]
    units = (voxels / _FIELD_STEP).round().clamp(-32767, 32767).to(torch.int16)
    # Component last in memory, each a volume of its own.
    stored = units.permute(1, 2, 3, 0).numpy()
    volumes.add("displacement", stored, shape=list(grid.shape), step=_FIELD_STEP)


def _coarser(grid: Grid) -> Grid:
    """Grid of few voxels over the same extent."""
    voxels = [min(n, _FIELD_VOXELS) for n in grid.shape]
    steps = grid.affine[:3, :3] * (np.asarray(grid.shape) / voxels)
    return Grid.around(grid.center, voxels, steps)


def _voxels_holding(mask: Tensor, source: Grid, target: Grid) -> tuple[np.ndarray, ...]:
    """Indices of the voxels of ``target`` with any voxel of ``mask`` inside them."""
    to_target = np.linalg.inv(target.affine) @ source.affine
    indices = np.rint(apply_affine(to_target, mask.nonzero().numpy())).astype(int).reshape(-1, 3)
    inside = ((indices >= 0) & (indices < target.shape)).all(axis=1)
    return tuple(indices[inside].T)


def _to_bytes(
    values: np.ndarray, low: float, high: float, first: int = FIRST, last: int = LAST
) -> np.ndarray:
    share = ((values - low) / max(high - low, 1e-6)).clip(0, 1)
    return np.rint(first + share * (last - first)).astype(np.uint8)


def _initial(results: Results) -> list[AffineTransform]:
    path = results.path("0GenericAffine.mat")
    transform = None if path is None else read_transform(path)
    return [transform] if isinstance(transform, AffineTransform) else []


def _check_grid(image: Image, warped: Image) -> None:
    if not image.grid.matches(warped.grid):
        raise InputError(f"{image.name} does not lie on the grid of {warped.name}")
