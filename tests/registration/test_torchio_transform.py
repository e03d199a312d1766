"""`VoxelOptRegistration` in TorchIO's pipelines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchio
from torchio.constants import DATA
from torchio.transforms.augmentation.composition import Compose
from torchio.transforms.preprocessing.intensity.rescale import RescaleIntensity

from placing import ANISOTROPIC, WINDOW, dice, moved_to, place, source
from voxelopt_layers import VoxelOptLayer
from voxelopt_train import InputError, register
from voxelopt_train.images import Image
from voxelopt_train.phantom import Pair
from voxelopt_train.torchio_transform import VoxelOptRegistration

QUICK = VoxelOptLayer(levels=2, warps_per_level=1)


@pytest.fixture(scope="module")
def elsewhere(pair: Pair) -> Pair:
    return moved_to(pair, None, place(pair.moving.grid, degrees=(20, 5, 0), **ANISOTROPIC))


def subject_of(pair: Pair) -> Any:
    def tensor(image: Image) -> dict[str, Any]:
        return {"tensor": image.data[None].clone(), "affine": image.grid.affine}

    return torchio.Subject(
        fixed=torchio.ScalarImage(**tensor(pair.fixed)),
        fixed_labels=torchio.LabelMap(**tensor(pair.fixed_labels)),
        moving=torchio.ScalarImage(**tensor(pair.moving)),
        labels=torchio.LabelMap(**tensor(pair.moving_labels)),
        name="of the pair",
    )


def test_it_is_register_in_a_compose(elsewhere):
    before = subject_of(elsewhere)
    transform = VoxelOptRegistration(along=["labels"], window=WINDOW, keep={"moving": "unmoved"})
    after = Compose([transform, RescaleIntensity(include=["fixed"])])(before)
    expected = register(source(elsewhere.fixed), source(elsewhere.moving), window=WINDOW)
    torch.testing.assert_close(after["moving"].data[0], expected.warped.data)
    for name in ("moving", "labels"):
        assert after[name].shape == before["fixed"].shape
        np.testing.assert_allclose(after[name].affine, before["fixed"].affine)
    assert isinstance(after["labels"], torchio.LabelMap)
    assert dice(before["fixed_labels"].data[0], after["labels"].data[0]) > 0.4
    values, allowed = after["labels"].data.unique(), elsewhere.moving_labels.data.unique()
    assert set(values.tolist()) <= set(allowed.tolist())
    assert torch.equal(after["unmoved"].data, before["moving"].data)
    assert torch.equal(after["fixed_labels"].data, before["fixed_labels"].data)
    assert after["name"] == "of the pair"
    assert before["moving"].shape == (1, *elsewhere.moving.grid.shape)  # the copy was changed


def test_a_history_gives_the_same_again(pair):
    transform = VoxelOptRegistration(along=["labels"], window=WINDOW, layer=QUICK)
    after = transform(subject_of(pair))
    assert after.history[0].name == "VoxelOptRegistration"
    again = after.get_composed_history()(subject_of(pair))
    assert torch.equal(again["moving"].data, after["moving"].data)
    assert "window=(-200.0, 300.0)" in repr(transform)


def test_in_a_loader_with_workers(pair):
    transform = VoxelOptRegistration(window=WINDOW, layer=QUICK)
    dataset = torchio.SubjectsDataset([subject_of(pair)], transform=transform)
    loader = torchio.SubjectsLoader(dataset, batch_size=1, num_workers=1)
    (batch,) = loader
    expected = transform(subject_of(pair))["moving"].data
    assert torch.equal(batch["moving"][DATA][0], expected)


def test_images_that_cannot_be_used(pair):
    subject = subject_of(pair)
    with pytest.raises(InputError, match="no image CT, it has fixed, fixed_labels, moving, labels"):
        VoxelOptRegistration("CT")(subject)
    flat = torchio.ScalarImage(tensor=torch.zeros(1, 9, 9, 9))
    subject.add_image(flat, "flat")
    with pytest.raises(InputError, match="moving image: all voxels are equal"):
        VoxelOptRegistration(moving="flat")(subject)
