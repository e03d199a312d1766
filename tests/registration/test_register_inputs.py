"""`register`: what it takes, in which forms, what it leaves alone and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nibabel.nifti1 import Nifti1Image

from placing import (
    WINDOW,
    label_sources,
    source,
    sources,
)
from voxelopt_layers import VoxelOptLayer
from voxelopt_train import InputError, register, registration
from voxelopt_train.errors import input_warnings_to, warn_once
from voxelopt_train.grids import Grid
from voxelopt_train.images import Image
from voxelopt_train.label_maps import read_label_pair, read_mask
from voxelopt_train.resampling import resample


@pytest.mark.parametrize("encoder", ["mind", "raw", torch.nn.Identity()])
def test_what_lies_outside_the_window_is_not_seen(pair, encoder):
    """Metal is as bright as the window ends, also where a voxel is made of several."""
    (bone, affine), moving = sources(pair)
    metal, bright = bone.copy(), bone.copy()
    part = slice(18, 21), slice(14, 17), slice(16, 19)
    metal[part], bright[part] = 30000, WINDOW[1]
    settings = {"encoder": encoder, "spacing_mm": 12.0, "window": WINDOW}
    a, b = (register((x, affine), moving, **settings).displacement for x in (metal, bright))
    assert a.any() and torch.equal(a, b)


def test_files_nibabel_images_and_arrays_give_the_same(tmp_path, pair, plain):
    volumes: dict[str, Any] = {}
    for name in ("fixed", "moving", "fixed_labels", "moving_labels"):
        volumes[name] = Nifti1Image(*source(getattr(pair, name)))
        volumes[name].to_filename(tmp_path / f"{name}.nii.gz")
    paths: dict[str, Any] = {name: str(tmp_path / f"{name}.nii.gz") for name in volumes}
    for kinds in (paths, volumes):
        result = register(**kinds, window=WINDOW)
        assert torch.equal(result.field.displacement_mm, plain.field.displacement_mm)
        assert torch.equal(result.warped.data, plain.warped.data)
        assert result.labels is not None and plain.labels is not None
        assert torch.equal(result.labels.warped.data, plain.labels.warped.data)


def test_registering_leaves_its_inputs_alone(pair):
    fixed, moving = (array.copy() for array, _ in sources(pair))
    register((fixed, pair.fixed.grid.affine), (moving, pair.moving.grid.affine))
    np.testing.assert_array_equal(fixed, pair.fixed.data)
    np.testing.assert_array_equal(moving, pair.moving.data)


def test_layer_encoder_and_progress_are_used(pair):
    class Constant(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(image)

    stages: list[str] = []
    layer = VoxelOptLayer(levels=2)
    result = register(*sources(pair), encoder=Constant(), layer=layer, progress=stages.append)
    assert not result.displacement.any()  # equal costs everywhere: nothing moves
    assert torch.equal(result.warped.data, result.aligned.data)
    assert stages == [
        "reading the images", "initial alignment", "features", "level 1 of 2", "level 2 of 2",
        "composing", "resampling",
    ]  # fmt: skip
    assert result.labels is None and result.seconds > 0


def test_seconds_are_those_of_features_and_layer(monkeypatch, pair):
    resampled = []

    def noted(*arguments: Any, **settings: Any):
        resampled.append(arguments)
        return resample(*arguments, **settings)

    monkeypatch.setattr(registration, "resample", noted)
    clock = SimpleNamespace(perf_counter=lambda: len(resampled))
    monkeypatch.setattr(registration, "time", clock)
    assert register(*sources(pair)).seconds == 0 and resampled


def test_labels_are_refused_where_they_do_not_fit(pair):
    fixed, moving = sources(pair)
    labels = label_sources(pair)
    array, affine = labels["moving_labels"]
    with pytest.raises(InputError, match="both the fixed and the moving"):
        register(fixed, moving, fixed_labels=labels["fixed_labels"])
    other = {"shape": (array[1:], affine), "affine": (array, affine @ np.diag([1, 1, 1.1, 1]))}
    for wrong in other.values():
        with pytest.raises(InputError, match="moving labels does not lie on the grid of moving"):
            register(fixed, moving, **{**labels, "moving_labels": wrong})
    with pytest.raises(InputError, match="moving labels: labels must be 0 or above, found -1"):
        register(fixed, moving, **{**labels, "moving_labels": (array - 1, affine)})
    with pytest.raises(InputError, match="0 everywhere"):
        empty = 0 * array, affine
        register(fixed, moving, fixed_labels=empty, moving_labels=empty)


@pytest.mark.parametrize(
    ("fixed", "moving", "says"),
    [
        ("1 2 3", "4 5", "and moving labels have no labels in common, of 3 and 2: expected the sa"),
        ("1 2 3", "0", "have no labels in common, of 3 and 0"),
        ("1 2 3 4 5", "1 2 70000 8 9", "have 2 labels in common, of 5 and 5"),
        ("1 2 3 4 5 6 7 8 9", "1 2", ""),  # the moving image shows less
        ("1 2 3 4", "1 2 5 6", ""),
        (range(201), range(201), ""),
        (range(300), "1 2", "fixed labels: 299 different labels, where label maps have some 200 a"),
        ("1 2", range(70000, 70300), "moving labels: 300 different labels, where label maps"),
    ],
)
def test_label_maps_that_do_not_seem_to_be_any_are_told(fixed, moving, says):
    values = [np.array(m.split() if isinstance(m, str) else m, np.int32) for m in (fixed, moving)]
    blocks = np.ones((2, 2, 2), np.int32)  # of voxels alike, as structures are
    of_fixed, of_moving = ((np.kron(np.resize(v, (5, 8, 10)), blocks), np.eye(4)) for v in values)
    image = Image(torch.zeros(10, 16, 20), Grid((10, 16, 20), np.eye(4)), "image")
    told: list[str] = []
    warn_once.cache_clear()
    with input_warnings_to(told.append):
        read_label_pair(of_fixed, of_moving, image, image)
        read_mask(of_fixed, "mask", image)  # of which 0 alone counts
    assert bool(told) == bool(says) and says in " ".join(told)
    assert not any(text.startswith("mask") for text in told)


def test_an_image_in_place_of_its_labels_is_refused(pair):
    (array, affine), moving = sources(pair)
    labels = {"fixed_labels": (array - array.min(), affine), "moving_labels": moving}
    labels["fixed_labels"] = (np.rint(labels["fixed_labels"][0]), affine)
    with pytest.raises(InputError, match="differ from the next: this is an image of intensities"):
        register((array, affine), moving, **labels)


def test_masks_are_refused_where_they_do_not_fit(pair):
    fixed, moving = sources(pair)
    ones = np.ones(fixed[0].shape, np.uint8)
    with pytest.raises(InputError, match="fixed mask does not lie on the grid of fixed image"):
        register(fixed, moving, fixed_mask=(ones[1:], fixed[1]))
    with pytest.raises(InputError, match="moving mask: the mask is 0 everywhere"):
        register(fixed, moving, moving_mask=(0 * ones, moving[1]))
    left, right = ones.copy(), ones.copy()
    left[:20], right[20:] = 0, 0
    with pytest.raises(InputError, match="leave no voxel of the working grid"):
        register(fixed, moving, fixed_mask=(left, fixed[1]), moving_mask=(right, moving[1]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spacing_mm": 0.0}, "above 0 mm"),
        ({"spacing_mm": float("nan")}, "above 0 mm"),
        ({"spacing_mm": float("inf")}, "above 0 mm"),
        ({"spacing_mm": "10"}, "a number above 0 mm .*, got '10'"),
        ({"spacing_mm": (2.0, 2.0, 2.0)}, "a number above 0 mm"),
        ({"spacing_mm": 1e-9}, r"above 0 mm \(from 1e-06 on\), got 1e-09"),
        ({"spacing_mm": 0.01, "encoder": torch.nn.Identity()}, "makes .* voxels"),
        ({"window": (300.0, -200.0)}, "from low to high"),
        ({"window": 300.0}, "two numbers, low and high, got 300.0"),
        ({"window": ("0", "1")}, "two numbers, low and high"),
        ({"encoder": "sift"}, "one of raw, mind, or a module"),
        ({"encoder": torch.nn.Identity}, "one of raw, mind, or a module"),
        ({"initial": "centre"}, "no such file"),
        ({"initial": ""}, "expected none, center-of-mass, affine, or the file .* got ''"),
        ({"initial": np.eye(4)}, "expected none, center-of-mass, affine, .* got ndarray"),
        ({"device": "gpu"}, "device gpu: no such device here"),
        ({"device": "cuda:99"}, "device cuda:99: no such device here"),
        ({"fixed_mask": np.ones((40, 32, 36))}, "fixed mask: expected a file, .* got ndarray"),
    ],
)
def test_settings_out_of_range_are_refused(pair, settings, message):
    with pytest.raises(InputError, match=message):
        register(*sources(pair), **settings)


ARRAY, AFFINE = np.zeros((4, 5, 6)), np.eye(4)


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        (
            ARRAY,
            r"expected a file, .* or \(array, affine\) with the 4x4 .* got ndarray",
        ),
        (torch.zeros(4, 5, 6), r"expected a file, .* got Tensor"),
        ([ARRAY, AFFINE], r"expected a file, .* got list"),
        ((ARRAY,), "expected a file, .* got a tuple of 1"),
        (None, "expected a file, .* got NoneType"),
        ((AFFINE, ARRAY), r"expected a 4x4 affine, got shape \(4, 5, 6\)"),
        ((ARRAY, np.full((4, 4), "1")), "the affine has no real numbers but"),
        ((torch.zeros(4, 5, 6, requires_grad=True), AFFINE), r"array, .*Use tensor.detach\(\)"),
        ((torch.zeros(4, 5, 6, device="meta"), AFFINE), r"array, .*Use Tensor.cpu\(\)"),
        (([[1, 2], [3]], AFFINE), "expected an array, this cannot be one"),
    ],
)
def test_what_is_no_image_is_refused(fixed, message):
    with pytest.raises(InputError, match=f"^fixed image.*{message}"):
        register(fixed, (ARRAY, AFFINE))


@pytest.mark.parametrize("layer", [{"levels": 3}, "paper", VoxelOptLayer])
def test_what_is_no_layer_is_refused(pair, layer):
    with pytest.raises(TypeError, match=r"layer must be a module, as VoxelOptLayer\("):
        register(*sources(pair), layer=layer)


def test_costs_that_overflow_are_told(pair):
    layer = VoxelOptLayer(dissimilarity={"l1": 1e39}, levels=1)
    with pytest.raises(InputError, match="or costs overflow"):
        register(*sources(pair), layer=layer)
