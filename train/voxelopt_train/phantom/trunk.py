"""The trunk of the phantom: body cavity, diaphragm, muscles and skeleton, in mm and HU.

World axes are RAS; the origin lies in front of the second lumbar vertebra.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from voxelopt_train.phantom.solids import Capsule, Solid, Structure, ellipsoid, mirrored, tube

AIR_HU, LUNG_HU, FAT_HU, MUSCLE_HU, SKIN_HU = -1000.0, -850.0, -105.0, 58.0, 20.0
WALL_MM = 12.0
_POWER = 2.35


def cavity_depth(points: Tensor) -> Tensor:
    """Depth in mm inside the body cavity, negative outside of it: in the wall, then in the air."""
    x, y, z = points
    half_width, half_depth = _half_axes(z)
    ratio = ((x.abs() / half_width) ** _POWER + (y.abs() / half_depth) ** _POWER) ** (1 / _POWER)
    depth = torch.hypot(x, y) * (1 / ratio.clamp(min=1e-3) - 1)
    return depth - 6 * torch.exp(-((x / 13) ** 2)) * (y < 0)  # the furrow over the spine


def _half_axes(z: Tensor) -> tuple[Tensor, Tensor]:
    """The cavity is a superellipse, wide at the chest and the hips, narrow at the waist."""
    height = (z / 144).clamp(-1.2, 1.2)
    return 119 + 5 * height.square() + 7 * height.clamp(max=0).square(), 83 + 3 * height


def dome_distance(points: Tensor) -> Tensor:
    """Signed distance to the space below the diaphragm (negative inside), from its two domes."""
    right = ellipsoid((66, 4, 40), (74, 92, 74)).distance(points)
    left = ellipsoid((-66, 4, 32), (72, 92, 68)).distance(points)
    blend = (25 - (right - left).abs()).clamp(min=0) ** 2 / 100
    return torch.minimum(torch.minimum(right, left) - blend, points[2] - 40)


def deep_muscles() -> list[Structure]:
    """Psoas, quadratus lumborum, gluteal muscles and the crura, behind the organs."""
    tubes = (
        mirrored((24, -12, 34, 6), (36, -10, -30, 17), (50, 2, -100, 22), (60, 16, -150, 22)),
        mirrored((52, -58, 100, 8), (56, -56, 0, 17), (54, -60, -100, 16)),
        mirrored((86, -34, -104, 12), (92, -48, -150, 38)),
        mirrored((12, -4, 60, 6), (12, 0, 30, 5)),
    )
    return [Structure(MUSCLE_HU, parts, visceral=False) for parts in tubes]


def back_and_bones() -> list[Structure]:
    """Erector spinae, pelvis, ribs and spine: what lies behind the lungs, painted last."""
    erector = mirrored((19, -72, 150, 11), (24, -68, 60, 17), (30, -60, 0, 25), (26, -60, -150, 24))
    wings = [ellipsoid((s * 78, -30, -150), (8, 52, 54), (0, 16 * s, -36 * s)) for s in (1, -1)]
    sacrum = ellipsoid((0, -46, -150), (52, 18, 40), (-25, 0, 0))
    canal = tube(*[(0, _spine_y(z) - 25, z, 8.5) for z in range(-150, 151, 30)])
    return [
        Structure(MUSCLE_HU, erector, visceral=False),
        _bone(430, *wings),
        _bone(380, sacrum),
        *[_bone(450, *_ribs(k)) for k in range(7)],
        *[structure for z in range(-118, 150, 34) for structure in _vertebra(z)],
        Structure(30, canal, visceral=False),
    ]


def _bone(hu: float, *parts: Solid) -> Structure:
    return Structure(hu, parts, core=(2.5, 195), texture=30, visceral=False)


def _vertebra(z: float) -> list[Structure]:
    """Disc above, arch with its processes, and body of the vertebra centred at height z."""
    y = _spine_y(z)
    disc = ellipsoid((0, _spine_y(z + 17), z + 17), (22, 16, 9), half_height_mm=4.5)
    body = ellipsoid((0, y, z), (23, 17, 9), half_height_mm=13)
    arch = (
        *mirrored((19, y - 10, z + 3, 5.5), (13, y - 26, z - 1, 6), (2, y - 36, z - 6, 5)),
        *mirrored((15, y - 24, z, 5), (38, y - 30, z + 1, 4)),
        *tube((0, y - 36, z - 4, 4.5), (0, y - 60, z - 14, 5)),
    )
    return [Structure(95, (disc,), texture=8, visceral=False), _bone(430, *arch), _bone(400, body)]


def _ribs(k: int) -> tuple[Capsule, ...]:
    """A pair of ribs within the wall, sloping down to the front; the lower, the shorter."""
    top, end = 176 - 31 * k, (130, 130, 130, 124, 106, 86, 62)[k]
    nodes = []
    for angle in np.radians(np.linspace(12, end, 9)).tolist():
        sine, cosine, z = np.sin(angle), np.cos(angle), top - 80 * (angle / np.pi) ** 1.1
        a, b = (float(half) + WALL_MM / 2 for half in _half_axes(torch.tensor(z)))
        radius = (abs(sine / a) ** _POWER + abs(cosine / b) ** _POWER) ** (-1 / _POWER)
        nodes.append((radius * sine, -radius * cosine, z, 5.0))
    return mirrored(*nodes)


def _spine_y(z: float) -> float:
    """Anterior-posterior position of the vertebral bodies: lumbar lordosis, thoracic kyphosis."""
    heights = [-150, -105, -60, -16, 20, 55, 90, 150]
    return float(np.interp(z, heights, [-38, -10, -4, -6, -13, -22, -32, -42]))
