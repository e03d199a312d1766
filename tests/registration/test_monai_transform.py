"""`VoxelOptRegistrationd` in MONAI's pipelines."""

from __future__ import annotations

import pickle
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from monai.data.dataloader import DataLoader
from monai.data.dataset import CacheDataset, Dataset
from monai.data.meta_tensor import MetaTensor
from monai.networks.blocks.warp import Warp
from monai.transforms.compose import Compose
from monai.transforms.io.dictionary import LoadImaged
from monai.transforms.post.dictionary import Invertd
from monai.transforms.spatial.dictionary import Orientationd, Spacingd
from monai.transforms.utility.dictionary import EnsureChannelFirstd

from placing import AIR, ANISOTROPIC, WINDOW, dice, moved_to, place, shifted, source
from voxelopt_layers import VoxelOptLayer
from voxelopt_train import InputError, register
from voxelopt_train.images import Image, write_nifti
from voxelopt_train.monai_transform import VoxelOptRegistrationd
from voxelopt_train.phantom import Pair
from voxelopt_train.resampling import resample

KEYS = ["moving", "label_of_moving"]
# Of names: `Spacingd` takes all that begins with "moving_" for metadata of "moving".
ALL = ["fixed", "label_of_fixed", *KEYS]
MODES = ("bilinear", "nearest")
QUICK = VoxelOptLayer(levels=2, warps_per_level=1)


def meta(image: Image) -> MetaTensor:
    return MetaTensor(image.data[None].clone(), affine=torch.from_numpy(image.grid.affine))


def as_data(pair: Pair) -> dict[str, Any]:
    images = (pair.fixed, pair.fixed_labels, pair.moving, pair.moving_labels)
    return {name: meta(image) for name, image in zip(ALL, images, strict=True)}


@pytest.fixture(scope="module")
def elsewhere(pair: Pair) -> Pair:
    """The moving patient on another grid, turned and coarser."""
    return moved_to(pair, None, place(pair.moving.grid, degrees=(20, 5, 0), **ANISOTROPIC))


@pytest.fixture
def files(tmp_path, elsewhere: Pair) -> dict[str, str]:
    images = (elsewhere.fixed, elsewhere.fixed_labels, elsewhere.moving, elsewhere.moving_labels)
    for name, image in zip(ALL, images, strict=True):
        write_nifti(tmp_path / f"{name}.nii.gz", image.data, image.grid.affine)
    return {name: str(tmp_path / f"{name}.nii.gz") for name in ALL}


def reading(*more: Any, **options: Any) -> Any:
    return Compose([LoadImaged(ALL), EnsureChannelFirstd(ALL), *more], **options)


def test_it_is_register_from_files(files):
    transform = VoxelOptRegistrationd(KEYS, mode=MODES, window=WINDOW)
    before = reading()(files)
    after = reading(transform)(files)
    expected = register(files["fixed"], files["moving"], window=WINDOW)
    torch.testing.assert_close(after["moving"].as_tensor()[0], expected.warped.data)
    labels = after["label_of_moving"]
    assert dice(before["label_of_fixed"][0].as_tensor(), labels[0].as_tensor()) > 0.4
    assert set(labels.unique().tolist()) <= set(before["label_of_moving"].unique().tolist())
    assert labels.dtype == before["label_of_moving"].dtype
    for key in KEYS:
        assert after[key].shape == before["fixed"].shape
        torch.testing.assert_close(after[key].affine, before["fixed"].affine)
        assert after[key].meta["filename_or_obj"] == files[key]
        np.testing.assert_equal(after[key].meta["spatial_shape"], before["fixed"].shape[1:])
    assert torch.equal(after["fixed"], before["fixed"])
    assert torch.equal(after["label_of_fixed"], before["label_of_fixed"])


@pytest.mark.parametrize("initial", ["none", "center-of-mass"])
def test_the_displacement_is_a_ddf_of_monai(pair, initial):
    offset = [0.0, 0.0, 0.0] if initial == "none" else [40.0, -24.0, 16.0]
    data = {"fixed": meta(pair.fixed), "moving": meta(shifted(pair.moving, offset))}
    transform = VoxelOptRegistrationd(
        "moving", displacement_key="ddf", window=WINDOW, layer=QUICK, initial=initial
    )
    after = transform(data)
    on_fixed = resample(shifted(pair.moving, offset), pair.fixed.grid, fill=AIR).data
    ddf = after["ddf"].as_tensor()
    assert ddf.shape == (3, *pair.fixed.grid.shape)
    warp = Warp(mode="bilinear", padding_mode="border")
    again = warp(on_fixed[None, None], ddf[None])[0]
    difference = (again - after["moving"].as_tensor()).abs()
    # A whole number of voxels lies between the grids: there is no second interpolation.
    inside = (..., *[slice(8, -8)] * 3)
    assert difference[inside].max() < 0.5
    unmoved = (on_fixed - after["moving"].as_tensor()[0]).abs()
    assert unmoved[inside].max() > 100


def test_an_inverse_brings_all_to_where_the_fixed_image_came_from(files):
    steps = [Orientationd(ALL, axcodes="LAS", labels=None), Spacingd(ALL, (10, 10, 10))]
    transform = VoxelOptRegistrationd(KEYS, mode=MODES, window=WINDOW, layer=QUICK)
    compose = reading(*steps, transform)
    after, original = compose(files), reading()(files)
    back = compose.inverse(deepcopy(after))  # which takes the past away
    posted = Invertd(KEYS, transform=compose, orig_keys="fixed")(after)
    for result in (back, posted):
        for key in KEYS:
            assert result[key].shape == original["fixed"].shape
            torch.testing.assert_close(result[key].affine, original["fixed"].affine)


def test_a_lazy_compose_gives_the_same(files):
    step = Spacingd(["fixed", *KEYS], (10, 10, 10), mode=("bilinear", "bilinear", "nearest"))
    transform = VoxelOptRegistrationd(KEYS, mode=MODES, window=WINDOW, layer=QUICK)
    eager, lazy = (reading(step, transform, lazy=lazy)(files) for lazy in (False, True))
    for key in ("fixed", *KEYS):
        assert lazy[key].shape == eager[key].shape
        torch.testing.assert_close(lazy[key].affine, eager[key].affine)
    assert (lazy["moving"] - eager["moving"]).abs().mean() < 5


def test_datasets_caches_and_workers(pair):
    transform = VoxelOptRegistrationd(KEYS, mode=MODES, window=WINDOW, layer=QUICK)
    expected = transform(as_data(pair))["moving"]
    assert torch.equal(pickle.loads(pickle.dumps(transform))(as_data(pair))["moving"], expected)
    cached: Any = CacheDataset([as_data(pair)], Compose([transform]), progress=False)
    assert torch.equal(cached[0]["moving"], expected)
    loader = DataLoader(Dataset([as_data(pair)], transform), batch_size=1, num_workers=1)
    (batch,) = loader
    assert torch.equal(batch["moving"][0], expected)


def test_all_channels_are_warped_by_the_first(pair):
    data = as_data(pair)
    one = data["moving"].as_tensor()
    double = torch.cat([one, one + 7, torch.randn_like(one)])
    alone = VoxelOptRegistrationd("moving", window=WINDOW, layer=QUICK)(data)["moving"]
    warped = VoxelOptRegistrationd("moving", window=WINDOW, layer=QUICK)(
        {**data, "moving": MetaTensor(double, affine=data["moving"].affine)}
    )["moving"]
    assert warped.shape == (3, *pair.fixed.grid.shape)
    assert torch.equal(warped[:1], alone)
    torch.testing.assert_close(warped[1:2] - 7, alone, atol=1e-3, rtol=1e-4)


def test_tensors_without_metadata_lie_on_one_grid(pair):
    plain = {"fixed": pair.fixed.data[None], "moving": pair.moving.data[None].numpy()}
    after = VoxelOptRegistrationd("moving", window=WINDOW, layer=QUICK)(plain)
    expected = VoxelOptRegistrationd("moving", window=WINDOW, layer=QUICK)(as_data(pair))
    assert (after["moving"] - expected["moving"]).abs().mean() < 1
    torch.testing.assert_close(after["moving"].affine, torch.eye(4, dtype=torch.float64))


def test_keys_that_are_missing(pair):
    data = as_data(pair)
    del data["label_of_moving"]
    options: dict[str, Any] = {"mode": MODES, "window": WINDOW, "layer": QUICK}
    with pytest.raises(KeyError, match="label_of_moving"):
        VoxelOptRegistrationd(KEYS, **options)(data)
    after = VoxelOptRegistrationd(KEYS, **options, allow_missing_keys=True)(data)
    assert set(after) == set(data) and not torch.equal(after["moving"], data["moving"])
    del data["fixed"]
    with pytest.raises(KeyError, match="needs the key 'fixed'"):
        VoxelOptRegistrationd(KEYS, **options, allow_missing_keys=True)(data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": "moving", "mode": "bicubic"}, "mode must be bilinear or nearest, got bicubic"),
        ({"keys": ["moving", "fixed"]}, "the fixed image stays as it is: fixed cannot be in keys"),
        ({"keys": "moving", "displacement_key": "fixed"}, "fixed is the key of an image already"),
    ],
)
def test_arguments_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        VoxelOptRegistrationd(**options)


def test_images_that_cannot_be_used(pair):
    transform = VoxelOptRegistrationd(KEYS, mode=MODES, window=WINDOW, layer=QUICK)
    data = as_data(pair)
    slices = {**data, "moving": data["moving"][..., 4]}
    with pytest.raises(InputError, match=r"moving image: expected a volume as \(channels, x, y, z"):
        transform(slices)
    with pytest.raises(InputError, match=r"label_of_moving: expected a volume"):
        transform({**data, "label_of_moving": data["label_of_moving"][0]})
    far = {**data, "moving": meta(shifted(pair.moving, [900.0, 0, 0]))}
    with pytest.raises(InputError, match="do not overlap in world space"):
        transform(far)
    assert source(pair.fixed)[0].shape == data["fixed"].shape[1:]  # left as it was
