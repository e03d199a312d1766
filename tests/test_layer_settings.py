"""What the layer is given: each setting counts, and what it cannot take is named."""

from __future__ import annotations

import pytest
import torch

from textures import pair
from voxelopt_layers import VoxelOptLayer, warp
from voxelopt_layers.presets import PRESETS


def test_released_preset_has_the_couplings_of_the_released_code():
    theta = PRESETS["released"]["theta"]
    assert [1 / (2 * t) for t in theta] == pytest.approx([0, 0.003, 0.01, 0.03, 0.1, 0.3, 1])


@pytest.mark.parametrize(
    "options",
    [
        {"search_radius": 2}, {"adaptive": False}, {"cost_filtering": False}, {"levels": 1},
        {"dissimilarity": "l2"}, {"dissimilarity": "cosine"}, {"dissimilarity": "ncc"},
        {"dissimilarity": lambda f, m: (f - m).abs().sum(1)}, {"theta": (100.0, 10.0, 1.0)},
        {"filter_radius": 1, "filter_passes": 3}, {"integration_steps": 0}, {"boundary": "zeros"},
        {"dissimilarity": "lncc"}, {"dissimilarity": {"lncc": 1.0, "l1": 0.5}}, {"refinements": 2},
        {"dissimilarity": "mind"}, {"coarse_dissimilarity": "lncc"}, {"sigma_smoothing": 1.0},
        {"warps_per_level": 3}, {"beta": 0.01}, {"alpha": 4.0}, {"sigma_range": (0.1, 0.5)},
    ],
)  # fmt: skip
def test_every_choice_has_an_effect_and_still_registers(options, smooth_velocity):
    fixed, moving, _ = pair((24, 24, 20), smooth_velocity)
    default, changed = VoxelOptLayer(), VoxelOptLayer(**options)
    u = changed(fixed, moving)
    assert not torch.allclose(u, default(fixed, moving), atol=1e-4)
    error = (fixed - warp(moving, u, boundary="border")).abs().mean()
    assert error < 0.95 * (fixed - moving).abs().mean()


def test_coarse_levels_may_have_a_dissimilarity_of_their_own(smooth_velocity):
    fixed, moving, _ = pair((24, 22, 20), smooth_velocity)
    seen = []

    def dissimilarity(name):
        def l1(f, m):
            seen.append((name, f.shape[2:]))
            return (f - m).abs().mean(1)

        return l1

    fine, coarse = dissimilarity("fine"), dissimilarity("coarse")
    layer = VoxelOptLayer(levels=3, dissimilarity=fine, coarse_dissimilarity=coarse)
    u = layer(fixed, moving)
    assert [*dict.fromkeys(seen)] == [
        ("coarse", (6, 6, 5)), ("coarse", (12, 11, 10)), ("fine", (24, 22, 20)),
    ]  # fmt: skip
    torch.testing.assert_close(u, VoxelOptLayer(levels=3)(fixed, moving), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 0}, "levels must be a whole number of at least 1, got 0"),
        ({"theta": ()}, "must be above 0"),
        ({"beta": 0}, "must be above 0"),
        ({"assignment": "fuzzy"}, "assignment must be one of"),
        ({"gradient": "none"}, "gradient must be one of"),
        (
            {"assignment": "hard", "learnable": ["temperature"]},
            "'temperature' cannot be learned with these settings",
        ),
        ({"assignment": "soft", "learnable": ["gamma"]}, "'gamma' cannot be learned"),
        ({"filter_radius": 0}, "filter_radius"),
        ({"dissimilarity": "l3"}, "dissimilarity must be one of"),
        ({"coarse_dissimilarity": {}}, "coarse_dissimilarity must be one of"),
        ({"sigma_smoothing": -1.0}, "sigma_smoothing must be from 0 to 100"),
        ({"theta": 5.0}, "theta must be a sequence"),
        ({"levels": 2.5}, "levels must be a whole number"),
        ({"filter_radius": 2.5}, "filter_radius must be a whole number from 1 to 100"),
        ({"probability_floor": 1.5}, "probability_floor must lie in"),
        ({"refinements": -1}, "refinements must be a whole number of at least 0, got -1"),
        ({"dissimilarity": {"lncc": -1.0}}, "weights of dissimilarity must be numbers above 0"),
        ({"sigma_range": (0.5, 0.1)}, "sigma_range must go from low to high"),
        ({"learnable": "gamma"}, "'gamma' cannot be learned"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        VoxelOptLayer(**options)


IMAGE, FIELD = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
MASK = torch.ones(1, 1, 8, 8)
ELSEWHERE = torch.device("meta")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"fixed": IMAGE.numpy()}, "fixed features must be .* of floating point, got ndarray"),
        ({"moving": IMAGE.int()}, "moving features must be .* of floating point, got torch.int32"),
        ({"fixed": IMAGE + 0j}, "of floating point, got torch.complex64"),
        ({"moving": torch.zeros(1, 2, 8, 9)}, r"one shape.*got \(1, 2, 8, 8\) and \(1, 2, 8, 9\)"),
        ({"fixed": IMAGE[0], "moving": IMAGE[0]}, r"must both be \(B, C, H, W\) or"),
        ({"fixed": IMAGE[:0], "moving": IMAGE[:0]}, r"no axis of length 0, got \(0, 2, 8, 8\)"),
        ({"fixed": IMAGE[:, :0], "moving": IMAGE[:, :0]}, r"no axis of length 0, got \(1, 0, 8, 8"),
        ({"moving": IMAGE.to(ELSEWHERE)}, "moving features must be on cpu, .* got meta"),
        ({"fixed_mask": IMAGE}, r"fixed_mask must be \(1, 1, 8, 8\), got \(1, 2, 8, 8\)"),
        ({"moving_mask": MASK[:, 0]}, r"moving_mask must be \(1, 1, 8, 8\), got \(1, 8, 8\)"),
        ({"moving_mask": MASK.numpy()}, "moving_mask must be .* real numbers, got ndarray"),
        ({"fixed_mask": MASK.to(ELSEWHERE)}, "fixed_mask must be on cpu, .* got meta"),
        ({"initial_displacement": FIELD[..., :4]}, r"must be \(1, 2, 8, 8\), got \(1, 2, 8, 4\)"),
        ({"initial_displacement": FIELD.movedim(1, -1)}, r"must have shape \(B, 2, H, W\) or"),
        ({"initial_displacement": FIELD.numpy()}, "must be a tensor of real numbers, got ndarray"),
        ({"initial_displacement": FIELD + 0j}, "real numbers, got torch.complex64"),
        ({"initial_displacement": FIELD.to(ELSEWHERE)}, "must be on cpu, .* got meta"),
    ],
)
def test_bad_inputs_are_named(inputs, message):
    with pytest.raises((TypeError, ValueError), match=message):
        VoxelOptLayer()(**{"fixed": IMAGE, "moving": IMAGE, **inputs})


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match="preset must be one of"):
        VoxelOptLayer.from_preset("fast")
