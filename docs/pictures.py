"""The pictures of "How the method works", from a slice of the phantom: `python docs/pictures.py`.

They are drawn by the public operators, step by step as the layer takes them. The moving image is
a slice of an abdomen, the fixed image the same slice deformed by a displacement that is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from voxelopt_layers import (
    VoxelOptLayer,
    adaptive_gaussian,
    assign,
    cost_entropy,
    cost_volume,
    entropy_to_sigma,
    exponentiate,
    warp,
)
from voxelopt_layers.displacement import resize
from voxelopt_train.phantom import abdomen

FOLDER = Path(__file__).parent / "pages" / "pictures"
BETA, ALPHA, RADIUS = 0.06, 5.0, 6  # of the preset "intensity"
THETA = (150.0, 50.0, 15.0, 5.0, 1.5)
NAMED = {"flat": (81, 49), "edge": (53, 63), "corner": (57, 39)}  # voxels that are looked at
COLORS = ("#f4a02a", "#35d6c4", "#ff5d8f")


def slices(strength: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """Fixed and moving image ``(1, 1, x, y)`` in [0, 1], and the displacement between them."""
    image, _ = abdomen(0, (128, 96, 96), 3.0)
    window = ((image.data[8:120, 8:92, 65] + 160) / 400).clamp(0, 1)
    moving = window[None, None]
    generator = torch.Generator().manual_seed(4)
    coarse = strength * torch.randn(1, 2, 8, 6, generator=generator)
    truth = exponentiate(resize(coarse, moving.shape[2:]))
    return warp(moving, truth, boundary="border"), moving, truth


def show(panel: Axes, image: Tensor, title: str, **style: Any) -> Any:
    """An image ``(1, 1, x, y)`` as a radiologist sees it."""
    style = {"cmap": "gray", "vmin": 0, "vmax": 1, **style}
    shown = panel.imshow(image[0, 0].flip(0).T.numpy(), origin="lower", **style)
    panel.set_title(title)
    panel.set_axis_off()
    return shown


def mark(panel: Axes, width: int, size: int = 7) -> None:
    """Squares around the voxels that are looked at."""
    for (x, y), color in zip(NAMED.values(), COLORS, strict=True):
        corner = (width - 1 - x - size / 2, y - size / 2)
        panel.add_patch(Rectangle(corner, size, size, fill=False, color=color, lw=1.5))


def row(columns: int, width: float = 9.0, height: float = 2.7, **more: Any) -> tuple[Figure, Any]:
    return plt.subplots(1, columns, figsize=(width, height), layout="constrained", **more)


def cost_picture() -> Figure:
    """Costs of three voxels, over a wider search than the layer's, to see more of them."""
    fixed, moving, _ = slices()
    cost = cost_volume(fixed, moving, 3)
    figure, panels = row(5, height=2.1)
    for panel, image, title in zip(panels, (fixed, moving), ("fixed", "moving"), strict=False):
        show(panel, image, title)
        mark(panel, fixed.shape[2])
    for panel, (name, (x, y)), color in zip(panels[2:], NAMED.items(), COLORS, strict=True):
        costs = cost[0, :, x, y].reshape(7, 7)
        panel.imshow(costs.flip(0).T.numpy(), origin="lower", cmap="viridis", vmin=0, vmax=0.35)
        entropy = cost_entropy(costs.reshape(1, 49, 1, 1), BETA).item()
        panel.set_title(f"{name}: entropy {entropy:.1f}")
        panel.set_xticks([0, 3, 6], ["3", "0", "−3"])
        panel.set_yticks([0, 3, 6], ["−3", "0", "3"])
        for spine in panel.spines.values():
            spine.set(color=color, lw=2)
    return figure


def entropy_picture() -> Figure:
    """From the entropy of the costs to the width of the filter."""
    fixed, moving, _ = slices()
    entropy = cost_entropy(cost_volume(fixed, moving), BETA)
    sigma = entropy_to_sigma(entropy, ALPHA)
    figure, panels = row(3)
    show(panels[0], fixed, "fixed image")
    for panel, image, title in (
        (panels[1], entropy, "entropy E (nats)"),
        (panels[2], sigma, "width σ (voxels)"),
    ):
        shown = show(panel, image, title, cmap="magma", vmin=0, vmax=None)
        figure.colorbar(shown, ax=panel, shrink=0.8)
    return figure


def arrows(panel: Axes, field: Tensor, image: Tensor, title: str) -> None:
    """A displacement ``(1, 2, x, y)`` over the image, at every third voxel of a part of it."""
    part = (slice(30, 92), slice(24, 70))
    show(panel, image[..., part[0], part[1]], title, alpha=0.55)
    u = field[0][:, part[0], part[1]].flip(1)[:, ::2, ::2]
    x, y = torch.meshgrid(*(torch.arange(0, 2 * n, 2) for n in u.shape[1:]), indexing="ij")
    style = {"color": "#d7263d", "angles": "xy", "scale_units": "xy", "scale": 0.5, "width": 0.004}
    panel.quiver(*(a.numpy() for a in (x, y, -u[0], u[1])), **style)


def descent(cost: Tensor, sigma: Tensor) -> list[tuple[Tensor, Tensor]]:
    """V and u of each iteration of coordinate descent."""
    steps, u = [], None
    for theta in THETA:
        v = assign(cost, u, 1 / (2 * theta))
        u = adaptive_gaussian(v, sigma, RADIUS)
        steps.append((v, u))
    return steps


def message_picture() -> Figure:
    """What each voxel would choose on its own, after its costs were filtered, and smoothed."""
    fixed, moving, _ = slices()
    cost = cost_volume(fixed, moving)
    sigma = entropy_to_sigma(cost_entropy(cost, BETA), ALPHA)
    filtered = adaptive_gaussian(cost, sigma, RADIUS)
    figure, panels = row(3, height=2.9)
    arrows(panels[0], assign(cost), fixed, "least cost of each voxel")
    arrows(panels[1], assign(filtered), fixed, "least filtered cost: v")
    arrows(panels[2], descent(filtered, sigma)[-1][1], fixed, "after five iterations: u")
    return figure


def coupling_picture() -> Figure:
    """How v becomes smooth while theta falls and ties it to u."""
    fixed, moving, _ = slices()
    cost = cost_volume(fixed, moving)
    sigma = entropy_to_sigma(cost_entropy(cost, BETA), ALPHA)
    steps = descent(adaptive_gaussian(cost, sigma, RADIUS), sigma)
    apart = [(v - u).norm(dim=1).mean().item() for v, u in steps]
    figure, panels = row(3, height=2.9)
    arrows(panels[0], steps[0][0], fixed, f"v at θ = {THETA[0]:g}")
    arrows(panels[1], steps[-1][0], fixed, f"v at θ = {THETA[-1]:g}")
    panels[2].plot(range(len(apart)), apart, "o-", color="#2a6df4")
    panels[2].set_xticks(range(len(apart)), [f"{theta:g}" for theta in THETA])
    panels[2].set(xlabel="θ", title="mean |v − u| (voxels)", ylim=(0, 0.3))
    panels[2].spines[["top", "right"]].set_visible(False)
    return figure


def pyramid_picture() -> Figure:
    """The difference of fixed and warped image after each level."""
    fixed, moving, truth = slices(6.0)
    solution = VoxelOptLayer.from_preset("intensity", refinements=0).solve(fixed, moving)
    figure, panels = row(5, height=2.0)
    body = (fixed > 0.1)[:, 0]
    error = truth.norm(dim=1)[body].mean()
    difference = {"cmap": "RdBu", "vmin": -0.6, "vmax": 0.6}
    show(panels[0], fixed - moving, f"before\nerror {error:.2f}", **difference)
    for panel, level in zip(panels[1:], solution.levels, strict=True):
        u, size = level.displacement, " × ".join(map(str, level.shape))
        factors = torch.tensor([n / m for n, m in zip(fixed.shape[2:], level.shape, strict=True)])
        u = resize(u, fixed.shape[2:]) * factors.reshape(1, 2, 1, 1)
        error = (u - truth).norm(dim=1)[body].mean()
        warped = warp(moving, u, boundary="border")
        show(panel, fixed - warped, f"{size}\nerror {error:.2f}", **difference)
    return figure


def refinement_picture() -> Figure:
    """A parabola through three costs; and the error as refinements go on."""
    fixed, moving, truth = slices()
    numbers = [0, 1, 2, 4, 6, 8, 10, 15]
    errors = []
    for number in numbers:
        u = VoxelOptLayer.from_preset("intensity", refinements=number)(fixed, moving)
        errors.append((u - truth).norm(dim=1)[..., 16:-16, 16:-16].mean().item())
    figure, panels = row(2, height=2.6)
    costs = torch.tensor([0.30, 0.06, 0.14])
    slope, curvature = (costs[2] - costs[0]) / 2, costs[0] + costs[2] - 2 * costs[1]
    x = torch.linspace(-1.2, 1.2, 100)
    best = -slope / (curvature + 1 / 5.0)
    parabola = costs[1] + slope * x + curvature * x**2 / 2
    panels[0].plot(x.numpy(), parabola.numpy(), color="#9aa5b1")
    panels[0].plot([-1, 0, 1], costs.tolist(), "o", color="#2a6df4", label="costs")
    panels[0].axvline(best.item(), color="#d7263d", ls="--", label="damped step, θ = 5")
    panels[0].set(xlabel="offset along one axis (voxels)", ylabel="cost", ylim=(0, 0.4))
    panels[0].legend(frameon=False)
    panels[1].plot(numbers, errors, "o-", color="#2a6df4")
    panels[1].set(xlabel="refinements", ylabel="mean error (voxels)", ylim=(0, None))
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    return figure


PICTURES = {
    "cost": cost_picture,
    "entropy": entropy_picture,
    "messages": message_picture,
    "coupling": coupling_picture,
    "pyramid": pyramid_picture,
    "refinement": refinement_picture,
}


def main(names: Sequence[str] = tuple(PICTURES), folder: Path = FOLDER) -> None:
    """Draw the pictures of these names."""
    torch.set_num_threads(1)  # sums come in one order
    mpl.use("Agg")
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 9, "savefig.dpi": 110})
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        figure = PICTURES[name]()
        content = BytesIO()
        figure.savefig(content)
        plt.close(figure)
        # A palette is enough, and a third of the file.
        Image.open(content).convert("RGB").quantize(200).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
