"""Solids that the abdominal phantom is modelled from: ellipsoids, tubes, and structures of them.

Points are tensors ``(3, *spatial)`` in mm along RAS axes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from scipy.spatial.transform import Rotation
from torch import Tensor

Point = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    """Solid ellipsoid, or with ``half_height_mm`` an upright elliptic cylinder (a vertebra)."""

    center: np.ndarray
    radii: np.ndarray
    rotation: np.ndarray
    half_height_mm: float = 0.0

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        reach = np.sqrt(((self.rotation * self.radii) ** 2).sum(1))
        return self.center - reach, self.center + reach

    def distance(self, points: Tensor) -> Tensor:
        """Signed distance in mm (first-order away from the surface), negative inside."""
        axes = points.new_tensor(self.rotation / self.radii)
        offset = points - points.new_tensor(self.center).view(3, 1, 1, 1)
        unit = torch.einsum("nm,nxyz->mxyz", axes, offset)
        if self.half_height_mm:
            flat = (_length(unit[:2]) - 1) * float(self.radii[:2].mean())
            return torch.maximum(flat, offset[2].abs() - self.half_height_mm)
        norm = _length(unit)
        gradient = _length(unit / points.new_tensor(self.radii).view(3, 1, 1, 1))
        return norm * (norm - 1) / gradient.clamp(min=1e-6)

    def moved(self, shift: np.ndarray, scale: float, about: np.ndarray) -> Ellipsoid:
        center = about + scale * (self.center - about) + shift
        return replace(self, center=center, radii=self.radii * scale)


@dataclass(frozen=True, eq=False)
class Capsule:
    """Solid around a segment, with a radius at each end: the piece that tubes are made of."""

    ends: np.ndarray
    radii: np.ndarray

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        reach = self.radii.max()
        return self.ends.min(0) - reach, self.ends.max(0) + reach

    def distance(self, points: Tensor) -> Tensor:
        """Signed distance in mm, negative inside."""
        start, end = (points.new_tensor(e).view(3, 1, 1, 1) for e in self.ends)
        axis, offset = end - start, points - start
        along = ((offset * axis).sum(0) / axis.square().sum().clamp(min=1e-6)).clamp(0, 1)
        radius = self.radii[0] + along * float(self.radii[1] - self.radii[0])
        return _length(offset - along * axis) - radius

    def moved(self, shift: np.ndarray, scale: float, about: np.ndarray) -> Capsule:
        ends = about + scale * (self.ends - about) + shift
        return replace(self, ends=ends, radii=self.radii * scale)


Solid = Ellipsoid | Capsule


@dataclass(frozen=True)
class Structure:
    """One thing to paint.

    Attributes:
        hu: Hounsfield units of its outer layer.
        parts: solids whose union it is, blended over ``blend_mm``, less the solids ``minus``.
        label: organ number; 0 clears the labels beneath, None keeps them (vessels in the liver).
        core: ``(inset_mm, hu)`` of the inner layer: lumen, marrow or medulla.
        gas_above_mm: inside the core, what lies anterior of this plane is gas (supine patient).
        texture: standard deviation in HU of the tissue's own grain.
        follows: organ with which it moves from patient to patient.
        visceral: confined to the body cavity.
    """

    hu: float
    parts: tuple[Solid, ...]
    label: int | None = 0
    blend_mm: float = 0.0
    minus: tuple[Solid, ...] = ()
    core: tuple[float, float] | None = None
    gas_above_mm: float | None = None
    texture: float = 4.0
    follows: str = ""
    visceral: bool = True

    def moved(self, shift: np.ndarray, scale: float, about: np.ndarray) -> Structure:
        """The same structure after scaling about a point and a shift in mm."""
        parts = tuple(part.moved(shift, scale, about) for part in self.parts)
        minus = tuple(part.moved(shift, scale, about) for part in self.minus)
        return replace(self, parts=parts, minus=minus)

    def thickened(self, radius_mm: float) -> Structure:
        """The same structure with its tubes at least ``radius_mm`` in radius."""
        parts = tuple(
            replace(part, radii=part.radii.clip(radius_mm)) if isinstance(part, Capsule) else part
            for part in self.parts
        )
        return replace(self, parts=parts)


def ellipsoid(
    center: Point, radii: Point, angles: Point = (0, 0, 0), half_height_mm: float = 0.0
) -> Ellipsoid:
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    return Ellipsoid(np.array(center, float), np.array(radii, float), rotation, half_height_mm)


def tube(*nodes: Iterable[float], haustra: float = 0.0) -> tuple[Capsule, ...]:
    """Smooth tube through nodes ``(x, y, z, radius)``; ``haustra`` pouches it every 30 mm."""
    knots = np.array([tuple(n) for n in nodes], float)
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(knots[:, :3], axis=0), axis=1))]
    pieces = max(int(length[-1] / max(0.8 * knots[:, 3].mean(), 6)), len(knots) - 1)
    at = np.linspace(0, length[-1], pieces + 1)
    curve = PchipInterpolator(length, knots)(at)
    radii = curve[:, 3] * (1 + haustra * np.sin(2 * np.pi * at / 30))
    return tuple(Capsule(curve[i : i + 2, :3], radii[i : i + 2]) for i in range(pieces))


def mirrored(*nodes: tuple[float, float, float, float]) -> tuple[Capsule, ...]:
    """The same tube on the right and on the left."""
    return tube(*nodes) + tube(*((-x, y, z, r) for x, y, z, r in nodes))


def _length(vectors: Tensor) -> Tensor:
    # torch.linalg.vector_norm is ten times slower along the first axis.
    return vectors.square().sum(0).sqrt()
