"""Networks as encoders: frozen or trainable, normalised, padded, stacked, of any stride."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tiny_training import UNET
from voxelopt_layers import VoxelOptLayer, compose, resize_displacement, warp
from voxelopt_models import (
    MINDSSC,
    EncoderError,
    FeatureEncoder,
    FeatureStack,
    RegistrationNet,
    ReleasedUNet,
    monai_network,
)

NOISY_UNET = {**UNET, "norm": "batch", "dropout": 0.5}


def small_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Conv3d(4, 3, 1))


# Frozen and trainable


def test_a_frozen_encoder_stands_still():
    image = torch.randn(2, 1, 16, 16, 16)
    encoder = FeatureEncoder(monai_network("UNet", NOISY_UNET), trainable=False)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    net = RegistrationNet(encoder).train()
    assert net.encoder.training and not encoder.network.training
    features = encoder(image)
    assert not features.requires_grad
    # Dropout and batch statistics as in evaluation.
    torch.testing.assert_close(features, encoder.eval()(image))
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_trainable_encoder_trains():
    encoder = FeatureEncoder(small_network()).train()
    assert encoder.network.training
    encoder(torch.randn(1, 1, 8, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("normalisation", ["none", "channel", "softmax", "unit"])
def test_gradients_reach_the_first_convolution(normalisation):
    encoder = FeatureEncoder(monai_network("UNet", NOISY_UNET), normalisation=normalisation)
    net = RegistrationNet(encoder, VoxelOptLayer(levels=2, gradient="checkpointed"))
    fixed, moving = torch.randn(2, 1, 1, 16, 16, 16)
    (warp(moving, net(fixed, moving)) - fixed).square().mean().backward()
    first = next(m for m in encoder.modules() if isinstance(m, nn.Conv3d)).weight.grad
    assert first is not None and first.isfinite().all() and first.norm() > 0


# Normalisation, padding, lists of maps, stacks


def test_normalisations():
    image = torch.randn(2, 1, 6, 7, 8)
    network = nn.Conv3d(1, 3, 1)
    logits = network(image)

    def features(normalisation, scale=1.0):
        return FeatureEncoder(network, normalisation=normalisation, scale=scale)(image)

    torch.testing.assert_close(features("none", 0.1), 0.1 * logits)
    channel = features("channel", 2.0)
    torch.testing.assert_close(channel.mean((2, 3, 4)), torch.zeros(2, 3), atol=1e-5, rtol=0)
    std = channel.std((2, 3, 4), unbiased=False)
    torch.testing.assert_close(std, torch.full((2, 3), 2.0))
    torch.testing.assert_close(features("softmax"), logits.exp() / logits.exp().sum(1, True))
    torch.testing.assert_close(features("unit", 3.0).norm(dim=1), torch.full((2, 6, 7, 8), 3.0))


@pytest.mark.parametrize("normalisation", ["channel", "unit"])
def test_what_is_0_everywhere_has_finite_features_and_gradients(normalisation):
    image = torch.zeros(1, 2, 6, 6, 6, requires_grad=True)
    features = FeatureEncoder(nn.Identity(), normalisation=normalisation)(image)
    features.square().sum().backward()
    assert (features == 0).all()
    assert image.grad is not None and image.grad.isfinite().all()


def test_half_precision_maps_become_float32_features():
    with torch.autocast("cpu", torch.bfloat16):
        encoder = FeatureEncoder(nn.Conv3d(1, 3, 1), normalisation="softmax")
        features = encoder(torch.randn(1, 1, 4, 4, 4))
    torch.testing.assert_close(features.sum(1), torch.ones(1, 4, 4, 4))


def test_images_are_padded_to_the_divisor_and_maps_cropped():
    image = torch.randn(1, 1, 13, 16, 10)
    seen = []

    class Spy(nn.Module):
        def forward(self, image):
            seen.append(image)
            return image

    assert torch.equal(FeatureEncoder(Spy(), divisor=8)(image), image)
    assert seen[0].shape[2:] == (16, 16, 16)
    assert torch.equal(seen[0][..., 0, :, 3], image[..., 0, :, 0])  # 1 before axis 0, 3 before 2
    assert FeatureEncoder(ReleasedUNet(), divisor=8)(image).shape == (1, 8, 13, 16, 10)
    strided = FeatureEncoder(nn.AvgPool3d(2), divisor=8)
    assert strided(torch.randn(1, 1, 16, 16, 8)).shape[2:] == (8, 8, 4)
    with pytest.raises(ValueError, match=r"\(13, 16, 10\) must then be multiples of 8"):
        strided(image)


def test_of_several_maps_the_finest_is_taken():
    image = torch.randn(2, 1, 8, 8, 8)

    class Several(nn.Module):
        def __init__(self, output):
            super().__init__()
            self.output = output

        def forward(self, image):
            return self.output(image)

    pool = nn.AvgPool3d(2)
    for output in (
        lambda x: [pool(x), x, 2 * x],
        lambda x: (x, torch.tensor(3.0), None),
        lambda x: ([x, pool(x)],),
        lambda x: torch.stack([x, 2 * x], dim=1),
    ):
        assert torch.equal(FeatureEncoder(Several(output))(image), image)
    with pytest.raises(ValueError, match="maps with 5 axes"):
        FeatureEncoder(nn.Flatten())(image)


def test_stack_concatenates_on_the_finest_grid():
    image = torch.randn(1, 1, 12, 12, 12)
    coarse = FeatureEncoder(nn.AvgPool3d(2), scale=3.0)
    features = FeatureStack([coarse, MINDSSC()])(image)
    assert features.shape == (1, 13, 12, 12, 12)
    torch.testing.assert_close(features[:, 1:], MINDSSC()(image))
    torch.testing.assert_close(
        features[:, :1], F.interpolate(coarse(image), size=(12, 12, 12), mode="trilinear")
    )
    with pytest.raises(ValueError, match="at least one encoder"):
        FeatureStack([])


def test_encoder_names_what_is_wrong():
    with pytest.raises(ValueError, match=r"one of \('none', .*got 'tanh'"):
        FeatureEncoder(nn.Identity(), normalisation="tanh")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="scale must be above 0"):
        FeatureEncoder(nn.Identity(), scale=0)


def test_an_image_that_the_network_cannot_take():
    deep = {**UNET, "channels": [4, 4, 4, 4], "strides": [2, 2, 2]}
    image = torch.randn(1, 1, 12, 12, 12)
    with pytest.raises(EncoderError, match=r"cannot take an image of .*divisor, which is 1 "):
        FeatureEncoder(monai_network("UNet", deep))(image)
    assert FeatureEncoder(monai_network("UNet", deep), divisor=8)(image).shape[2:] == (12, 12, 12)


# Encoders of any stride in a RegistrationNet


@pytest.mark.parametrize("stride", [2, (4, 1, 2)])
def test_a_strided_encoder_registers_on_the_grid_of_the_images(stride):
    shape, shift = (48, 24, 28), torch.tensor([[4.0, -1.0, 2.0]])
    moving = F.avg_pool3d(torch.randn(1, 1, *shape), 9, 1, 4)
    moving = moving / moving.std()
    fixed = torch.roll(moving, (-4, 1, -2), (2, 3, 4))
    encoder = nn.AvgPool3d(stride)
    net = RegistrationNet(encoder, VoxelOptLayer(levels=3))
    solution = net.solve(fixed, moving)
    u, inverse, inside = solution.displacement, solution.inverse, (..., *[slice(6, -6)] * 3)
    torch.testing.assert_close(u[inside].mean((2, 3, 4)), shift, atol=0.4, rtol=0)
    torch.testing.assert_close(net(fixed, moving), u)
    assert inverse is not None and inverse.shape == u.shape
    assert compose(u, inverse)[inside].abs().mean() < 0.1 * u[inside].abs().mean()
    # The levels stay on the features' grids.
    assert solution.levels[-1].shape == encoder(fixed).shape[2:]
    assert solution.entropy[-1].shape[2:] == encoder(fixed).shape[2:]


def test_masks_and_starts_go_to_the_grid_of_the_features(smooth_velocity):
    fixed, moving = torch.randn(2, 1, 1, 16, 16, 16)
    encoder, layer = nn.AvgPool3d(2), VoxelOptLayer(levels=2)
    start = smooth_velocity((16, 16, 16)).float()
    mask = torch.ones(1, 1, 16, 16, 16, dtype=torch.bool)
    mask[:, :, :6] = False
    net = RegistrationNet(encoder, layer)
    u = net(fixed, moving, fixed_mask=mask, moving_mask=mask, initial_displacement=start)
    coarse = F.avg_pool3d(mask.float(), 2)
    expected = layer(
        encoder(fixed),
        encoder(moving),
        fixed_mask=coarse,
        moving_mask=coarse,
        initial_displacement=resize_displacement(start, (8, 8, 8)),
    )
    torch.testing.assert_close(u, resize_displacement(expected, (16, 16, 16)))
