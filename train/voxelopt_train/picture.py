"""One PNG that shows a registration: images, differences, deformation grid and entropy.

Three planes in radiological display: the patient's right and front are on the left of the picture,
front and head are up. Voxel arrays are first turned to the closest RAS axes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from nibabel.orientations import apply_orientation, io_orientation
from scipy.ndimage import gaussian_filter
from torch import Tensor

from voxelopt_layers.displacement import resize
from voxelopt_train.errors import InputError
from voxelopt_train.files import atomic_output
from voxelopt_train.images import Image
from voxelopt_train.picture_panels import (
    LENGTH_COLORS,
    PLANES,
    Draw,
    Plane,
    deformation_panel,
    difference_panel,
    heat_panel,
    image_panel,
)

_WIDTH_PX, _DPI, _LEFT_PX, _TOP_PX, _BOTTOM_PX, _GAP_PX = 1960, 100, 34, 40, 58, 5
_ENOUGH_VOXELS = 256  # along an axis: a panel has no more pixels
_BACKGROUND, _TEXT = "#0b0d10", "#d5dae0"
# Title, what is drawn, and the colour bar with its unit.
_Column = tuple[str, Draw, tuple[ScalarMappable, str] | None]
_ENDS = (("R", "L"), ("A", "P"), ("S", "I"))  # towards larger and smaller world coordinates


class _View:
    """Turns arrays of one grid to RAS and cuts them to the body.

    Of a large grid every second voxel is taken, or fewer: the whole would be several times what a
    registration holds, and not be seen.
    """

    def __init__(self, fixed: Image) -> None:
        steps = np.maximum(np.asarray(fixed.grid.shape) // _ENOUGH_VOXELS, 1)
        self._thin = tuple(slice(None, None, int(step)) for step in steps)
        self._orientation = io_orientation(fixed.grid.affine)
        self._axes = self._orientation[:, 0].astype(int).argsort()  # array axis of each RAS axis
        self._flips = self._orientation[self._axes, 1]
        self._voxel_mm = np.asarray(fixed.grid.spacing)
        self.spacing = (self._voxel_mm * steps)[self._axes]
        self._box = (slice(None),) * 3
        self._box = body_box(self.scalars(fixed.data))

    def scalars(self, volume: Tensor) -> np.ndarray:
        array = volume[self._thin].detach().cpu().numpy()
        return apply_orientation(array, self._orientation)[self._box]

    def percentiles(self, volume: Tensor) -> tuple[float, float]:
        """What is shown as black and white where nothing else is asked for."""
        low, high = np.percentile(volume[self._thin].numpy(), (1, 99.5))
        return low, high

    def vectors_mm(self, displacement: Tensor) -> np.ndarray:
        """Displacement ``(1, 3, *shape)`` in voxels as ``(3, *box)`` in mm along RAS axes."""
        return np.stack(
            [
                self.scalars(displacement[0, axis]) * flip * self._voxel_mm[axis]
                for axis, flip in zip(self._axes, self._flips, strict=True)
            ]
        )


def registration_picture(
    path: Path,
    fixed: Image,
    moving: Image,
    warped: Image,
    displacement: Tensor,
    entropy: Tensor | None = None,
    labels: tuple[Image, Image, Image] | None = None,
    window: tuple[float, float] | None = None,
    aligned: bool = False,
) -> None:
    """Write the picture of a registration; everything lies on the fixed grid.

    Args:
        path: the PNG; it appears only once it is complete.
        fixed: the fixed image.
        moving: the moving image, resampled on the fixed grid, not warped.
        warped: the moving image, warped.
        displacement: ``(1, 3, *shape)`` in voxels.
        entropy: ``(1, 1, *any)``, of any resolution over the same extent.
        labels: label maps of fixed, moving and warped, drawn as outlines.
        window: intensities shown as black and white, in all three images; by default the 1st and
            99.5th percentile of the fixed image for itself, of the moving image for the other two.
        aligned: whether ``moving`` has been through an initial alignment, for the headings.

    Raises:
        InputError: for images on another grid, or a file that cannot be written.
    """
    _check(fixed, (moving, warped, *(labels or ())), displacement)
    view = _View(fixed)
    gray = {}
    for key, image, source in (
        ("fixed", fixed, fixed), ("moving", moving, moving), ("warped", warped, moving),
    ):  # fmt: skip
        low, high = window or view.percentiles(source.data)
        gray[key] = ((view.scalars(image.data) - low) / max(high - low, 1e-6)).clip(0, 1)
    maps = [view.scalars(image.data) for image in labels] if labels else [None] * 3
    vectors = view.vectors_mm(displacement)
    length = np.linalg.norm(vectors, axis=0)
    color = ScalarMappable(Normalize(0, max(np.percentile(length, 99.8), 1.0)), LENGTH_COLORS)
    columns: list[_Column] = [
        ("fixed", image_panel(gray["fixed"], maps[0]), None),
        ("moving, aligned" if aligned else "moving", image_panel(gray["moving"], maps[1]), None),
        ("warped", image_panel(gray["warped"], maps[2]), None),
        ("difference before", difference_panel(gray["fixed"], gray["moving"]), None),
        ("difference after", difference_panel(gray["fixed"], gray["warped"]), None),
        ("deformation grid", deformation_panel(gray["fixed"], vectors, color), (color, "mm")),
    ]
    if entropy is not None:
        volume = view.scalars(resize(entropy.detach().float().cpu(), fixed.grid.shape)[0, 0])
        heat = ScalarMappable(Normalize(*np.percentile(volume, (0.5, 99.5))), "magma")
        columns.append(("entropy", heat_panel(volume, heat), (heat, "nat")))
    slices = _informative_slices(gray["fixed"], length, maps[0])
    figure = _lay_out(columns, slices, view.spacing, gray["fixed"].shape)
    with atomic_output(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=_BACKGROUND)


def _lay_out(
    columns: list[_Column], slices: list[int], spacing: np.ndarray, shape: tuple[int, ...]
) -> Figure:
    """All panels at one scale in mm, so that anisotropic voxels keep their proportions."""
    size = spacing * shape
    cell = (_WIDTH_PX - _LEFT_PX - _GAP_PX * len(columns)) / len(columns)
    scale = cell / max(size[0], size[1])
    heights = [scale * size[plane.vertical] for plane in PLANES]
    total = _TOP_PX + sum(heights) + _GAP_PX * len(heights) + _BOTTOM_PX
    figure = Figure((_WIDTH_PX / _DPI, total / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)

    def axes(left: float, top: float, width: float, height: float) -> Axes:
        box = (left / _WIDTH_PX, 1 - (top + height) / total, width / _WIDTH_PX, height / total)
        return figure.add_axes(box, facecolor="black")

    for n, (title, draw, bar) in enumerate(columns):
        left, top = _LEFT_PX + n * (cell + _GAP_PX), float(_TOP_PX)
        middle = (left + cell / 2) / _WIDTH_PX
        figure.text(middle, 1 - 24 / total, title, color=_TEXT, size=12, ha="center")
        for plane, index, height in zip(PLANES, slices, heights, strict=True):
            panel = axes(left, top, cell, height)
            panel.set_axis_off()
            draw(panel, plane, index, spacing)
            width_mm, height_mm = size[plane.horizontal], size[plane.vertical]
            margin = (cell / scale - width_mm) / 2
            panel.set(xlim=(-margin, width_mm + margin), ylim=(0, height_mm))
            if n == 0:
                _write_directions(panel, plane)
                center = 1 - (top + height / 2) / total
                figure.text(
                    0.006, center, plane.name, color=_TEXT, size=12, rotation=90, va="center"
                )
            top += height + _GAP_PX
        if bar:
            legend = axes(left + 0.1 * cell, top + 8, 0.8 * cell, 9)
            colorbar = figure.colorbar(bar[0], cax=legend, orientation="horizontal")
            colorbar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
            legend.tick_params(colors=_TEXT, labelsize=9, length=3)
            legend.set_xlabel(bar[1], color=_TEXT, size=9, labelpad=0)
    return figure


def _write_directions(panel: Axes, plane: Plane) -> None:
    (left, right), (up, down) = _ENDS[plane.horizontal], _ENDS[plane.vertical]
    for x, y, letter in ((0.03, 0.5, left), (0.97, 0.5, right), (0.5, 0.94, up), (0.5, 0.06, down)):
        panel.text(
            x, y, letter, color="#8fd0ff", size=9, ha="center", va="center",
            transform=panel.transAxes, path_effects=[withStroke(linewidth=2, foreground="black")],
        )  # fmt: skip


def body_box(volume: np.ndarray) -> tuple[slice, ...]:
    """Box around what is not background, so that no panel is spent on air."""
    low, high = np.percentile(volume, (1, 99.5))
    body = gaussian_filter(volume, 1.5) > low + 0.12 * (high - low)
    box = []
    for axis in range(3):
        share = body.mean(axis=tuple(other for other in range(3) if other != axis))
        used = np.flatnonzero(share > 0.01)
        first, last = (used[0], used[-1]) if len(used) else (0, len(share) - 1)
        box.append(slice(max(int(first) - 2, 0), int(last) + 3))
    return tuple(box)


def _informative_slices(
    fixed: np.ndarray, length_mm: np.ndarray, labels: np.ndarray | None
) -> list[int]:
    """Per plane, the slice with most of the labelled structures, else with most deformation."""
    slices = []
    for plane in PLANES:
        others = (plane.horizontal, plane.vertical)
        if labels is not None and labels.any():
            # The root keeps one large organ from outvoting several small ones.
            organs = [labels == label for label in np.unique(labels[labels > 0])]
            score = sum(np.sqrt(organ.sum(axis=others)) for organ in organs)
        else:
            score = ((fixed > 0.15) * (length_mm + 1)).sum(axis=others)
        best = np.flatnonzero(score >= 0.99 * np.max(score))
        slices.append(int(best[len(best) // 2]))
    return slices


def _check(fixed: Image, others: tuple[Image, ...], displacement: Tensor) -> None:
    for image in others:
        if not image.grid.matches(fixed.grid):
            raise InputError(
                f"{image.name} lies on another grid than {fixed.name}: the picture needs both on "
                "the fixed grid."
            )
    if tuple(displacement.shape) != (1, 3, *fixed.grid.shape):
        raise InputError(
            f"The displacement has shape {tuple(displacement.shape)}, expected "
            f"{(1, 3, *fixed.grid.shape)} for {fixed.name}."
        )
