"""Whatever lies in a file: a registration on the fixed image's grid, or a sentence."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Image
from nibabel.orientations import io_orientation
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from voxelopt_layers import VoxelOptLayer
from voxelopt_train import InputError, register
from voxelopt_train.images import read_image
from voxelopt_train.resampling import resample

SIGNED_AXES = [  # the 48 orders and directions in which axes can be stored
    np.eye(3)[list(axes)] * signs
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
SCALES = (1e-40, 1e-30, 1.0, 1000.0, 1e9, 1e30, 3.4e38)
SLOPES = ((1.0, 0.0), (1.0, -1024.0), (-0.5, 1e3), (1e-30, 0.0), (1e20, -1e20))
STORED_AS = ("uint8", "int16", "uint16", "int32", "float32", "float64")


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    directions = SIGNED_AXES[draw(st.integers(0, 47))]
    if draw(st.booleans()):
        degrees = [draw(st.floats(-45, 45)) for _ in range(3)]
        directions = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ directions
    spacing = [draw(st.floats(0.1, 20)) for _ in range(3)]
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = [draw(st.floats(-20, 20)) for _ in range(3)]
    return affine


@st.composite
def files(draw: st.DrawFn) -> Nifti1Image:
    """An image as it comes from a file, integers with a slope and an intercept."""
    shape = [draw(st.integers(2, 20)) for _ in range(3)]
    if draw(st.integers(0, 7)) == 7:
        shape[draw(st.integers(0, 2))] = 1
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    kind = draw(st.sampled_from(["noise", "noise", "noise", "hot", "fill", "any", "constant"]))
    noise = rng.normal(size=shape)
    values = {
        "noise": noise, "constant": np.full(shape, 0.7), "hot": noise * (noise > 2),
        "fill": np.where(noise > 0.5, noise, -1.0), "any": noise * 10 ** rng.uniform(-30, 0, shape),
    }[kind]  # fmt: skip
    dtype = np.dtype(draw(st.sampled_from(STORED_AS)))
    if dtype.kind == "f":
        scale = draw(st.sampled_from(SCALES))
        values = np.clip(values * scale, -3.4e38, 3.4e38).astype(dtype)
        return Nifti1Image(values, draw(affines()))
    limits = np.iinfo(dtype)
    values = np.clip(values * limits.max / 3, limits.min, limits.max).astype(dtype)
    image = Nifti1Image(values, draw(affines()))
    image.header.set_slope_inter(*draw(st.sampled_from(SLOPES)))
    return Nifti1Image.from_bytes(image.to_bytes())


@given(
    fixed=files(),
    moving=files(),
    initial=st.sampled_from(["none", "center-of-mass"]),
    cubes=st.booleans(),
    encoder=st.sampled_from(["raw", "raw", "mind"]),
)
def test_any_two_files_are_registered_or_refused(fixed, moving, initial, cubes, encoder):
    extent_mm = np.multiply(fixed.shape, np.linalg.norm(fixed.affine[:3, :3], axis=0))
    spacing_mm = float(extent_mm.max()) / 15 if cubes else None
    try:
        result = register(fixed, moving, initial=initial, spacing_mm=spacing_mm, encoder=encoder)
    except InputError as error:
        assert "\n" not in str(error)
        return
    for image in (result.warped, result.aligned, result.entropy):
        assert tuple(image.data.shape) == fixed.shape and image.data.isfinite().all()
        np.testing.assert_array_equal(image.grid.affine, fixed.affine)
    for field in (result.field, result.inverse_field):
        assert field.displacement_mm.shape == (1, 3, *fixed.shape)
        assert field.displacement_mm.isfinite().all()
    # A linear interpolation of the moving voxels, and their least beyond.
    low, high = (float(x) for x in torch.aminmax(read_image(moving, "moving").data))
    room = 1e-5 * max(abs(low), abs(high))
    assert low - room <= result.warped.data.min() and result.warped.data.max() <= high + room


@given(
    order=st.sampled_from(SIGNED_AXES),
    spacing=st.tuples(*[st.floats(0.5, 5)] * 3),
    seed=st.integers(0, 2**16),
)
def test_the_order_in_which_voxels_are_stored_changes_nothing(order, spacing, seed):
    """With filters of one width, for which the order of the axes does not matter."""
    settings = {"adaptive": False, "assignment": "soft", "temperature": 0.05}  # far from ties
    layer = VoxelOptLayer.from_preset("intensity", **settings)
    shape, rng = (14, 12, 9), np.random.default_rng(seed)
    affine = np.diag([*spacing, 1.0])
    noise = gaussian_filter(rng.normal(size=(2, *shape)), (0, 1.5, 1.5, 1.5))
    pair = [Nifti1Image(x.astype(np.float32), affine) for x in noise]
    turned = [stored_as(image, order) for image in pair]
    expected, found = register(*pair, layer=layer), register(*turned, layer=layer)
    back = resample(found.warped, expected.warped.grid)
    apart = (back.data - expected.warped.data).abs().mean() / expected.warped.data.std()
    assert apart < 0.01  # what rounding becomes


def stored_as(image: Nifti1Image, order: np.ndarray) -> Nifti1Image:
    """The same world, its array axes in another order and direction."""
    turn = np.eye(4)
    turn[:3, :3] = order
    orientation: Any = io_orientation(turn)
    return image.as_reoriented(orientation)
