"""Spatial transforms: maps between worlds, and the files of other tools, one module a format."""

from voxelopt_train.transforms.ddf import from_ddf, to_ddf
from voxelopt_train.transforms.formats import (
    FORMATS,
    read_transform,
    transform_file,
    write_affine,
    write_transform,
)
from voxelopt_train.transforms.itk import RAS_TO_LPS, check_right_angles
from voxelopt_train.transforms.itk_field import write_displacement_field
from voxelopt_train.transforms.maps import (
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    InverseDisplacementField,
    Transform,
    as_displacement_field,
    flatten,
    inside,
    map_points,
    mm_to_voxels,
    slabs,
    voxels_to_mm,
)
from voxelopt_train.transforms.simpleitk import from_simpleitk, to_simpleitk

__all__ = [
    "FORMATS",
    "RAS_TO_LPS",
    "AffineTransform",
    "CompositeTransform",
    "DisplacementField",
    "InverseDisplacementField",
    "Transform",
    "as_displacement_field",
    "check_right_angles",
    "flatten",
    "from_ddf",
    "from_simpleitk",
    "inside",
    "map_points",
    "mm_to_voxels",
    "read_transform",
    "slabs",
    "to_ddf",
    "to_simpleitk",
    "transform_file",
    "voxels_to_mm",
    "write_affine",
    "write_displacement_field",
    "write_transform",
]
