"""Panels of the registration picture: what is drawn of one volume in one plane.

Volumes are arrays along RAS axes; ``spacing`` is in mm per RAS axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from scipy.ndimage import gaussian_filter

_GRID_MM = 9.0
DIFFERENCE = LinearSegmentedColormap.from_list(
    "difference", ["#a8e4ff", "#2a9df4", "#0b2a45", "#000000", "#4a2308", "#f4872a", "#ffe0a8"]
)
LENGTH_COLORS = LinearSegmentedColormap.from_list(
    "length", ["#46586b", "#3fb3e8", "#7be0a0", "#ffd54f", "#ff6b4a"]
)
# Neighbouring numbers get unlike hues; more labels than colours start again.
LABEL_COLORS = (
    "#ff5d5d", "#ffd34d", "#7be04a", "#35d6c4", "#ff8ad8", "#e8793a", "#8fb6ff", "#ff2e63",
    "#3f8cff", "#c77dff", "#f6f07a", "#4dff9a", "#9affff",
)  # fmt: skip


@dataclass(frozen=True)
class Plane:
    """A plane of RAS axes; its horizontal axis is drawn reversed (radiological display)."""

    name: str
    normal: int
    horizontal: int
    vertical: int

    def cut(self, volume: np.ndarray, index: int) -> np.ndarray:
        """Slice as rows from the bottom up, columns from the left."""
        return volume.take(index, axis=self.normal)[::-1].T


PLANES = (Plane("axial", 2, 0, 1), Plane("coronal", 1, 0, 2), Plane("sagittal", 0, 1, 2))
# Draws into the axes: the plane, the index of the slice, the spacing.
Draw = Callable[[Axes, Plane, int, np.ndarray], None]


def _show(
    panel: Axes, picture: np.ndarray, plane: Plane, spacing: np.ndarray, **style: Any
) -> None:
    rows, columns = picture.shape
    extent = (0, columns * spacing[plane.horizontal], 0, rows * spacing[plane.vertical])
    panel.imshow(picture, origin="lower", extent=extent, aspect="auto", **style)


def image_panel(volume: np.ndarray, labels: np.ndarray | None) -> Draw:
    def draw(panel: Axes, plane: Plane, index: int, spacing: np.ndarray) -> None:
        style = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "bicubic"}
        _show(panel, plane.cut(volume, index), plane, spacing, **style)
        if labels is None:
            return
        cut = plane.cut(labels, index)
        x, y = (
            (np.arange(n) + 0.5) * spacing[axis]
            for n, axis in ((cut.shape[1], plane.horizontal), (cut.shape[0], plane.vertical))
        )
        for label in np.unique(cut[cut > 0]).tolist():
            color = LABEL_COLORS[(label - 1) % len(LABEL_COLORS)]
            soft = gaussian_filter((cut == label).astype(np.float32), 0.6)
            if soft.max() > 0.5 and min(cut.shape) > 1:
                panel.contour(x, y, soft, [0.5], colors=[color], linewidths=1.1)

    return draw


def difference_panel(fixed: np.ndarray, other: np.ndarray) -> Draw:
    def draw(panel: Axes, plane: Plane, index: int, spacing: np.ndarray) -> None:
        style = {"cmap": DIFFERENCE, "vmin": -0.8, "vmax": 0.8, "interpolation": "bilinear"}
        _show(panel, plane.cut(fixed - other, index), plane, spacing, **style)

    return draw


def heat_panel(volume: np.ndarray, color: ScalarMappable) -> Draw:
    def draw(panel: Axes, plane: Plane, index: int, spacing: np.ndarray) -> None:
        style = {"cmap": color.get_cmap(), "norm": color.norm, "interpolation": "bilinear"}
        _show(panel, plane.cut(volume, index), plane, spacing, **style)

    return draw


def deformation_panel(fixed: np.ndarray, vectors_mm: np.ndarray, color: ScalarMappable) -> Draw:
    """Lines through the voxels x of a regular grid, drawn at x + u(x), coloured by ``|u|``."""
    length = np.linalg.norm(vectors_mm, axis=0)

    def draw(panel: Axes, plane: Plane, index: int, spacing: np.ndarray) -> None:
        style = {"cmap": "gray", "vmin": 0, "vmax": 1.9, "interpolation": "bicubic"}
        _show(panel, plane.cut(fixed, index), plane, spacing, **style)
        across, up = spacing[plane.horizontal], spacing[plane.vertical]
        u, v = (plane.cut(vectors_mm[n], index) for n in (plane.horizontal, plane.vertical))
        rows, columns = u.shape
        # The horizontal axis is drawn reversed, so what goes to the right of the world goes left.
        x = (np.arange(columns) + 0.5) * across - u
        y = (np.arange(rows)[:, None] + 0.5) * up + v
        points, shade = np.stack([x, y], -1), plane.cut(length, index)
        steps = max(round(_GRID_MM / up), 1), max(round(_GRID_MM / across), 1)
        for lines, values in (
            (points[steps[0] // 2 :: steps[0]], shade[steps[0] // 2 :: steps[0]]),
            (
                points[:, steps[1] // 2 :: steps[1]].swapaxes(0, 1),
                shade[:, steps[1] // 2 :: steps[1]].T,
            ),
        ):
            segments = np.stack([lines[:, :-1], lines[:, 1:]], axis=2).reshape(-1, 2, 2)
            middles = (values[:, :-1] + values[:, 1:]) / 2
            collection = LineCollection(
                list(segments), cmap=color.get_cmap(), norm=color.norm, linewidths=0.9
            )
            collection.set_array(middles.ravel())
            panel.add_collection(collection)

    return draw
