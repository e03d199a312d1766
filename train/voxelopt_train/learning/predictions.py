"""Displacement fields of a network as ITK files, for the scans that its grids were cut from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from voxelopt_layers.displacement import identity_coordinates
from voxelopt_train.grids import Grid
from voxelopt_train.transforms import DisplacementField, map_points, write_displacement_field


def missing(folder: Path, batch: dict[str, Any]) -> dict[int, Path]:
    """The pairs of a batch whose file is not in ``folder`` yet: number in the batch, and path."""
    names = zip(batch["fixed_name"], batch["moving_name"], strict=True)
    paths = {
        number: folder / f"{fixed}_{moving}_1Warp.nii.gz"
        for number, (fixed, moving) in enumerate(names)
    }
    return {number: path for number, path in paths.items() if not path.exists()}


def write_warp(path: Path, displacement: Tensor, batch: dict[str, Any], number: int) -> None:
    """Write the displacement of pair ``number`` of a batch, in millimetres of the world.

    The two images of a pair lie on grids of their own: the field leads from a point of the fixed
    world to its match in the moving world, and so fits the original scans too.

    Args:
        path: the target, which appears once it is complete.
        displacement: ``(1, 3, *spatial)`` in voxels.
        batch: with ``fixed_affine`` and ``moving_affine`` ``(B, 4, 4)``.
        number: which pair.

    Raises:
        InputError: the file cannot be written.
    """
    fixed, moving = (
        batch[f"{x}_affine"][number].double().cpu().numpy() for x in ("fixed", "moving")
    )
    u = displacement.double().cpu()
    start = identity_coordinates(u).double()
    target_mm, start_mm = map_points(moving, start + u), map_points(fixed, start)
    nx, ny, nz = u.shape[2:]
    field = DisplacementField((target_mm - start_mm).float(), Grid((nx, ny, nz), fixed))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_displacement_field(path, field)
