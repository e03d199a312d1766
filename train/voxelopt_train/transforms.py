"""Spatial transforms in world space, and their ITK files.

A transform maps points of the fixed image's world to points of the moving image's world, in RAS
millimetres. ITK keeps the same maps in LPS millimetres (x and y negated); the two are converted
where files are read and written, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from nibabel.nifti1 import Nifti1Header
from torch import Tensor

from voxelopt_layers.displacement import sample
from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid
from voxelopt_train.images import check_affine, load_volume, voxels, write_nifti
from voxelopt_train.itk_affine import read_itk_affine, write_itk_affine

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # its own inverse
_VECTOR_INTENT = 1007  # NIFTI_INTENT_VECTOR


class Transform(Protocol):
    """Maps points of the fixed world to points of the moving world, RAS mm."""

    def __call__(self, points: Tensor) -> Tensor:
        """Map points ``(1, 3, *out)``, float32 or float64, to points of the same shape."""
        ...


@dataclass(frozen=True, eq=False)
class AffineTransform:
    """Affine transform of points.

    Attributes:
        matrix: ``(4, 4)`` float64, RAS mm to RAS mm.
    """

    matrix: np.ndarray

    def __call__(self, points: Tensor) -> Tensor:
        """Map points ``(1, 3, *out)`` to points of the same shape."""
        return map_points(self.matrix, points)

    def inverse(self) -> AffineTransform:
        """Return the transform from the moving world back to the fixed world."""
        return AffineTransform(np.linalg.inv(self.matrix))


@dataclass(frozen=True, eq=False)
class DisplacementField:
    """Dense transform ``x + u(x)``, linear between the voxels and the identity outside its grid.

    Attributes:
        displacement_mm: u, ``(1, 3, *shape)``, RAS mm.
        grid: where the voxels of u lie.
    """

    displacement_mm: Tensor
    grid: Grid

    def __call__(self, points: Tensor) -> Tensor:
        """Map points ``(1, 3, *out)`` to points of the same shape."""
        field = self.displacement_mm
        position = map_points(np.linalg.inv(self.grid.affine), points)
        as_volume = position.to(field.dtype).reshape(1, 3, -1, 1, 1)
        moved = sample(field, as_volume, boundary="border").reshape(points.shape)
        return points + torch.where(inside(position, self.grid.shape), moved, 0)


def map_points(matrix: np.ndarray, points: Tensor) -> Tensor:
    """Apply a ``(4, 4)`` matrix to points ``(1, 3, *out)``, in the dtype of the points."""
    linear = torch.as_tensor(matrix[:3, :3], dtype=points.dtype, device=points.device)
    offset = torch.as_tensor(matrix[:3, 3], dtype=points.dtype, device=points.device)
    return torch.einsum("ij,bj...->bi...", linear, points) + offset.reshape(
        1, 3, *[1] * (points.dim() - 2)
    )


def inside(position: Tensor, shape: Sequence[int]) -> Tensor:
    """Whether voxel coordinates lie within the outer voxel edges: ITK's notion of inside.

    Between the outermost voxel centres and those edges ITK continues with the border's value.

    Args:
        position: ``(1, 3, *out)`` in voxels.
        shape: number of voxels along each axis.

    Returns:
        ``(1, 1, *out)`` bool.
    """
    upper = position.new_tensor(shape).reshape(1, 3, *[1] * (position.dim() - 2)) - 0.5
    return ((position >= -0.5) & (position < upper)).all(dim=1, keepdim=True)


def voxels_to_mm(displacement: Tensor, grid: Grid) -> Tensor:
    """Convert a displacement in voxels of ``grid`` to RAS mm, both ``(1, 3, *shape)``."""
    return map_points(_linear(grid), displacement)


def mm_to_voxels(displacement_mm: Tensor, grid: Grid) -> Tensor:
    """Convert a displacement in RAS mm to voxels of ``grid``, both ``(1, 3, *shape)``."""
    return map_points(np.linalg.inv(_linear(grid)), displacement_mm)


def _linear(grid: Grid) -> np.ndarray:
    linear = np.eye(4)
    linear[:3, :3] = grid.affine[:3, :3]
    return linear


def read_transform(spec: str | Path) -> Transform:
    """Read an ITK transform file.

    Args:
        spec: a linear transform (``.mat``, ``.tfm``, ``.txt``), a displacement field (``.nii``,
            ``.nii.gz``), or, as for antsApplyTransforms, ``[FILE,1]`` for the inverse of a linear
            one.

    Returns:
        `AffineTransform` or `DisplacementField`.

    Raises:
        InputError: the file is missing, damaged or of a kind that is not known, or the inverse of
            a displacement field is asked for.
    """
    path, invert = transform_file(spec)
    if path.name.endswith((".nii", ".nii.gz")):
        if invert:
            raise InputError(
                f"transform {spec}: a displacement field cannot be inverted here, "
                "give the file of its inverse (1InverseWarp.nii.gz)"
            )
        return _read_displacement_field(path)
    affine = AffineTransform(RAS_TO_LPS @ read_itk_affine(path) @ RAS_TO_LPS)
    check_affine(affine.matrix, f"transform {path}")
    return affine.inverse() if invert else affine


def transform_file(spec: str | Path) -> tuple[Path, bool]:
    """The file of a transform as `read_transform` takes it, and whether its inverse is meant."""
    bracketed = re.fullmatch(r"\[(.+),\s*([01])\]", str(spec))
    return Path(bracketed[1] if bracketed else spec), bracketed is not None and bracketed[2] == "1"


def _read_displacement_field(path: Path) -> DisplacementField:
    name = f"transform {path}"
    volume = load_volume(path, "transform")
    header = volume.header
    intent = int(header["intent_code"]) if isinstance(header, Nifti1Header) else 0
    if len(volume.shape) != 5 or volume.shape[3:] != (1, 3) or intent != _VECTOR_INTENT:
        raise InputError(
            f"{name}: expected an ITK displacement field of shape (x, y, z, 1, 3) and intent "
            f"{_VECTOR_INTENT}, got shape {volume.shape} and intent {intent}"
        )
    affine = cast(np.ndarray, volume.affine).astype(np.float64)
    check_affine(affine, name)
    lps_mm = np.moveaxis(voxels(volume, name)[:, :, :, 0], -1, 0)
    displacement_mm = np.array(lps_mm, dtype=np.float32, order="C")
    displacement_mm[:2] *= -1
    if not np.isfinite(displacement_mm).all():
        raise InputError(f"{name}: the displacement field has NaN or infinite values")
    nx, ny, nz = displacement_mm.shape[1:]
    return DisplacementField(torch.from_numpy(displacement_mm)[None], Grid((nx, ny, nz), affine))


def write_affine(path: str | Path, transform: AffineTransform) -> None:
    """Write an ITK file: MATLAB v4 (``.mat``, as antsRegistration) or text (``.tfm``, ``.txt``).

    Raises:
        InputError: the file cannot be written or has another suffix.
    """
    write_itk_affine(Path(path), RAS_TO_LPS @ transform.matrix @ RAS_TO_LPS)


def write_displacement_field(path: str | Path, field: DisplacementField) -> None:
    """Write an ITK displacement field: NIfTI, 5-D, intent 1007, components in LPS mm.

    Raises:
        InputError: the file cannot be written or has another suffix.
    """
    lps_mm = map_points(RAS_TO_LPS, field.displacement_mm.detach().cpu())
    array = lps_mm[0].permute(1, 2, 3, 0)[:, :, :, None]
    write_nifti(Path(path), array, field.grid.affine, intent=_VECTOR_INTENT)
