"""Transforms to and from SimpleITK's, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from voxelopt_train.transforms.itk import RAS_TO_LPS, from_entry, geometry, to_entry
from voxelopt_train.transforms.itk_file import Entry
from voxelopt_train.transforms.maps import (
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    Transform,
    flatten,
)
from voxelopt_train.transforms.vectors import vectors_of

if TYPE_CHECKING:
    import SimpleITK as sitk


def to_simpleitk(transforms: Sequence[Transform]) -> sitk.CompositeTransform:
    """A SimpleITK transform for ``Resample(moving, fixed, transform)``; LPS mm, as all of its.

    Args:
        transforms: linear ones and displacement fields, the first first.

    Raises:
        InputError: a part is neither, or the grid of a field is sheared.
    """
    import SimpleITK as sitk

    composite = sitk.CompositeTransform(3)
    for part in reversed(flatten(transforms)):  # what was added last moves a point first
        if isinstance(part, DisplacementField):
            itk = _to_field(part)
        else:
            itk = sitk.AffineTransform(3)
            itk.SetParameters(to_entry(part).parameters.tolist())
        composite.AddTransform(itk)
    return composite


def from_simpleitk(transform: sitk.Transform) -> Transform:
    """Our form of a linear transform, a displacement field or a composite of them.

    Raises:
        InputError: it is, or has among its parts, another type.
    """
    import SimpleITK as sitk

    itk = transform.Downcast()
    name = itk.GetName()
    if name == "CompositeTransform":
        parts = [from_simpleitk(itk.GetNthTransform(n)) for n in range(itk.GetNumberOfTransforms())]
        flat = flatten(reversed(parts)) or [AffineTransform(np.eye(4))]
        return flat[0] if len(flat) == 1 else CompositeTransform(tuple(flat))
    what = "the SimpleITK transform"
    if name == "DisplacementFieldTransform" and itk.GetDimension() == 3:
        vectors = sitk.GetArrayViewFromImage(itk.GetDisplacementField()).ravel()
        return from_entry(Entry(f"{name}_double_3_3", vectors, _fixed(itk)), what)
    kind = "IdentityTransform" if name == "Transform" else name
    d = itk.GetDimension()
    return from_entry(
        Entry(f"{kind}_double_{d}_{d}", np.array(itk.GetParameters()), _fixed(itk)), what
    )


def _fixed(itk: sitk.Transform) -> np.ndarray:
    return np.array(itk.GetFixedParameters())


def _to_field(field: DisplacementField) -> sitk.DisplacementFieldTransform:
    import SimpleITK as sitk

    numbers = geometry(field.grid)
    vectors = vectors_of(field, RAS_TO_LPS, RAS_TO_LPS).T.astype(np.float64)  # (z, y, x, 3)
    image = sitk.GetImageFromArray(vectors, isVector=True)
    image.SetOrigin(numbers[3:6].tolist())
    image.SetSpacing(numbers[6:9].tolist())
    image.SetDirection(numbers[9:].tolist())
    return sitk.DisplacementFieldTransform(image)
