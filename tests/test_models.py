"""Features with no training against naive references, and the network made of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from voxelopt_layers import VoxelOptLayer, exponentiate, warp
from voxelopt_models import MINDSSC, RawIntensity, RegistrationNet, mind_ssc


def naive_mind(image: np.ndarray, radius: int, dilation: int) -> np.ndarray:
    """Patch by patch, as in the paper, with the border repeated."""
    d = image.ndim
    steps = [np.eye(d, dtype=int)[a] * s * dilation for a in range(d) for s in (-1, 1)]
    pairs = [(a, b) for a, b in itertools.combinations(steps, 2) if (a @ b) == 0]
    out = np.zeros((len(pairs), *image.shape))
    last = np.array(image.shape) - 1
    patch = list(itertools.product(range(-radius, radius + 1), repeat=d))
    for x in np.ndindex(image.shape):
        for n, (a, b) in enumerate(pairs):
            total = 0.0
            for p in patch:
                centre = np.clip(np.array(x) + p, 0, last)
                at = [image[tuple(np.clip(centre + s, 0, last))] for s in (a, b)]
                total += (at[0] - at[1]) ** 2
            out[(n, *x)] = total / len(patch)
    out -= out.min(0)
    variance = out.mean(0)
    variance = variance.clip(1e-3 * variance.mean(), 1e3 * variance.mean())
    return np.exp(-out / variance)


@pytest.mark.parametrize(("shape", "channels"), [((7, 6), 4), ((5, 6, 4), 12)])
def test_mind_is_the_self_similarity_of_patches(shape, channels):
    image = torch.randn(2, 1, *shape, dtype=torch.float64)
    descriptors = mind_ssc(image, radius=1, dilation=2)
    assert descriptors.shape == (2, channels, *shape)
    for b in range(2):
        expected = naive_mind(image[b, 0].numpy(), 1, 2)
        np.testing.assert_allclose(descriptors[b].numpy(), expected, atol=1e-9)


def test_mind_ignores_scale_and_offset_and_survives_a_constant_image():
    image = torch.randn(1, 1, 9, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(mind_ssc(image), mind_ssc(-300 * image + 40))
    leaf = torch.full((1, 1, 6, 6), 3.0, requires_grad=True)
    descriptors = mind_ssc(leaf)
    assert (descriptors == 1).all()
    descriptors.sum().backward()
    assert leaf.grad is not None and leaf.grad.isfinite().all()
    with pytest.raises(ValueError, match=r"got \(1, 2, 6, 6\)"):
        mind_ssc(torch.zeros(1, 2, 6, 6))


def test_mind_takes_any_unit_and_the_rounding_of_a_warp_for_nothing():
    image = torch.randn(2, 1, 9, 8, 7)
    for unit in (1e-9, 1e-30, 1e30):  # the first makes m^2/s of um^2/ms
        torch.testing.assert_close(mind_ssc(unit * image), mind_ssc(image), atol=1e-4, rtol=0)
    constant = torch.full((1, 1, 16, 16), 0.7)
    noisy = constant * (1 + 1e-7 * torch.randn(1, 1, 16, 16))
    torch.testing.assert_close(mind_ssc(noisy), mind_ssc(constant), atol=1e-3, rtol=0)
    assert VoxelOptLayer(dissimilarity="mind")(constant, constant).abs().max() < 1e-3


def test_mind_window_cuts_off_what_is_outside():
    image = 100 * torch.randn(1, 1, 8, 8, 8)
    windowed = torch.nn.Sequential(RawIntensity(window=(-50, 50)), MINDSSC())
    torch.testing.assert_close(windowed(image), mind_ssc(image.clamp(-50, 50)))


def test_raw_intensities_go_from_0_to_1():
    image = torch.tensor([-1000.0, -800.0, -150.0, 500.0, 2000.0]).reshape(1, 1, 5, 1)
    window = RawIntensity(window=(-800, 500))(image)
    torch.testing.assert_close(window.flatten(), torch.tensor([0, 0, 0.5, 1, 1]))
    noise = torch.randn(2, 1, 40, 40)
    scaled = RawIntensity()(noise)
    torch.testing.assert_close(scaled, RawIntensity()(7 * noise + 90), atol=1e-5, rtol=0)
    low, high = np.percentile(noise[1].numpy(), (0.5, 99.5))
    expected = ((noise[1] - low) / (high - low)).clamp(0, 1)
    torch.testing.assert_close(scaled[1], expected.float(), atol=1e-5, rtol=0)
    assert (RawIntensity()(torch.full((1, 1, 4, 4), 5.0)) == 0).all()
    constant = torch.full((1, 1, 4, 4), 5.0, requires_grad=True)
    RawIntensity()(constant).sum().backward()
    assert constant.grad is not None and constant.grad.isfinite().all()
    largest = torch.tensor([-3.4e38, 0, 3.4e38]).reshape(1, 1, 3, 1)
    extremes = RawIntensity(percentiles=(0, 100))(largest)
    torch.testing.assert_close(extremes.flatten(), torch.tensor([0, 0.5, 1]))
    with pytest.raises(ValueError, match="window must go from low to high"):
        RawIntensity(window=(5, 5))


@pytest.mark.parametrize("encoder", [MINDSSC(radius=1, dilation=1), RawIntensity()])
def test_network_registers_images(encoder, smooth_velocity):
    shape = (28, 32, 24)
    moving = torch.nn.functional.avg_pool3d(torch.randn(1, 1, *shape), 3, 1, 1)
    truth = exponentiate(smooth_velocity(shape, 1.2).float())
    fixed = warp(moving, truth, boundary="border")
    net = RegistrationNet(encoder)
    u = net(fixed, moving)
    inside = (..., *[slice(4, -4)] * 3)
    assert (u - truth)[inside].norm(dim=1).mean() < 0.6 * truth[inside].norm(dim=1).mean()
    torch.testing.assert_close(net.solve(fixed, moving).displacement, u)


def test_gradients_reach_a_trainable_encoder_and_lower_the_loss():
    encoder = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    net = RegistrationNet(encoder, VoxelOptLayer(assignment="soft", temperature=0.05, levels=3))
    moving = torch.nn.functional.avg_pool2d(torch.randn(1, 1, 32, 32), 5, 1, 2) * 4
    fixed = torch.roll(moving, (2, -1), (2, 3))
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss = (warp(moving, net(fixed, moving), boundary="border") - fixed).square().mean()
        optimiser.zero_grad()
        loss.backward()
        first = next(encoder.parameters()).grad
        assert first is not None and first.norm() > 0
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


class Encoded(nn.Module):
    """An encoder that returns whatever a function makes of the image."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, image):
        return self.function(image)


IMAGE = torch.zeros(1, 1, 8, 8)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (lambda x: [x, x], "what the encoder returns must be a tensor .* got list"),
        (lambda x: {"out": x}, "what the encoder returns must be a tensor .* got dict"),
        (lambda x: x.int(), "what the encoder returns must be .* got torch.int32"),
        (lambda x: x.flatten(1), r"features of 4 axes .* got \(1, 64\)"),
        (lambda x: x.mean(2), r"features of 4 axes .* got \(1, 1, 8\)"),
        (lambda x: x.expand(2, -1, -1, -1), r"as many samples, .* got \(2, 1, 8, 8\)"),
    ],
)
def test_network_names_features_that_are_none(encoder, message):
    with pytest.raises((TypeError, ValueError), match=message):
        RegistrationNet(Encoded(encoder))(IMAGE, IMAGE)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"moving": torch.zeros(1, 1, 8, 9)}, "images must have one shape"),
        ({"fixed": IMAGE.numpy()}, "fixed image must be a tensor .* got ndarray"),
        ({"fixed_mask": IMAGE[:, 0]}, r"fixed_mask must be \(1, 1, 8, 8\), got \(1, 8, 8\)"),
        ({"moving_mask": IMAGE[..., :4]}, r"moving_mask must be \(1, 1, 8, 8\), got \(1, 1, 8, 4"),
        ({"initial_displacement": torch.zeros(1, 2, 4, 4)}, r"must be \(1, 2, 8, 8\), got"),
    ],
)
def test_network_names_inputs_that_do_not_fit(inputs, message):
    net = RegistrationNet(nn.AvgPool2d(2))
    with pytest.raises((TypeError, ValueError), match=message):
        net(**{"fixed": IMAGE, "moving": IMAGE, **inputs})


def test_network_names_parts_that_are_no_modules():
    with pytest.raises(TypeError, match=r"encoder must be a module, as MINDSSC\(\), got <class"):
        RegistrationNet(MINDSSC)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"layer must be a module, as VoxelOptLayer.*got {'levels'"):
        RegistrationNet(MINDSSC(), {"levels": 3})  # pyright: ignore[reportArgumentType]
