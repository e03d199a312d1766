"""A random diffeomorphism as a MONAI transform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.transforms.transform import MapTransform, RandomizableTransform
from monai.utils.type_conversion import convert_to_dst_type
from torch import Tensor

from voxelopt_layers import exponentiate, warp
from voxelopt_layers.displacement import resize_displacement
from voxelopt_train.phantom.canvas import smooth_vectors

_LATTICE_MM = 8.0


class RandDiffeomorphismd(RandomizableTransform, MapTransform):
    """Deform all volumes alike by the exponential of a random velocity field; nothing folds.

    The field is noise smoothed by a Gaussian, on a lattice of 8 mm: a filter this wide, on the
    voxels, takes as long as a training step of a small network.

    Args:
        keys: of volumes ``(C, *shape)``; a key that ends in ``labels`` is sampled by nearest
            neighbour. Those that are missing are left out.
        spacing_mm: edge of the voxels.
        prob: how often there is a deformation at all.
        smoothness_mm: least and largest standard deviation of the Gaussian.
        magnitude_mm: least and largest standard deviation of each component of the velocity.
    """

    def __init__(
        self,
        keys: Sequence[str],
        spacing_mm: float,
        prob: float,
        smoothness_mm: tuple[float, float],
        magnitude_mm: tuple[float, float],
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys=True)
        RandomizableTransform.__init__(self, prob)
        self.spacing_mm = spacing_mm
        self.smoothness_mm = smoothness_mm
        self.magnitude_mm = magnitude_mm

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        result = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return result
        displacement: Tensor | None = None
        for key in self.key_iterator(result):
            volume = torch.as_tensor(result[key]).as_subclass(Tensor)
            if displacement is None:
                displacement = self._displacement(volume.shape[1:])
            mode = "nearest" if str(key).endswith("labels") else "linear"
            moved = warp(volume[None], displacement, mode, "border")[0]
            result[key], *_ = convert_to_dst_type(moved, result[key])
        return result

    def _displacement(self, shape: Sequence[int]) -> Tensor:
        """``(1, 3, *shape)`` in voxels."""
        smoothness, magnitude = (
            self.R.uniform(*x) for x in (self.smoothness_mm, self.magnitude_mm)
        )
        generator = torch.Generator().manual_seed(int(self.R.randint(2**31)))
        lattice = [max(round(n * self.spacing_mm / _LATTICE_MM), 4) for n in shape]
        velocity = smooth_vectors(lattice, smoothness / _LATTICE_MM, generator)
        displacement = exponentiate(velocity * magnitude / _LATTICE_MM)
        return resize_displacement(displacement, shape)
