"""The terms of the training loss."""

from __future__ import annotations

import pytest
import torch

from textures import pair, texture
from voxelopt_layers import warp
from voxelopt_layers.displacement import resize_displacement
from voxelopt_train.learning.losses import RegistrationLoss, organ_maps


@pytest.mark.parametrize("similarity", ["ncc", "mind", "mse"])
def test_the_true_displacement_costs_less_than_none(smooth_velocity, similarity):
    fixed, moving, truth = pair((20, 24, 18), smooth_velocity, channels=1)
    loss = RegistrationLoss(similarity, smoothness_weight=0)
    none = loss([torch.zeros_like(truth)], fixed, moving)["loss"]
    assert loss([truth], fixed, moving)["loss"] < none - 0.1 * none.abs()


@pytest.mark.parametrize("smoothness", ["diffusion", "bending"])
def test_smoothness_grows_with_the_square_of_the_field(smooth_velocity, smoothness):
    u = smooth_velocity((12, 14, 10)).float()
    image = texture((12, 14, 10), 1)
    loss = RegistrationLoss("mse", 0.0, smoothness, 2.0)
    one, double = (loss([scale * u], image, image) for scale in (1, 2))
    assert set(one) == {"smoothness", "loss"} and one["smoothness"] > 0
    torch.testing.assert_close(double["smoothness"], 4 * one["smoothness"])
    torch.testing.assert_close(one["loss"], one["smoothness"])


def test_labels_count_once_each_and_without_background():
    labels = torch.zeros(1, 1, 8, 8, 8, dtype=torch.int64)
    labels[..., :4, :4, :4], labels[..., 6:, 6:, 6:] = 5, 9
    organs = organ_maps(labels, (5, 9))
    assert organs.shape == (1, 2, 8, 8, 8) and organs.sum() == 64 + 8
    image, u = torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 3, 8, 8, 8)
    loss = RegistrationLoss("mse", 0.0, label_weight=3.0)
    assert loss([u], image, image, organs, organs)["labels"] < 1e-3
    missed = organs * torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1, 1)
    # One organ of two is gone: half of the Dice, whatever its size.
    torch.testing.assert_close(
        loss([u], image, image, organs, missed)["labels"], torch.tensor(1.5), atol=1e-2, rtol=0
    )


def test_levels_are_weighted_on_their_own_grids(smooth_velocity):
    shape = (16, 16, 12)
    fixed, moving, fine = pair(shape, smooth_velocity, channels=1)
    coarse = resize_displacement(fine, (8, 8, 6))
    single = [RegistrationLoss("mse")([u], fixed, moving)["loss"] for u in (fine, coarse)]
    both = RegistrationLoss("mse", level_weights=(1.0, 0.5))([fine, coarse], fixed, moving)
    torch.testing.assert_close(both["loss"], single[0] + 0.5 * single[1])


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="similarity must be one of"):
        RegistrationLoss("ssd")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="at least 0"):
        RegistrationLoss(label_weight=-1)
    image, u = torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 3, 8, 8, 8)
    with pytest.raises(ValueError, match="have no labels"):
        RegistrationLoss(label_weight=1.0)([u], image, image)
    with pytest.raises(ValueError, match="2 level_weights for 1 pyramid levels"):
        RegistrationLoss(level_weights=(1, 1))([u], image, image)


def test_gradients_reach_the_displacement_and_warped_labels(smooth_velocity):
    fixed, moving, truth = pair((12, 12, 12), smooth_velocity, channels=1)
    u = (0.5 * truth).requires_grad_()
    organs = (moving > 0).float()
    terms = RegistrationLoss(label_weight=1.0)([u], fixed, moving, warp(organs, truth), organs)
    for name in ("similarity", "smoothness", "labels"):
        (gradient,) = torch.autograd.grad(terms[name], u, retain_graph=True)
        assert gradient.isfinite().all() and gradient.abs().max() > 0
