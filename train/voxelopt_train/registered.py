"""The result of a registration: what was found, more images warped by it, its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from voxelopt_train.grids import Grid
from voxelopt_train.images import Image, ImageLike, read_image
from voxelopt_train.label_maps import LabelMaps, refuse_intensities
from voxelopt_train.resampling import resample
from voxelopt_train.transforms import (
    AffineTransform,
    DisplacementField,
    Transform,
    mm_to_voxels,
)


@dataclass(frozen=True, eq=False)
class Registration:
    """Result of `voxelopt_train.register`; every volume lies on the fixed image's grid.

    A point of the fixed world goes through ``field``, then ``initial``, to the moving world; a
    point of the moving world through the inverse of ``initial``, then ``inverse_field``.
    """

    fixed: Image
    aligned: Image  # the moving image after the initial alignment alone
    warped: Image
    field: DisplacementField
    inverse_field: DisplacementField
    initial: AffineTransform | None
    entropy: Image  # of the finest level, in nats
    labels: LabelMaps | None
    working_grid: Grid
    seconds: float  # of features and layer, without reading and resampling

    def __repr__(self) -> str:
        """What it is of, in a line: a dump of its volumes helps nobody."""
        shape = " x ".join(map(str, self.fixed.grid.shape))
        length_mm = self.field.displacement_mm.norm(dim=1)
        return (
            f"Registration of {self.aligned.name} to {self.fixed.name}: {shape} voxels, "
            f"displacement {length_mm.mean():.1f} mm on average and {length_mm.max():.1f} mm at "
            f"most, {self.seconds:.1f} s"
        )

    @property
    def transforms(self) -> list[Transform]:
        """From the fixed to the moving world, in the order in which a point goes through them."""
        return [self.field] if self.initial is None else [self.field, self.initial]

    @property
    def displacement(self) -> Tensor:
        """Displacement ``(1, 3, *shape)`` in voxels of the fixed grid, without ``initial``."""
        return mm_to_voxels(self.field.displacement_mm, self.field.grid)

    def warp(self, image: ImageLike, *, labels: bool = False) -> Image:
        """Another image of the moving subject, or a label map of it, on the fixed image's grid.

        Args:
            image: a NIfTI file, a nibabel image, or ``(array, affine)``, on a grid of its own.
            labels: it is a label map: no values in between, and 0 outside.

        Raises:
            InputError: it cannot be used.
        """
        moved = read_image(image, "labels" if labels else "image", labels=labels)
        if labels:
            refuse_intensities(moved)
        fill = 0.0 if labels else float(moved.data.min())
        mode: Literal["nearest", "linear"] = "nearest" if labels else "linear"
        return resample(moved, self.fixed.grid, self.transforms, mode, fill)

    def save(
        self,
        prefix: str | Path,
        *,
        inverse: bool = False,
        entropy: bool = False,
        jacobian: bool = False,
    ) -> list[Path]:
        """Write what `voxelopt register` writes: images, transforms, picture and numbers.

        Args:
            prefix: ``"out/"`` is a folder, as is any `Path`; ``"out/a_"`` the start of the names.
            inverse: ``1InverseWarp.nii.gz`` too.
            entropy: ``Entropy.nii.gz`` too.
            jacobian: ``Jacobian.nii.gz`` and ``LogJacobian.nii.gz`` too.

        Returns:
            The files.

        Raises:
            InputError: they cannot be written; nothing is left behind.
        """
        # Both import this module, and plots take half a second.
        from voxelopt_train.outputs import check_output, save
        from voxelopt_train.report import make_report

        start = f"{prefix}/" if isinstance(prefix, Path) else prefix
        check_output(start)
        report = make_report(self)
        return save(self, start, report, inverse=inverse, entropy=entropy, jacobian=jacobian)
