import json
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from surface_distance import lookup_tables

from voxelopt_layers import jacobian_determinant
from voxelopt_train.errors import InputError
from voxelopt_train.label_metrics import dice_per_label, hd95_per_label
from voxelopt_train.metrics import evaluate, folds, sd_log_jacobian, sd_log_jacobian_strict

SPACING = (1.0, 2.0, 3.5)


def blob(seed: int, shape=(12, 11, 10)) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.8)
    return (noise > np.quantile(noise, 0.8)).astype(np.int32)


def surface(mask: np.ndarray, spacing) -> tuple[np.ndarray, np.ndarray]:
    """Corners of voxels with both inside and outside around them, and the area cut there."""
    padded = np.pad(mask, 1)
    n = [s - 1 for s in padded.shape]
    code = np.zeros(n, int)
    for bit, (i, j, k) in enumerate(np.ndindex(2, 2, 2)):
        code += padded[i : i + n[0], j : j + n[1], k : k + n[2]] << (7 - bit)
    points = np.argwhere((code > 0) & (code < 255))
    areas = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    return points * np.asarray(spacing), areas[code[tuple(points.T)]]


def naive_hd95(a: np.ndarray, b: np.ndarray, spacing, weighted: bool = True) -> float:
    (p, area_p), (q, area_q) = surface(a, spacing), surface(b, spacing)
    gaps = cdist(p, q)
    directed = []
    for distance, area in ((gaps.min(1), area_p), (gaps.min(0), area_q)):
        order = np.argsort(distance, kind="stable")
        share = np.cumsum(area[order] if weighted else np.ones_like(area))
        directed.append(distance[order][np.searchsorted(share / share[-1], 0.95)])
    return max(directed)


@pytest.mark.parametrize("seed", range(4))
def test_hd95_is_the_brute_force_one_over_surface_area(seed):
    fixed, warped = blob(seed), blob(seed + 10)
    expected = naive_hd95(fixed, warped, SPACING)
    assert hd95_per_label(fixed, fixed, warped, [1], SPACING)[1] == pytest.approx(expected)
    in_voxels = hd95_per_label(fixed, fixed, warped, [1], SPACING, "learn2reg")[1]
    assert in_voxels == pytest.approx(naive_hd95(fixed, warped, (1, 1, 1)))


def test_hd95_weighs_by_area_and_not_by_count():
    # A plate and a crumb far from it, that has 8 of 136 corners (6 %) but 2 % of the surface.
    fixed = np.zeros((24, 11, 11), np.int32)
    fixed[3, 2:9, 2:9] = 1
    warped = fixed.copy()
    warped[20, 5, 5] = 1
    assert naive_hd95(fixed, warped, (1, 1, 1), weighted=False) > 15
    assert hd95_per_label(fixed, fixed, warped, [1], (1, 1, 1))[1] == 0


def test_hd95_of_a_shifted_box_is_the_shift_in_mm_wherever_it_lies():
    for corner in ((0, 0, 0), (9, 30, 25)):
        fixed, warped = np.zeros((2, 20, 40, 35), np.int32)
        x, y, z = corner
        fixed[x : x + 6, y : y + 6, z : z + 6] = 7
        warped[x : x + 6, y + 3 : y + 9, z : z + 6] = 7
        hd95 = hd95_per_label(fixed, fixed, warped, [7], SPACING)
        assert hd95 == {7: pytest.approx(6.0)}


def test_dice_is_the_naive_one():
    generator = np.random.default_rng(0)
    fixed, warped = generator.integers(0, 5, (2, 8, 7, 6))
    expected = {
        k: 2 * ((fixed == k) & (warped == k)).sum() / ((fixed == k).sum() + (warped == k).sum())
        for k in (1, 2, 3, 4)
    }
    assert dice_per_label(fixed, fixed, warped, [1, 2, 3, 4]) == pytest.approx(expected)


def missing_labels() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """1 is everywhere, 2 vanished in warping, 3 is not in fixed, 4 not in moving, 5 nowhere."""
    fixed, moving, warped = np.zeros((3, 12, 10, 10), np.int32)
    for volume in (fixed, moving, warped):
        volume[1:4, 1:4, 1:4] = 1
    fixed[6:9, 1:4, 1:4] = 2
    moving[7:10, 1:4, 1:4] = 2
    moving[1:4, 6:9, 6:9] = warped[1:4, 6:9, 6:9] = 3
    fixed[6:9, 6:9, 6:9] = 4
    return fixed, moving, warped


def test_missing_labels_in_the_protocol_of_the_paper():
    fixed, moving, warped = missing_labels()
    result = evaluate(fixed, moving, warped, None, SPACING, "voxelopt", labels=range(1, 6))
    assert result.dice == {1: 1, 2: 0, 3: 0, 4: 0, 5: 0}
    assert result.mean_dice == pytest.approx(1 / 5)
    assert result.hd95[1] == 0
    # The unwarped label 2 stands in for the one that vanished.
    assert result.hd95[2] == pytest.approx(naive_hd95(fixed == 2, moving == 2, SPACING)) == 1.0
    assert all(math.isnan(result.hd95[k]) for k in (3, 4, 5))
    assert (result.mean_hd95, result.hd95_unit) == (0.5, "mm")


def test_missing_labels_in_the_protocol_of_learn2reg():
    fixed, moving, warped = missing_labels()
    result = evaluate(fixed, moving, warped, None, SPACING, "learn2reg", labels=range(1, 6))
    assert (result.dice[1], result.dice[2]) == (1, 0)
    assert all(math.isnan(result.dice[k]) and math.isnan(result.hd95[k]) for k in (3, 4, 5))
    assert result.mean_dice == 0.5
    assert (result.hd95[1], result.hd95[2]) == (0, math.inf)
    assert result.hd95_unit == "voxels"
    text = json.dumps(result.as_dict(), allow_nan=False)
    assert json.loads(text)["dice"] == {"1": 1.0, "2": 0.0, "3": None, "4": None, "5": None}


def test_labels_default_to_all_of_fixed_and_moving():
    fixed, moving, warped = missing_labels()
    assert list(evaluate(fixed, moving, warped, None, SPACING).dice) == [1, 2, 3, 4]


def test_log_jacobian_measures_are_the_naive_ones():
    u = torch.randn(1, 3, 10, 9, 8, generator=torch.Generator().manual_seed(0))
    gradient = np.stack([np.stack(np.gradient(c), -1) for c in u[0].numpy()], -2) + np.eye(3)
    everywhere = np.linalg.det(gradient)
    inside = everywhere[2:-2, 2:-2, 2:-2]
    jacobian = jacobian_determinant(u)
    assert folds(jacobian) == pytest.approx((everywhere <= 0).mean())
    assert 0.1 < folds(jacobian) < 0.9
    assert sd_log_jacobian(jacobian) == pytest.approx(
        np.log(np.clip(inside + 3, 1e-8, 1e8)).std(), rel=1e-4
    )
    assert sd_log_jacobian_strict(jacobian) == pytest.approx(
        np.log(inside.clip(1e-3)).std(), rel=1e-4
    )


def test_protocols_clip_the_jacobian_differently_and_crop_two_voxels():
    jacobian = torch.ones(1, 8, 8, 8)
    jacobian[:, :2] = -5  # cropped away, but folds all the same
    assert sd_log_jacobian(jacobian) == sd_log_jacobian_strict(jacobian) == 0
    assert folds(jacobian) == 0.25
    jacobian[:, 2:4] = -5  # half of what is left
    assert folds(jacobian) == 0.5
    assert sd_log_jacobian(jacobian) == pytest.approx(math.log(4 / 1e-8) / 2)
    assert sd_log_jacobian(jacobian, "learn2reg") == pytest.approx(math.log(4 / 1e-9) / 2)
    assert sd_log_jacobian_strict(jacobian) == pytest.approx(math.log(1e3) / 2)


def test_thin_volumes_are_cropped_less():
    assert folds(torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2)) == 0.5
    assert folds(-torch.ones(1, 9, 4, 1)) == 1


def test_evaluate_reports_the_displacement_in_mm():
    labels = torch.from_numpy(blob(0))
    u = torch.zeros(1, 3, *labels.shape)
    u[:, 1], u[:, 2] = 2.0, -1.0
    result = evaluate(labels, labels, labels, u, (1.0, 1.5, 4.0))
    assert result.mean_displacement_mm == pytest.approx(5.0)
    assert (result.folds, result.sd_log_jacobian, result.mean_dice) == (0, 0, 1)
    assert evaluate(labels, labels, labels, None, (1, 1, 1)).folds is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"warped_labels": np.zeros((4, 4, 4), int)}, "warped labels have shape"),
        ({"moving_labels": np.zeros((12, 11, 10))}, "whole numbers"),
        ({"fixed_labels": np.zeros((12, 11), int)}, "3-D"),
        ({"displacement": torch.zeros(1, 12, 11, 10, 3)}, "displacement has shape"),
        ({"spacing_mm": (1, 1)}, "spacing"),
        ({"protocol": "other"}, "must be one of voxelopt, learn2reg"),
        (
            dict.fromkeys(("fixed_labels", "moving_labels"), np.zeros((12, 11, 10), int)),
            "only back",
        ),
    ],
)
def test_bad_input_is_told_in_one_sentence(change, message):
    labels = blob(0)
    good = {
        "fixed_labels": labels, "moving_labels": labels, "warped_labels": labels,
        "displacement": None, "spacing_mm": SPACING, "protocol": "voxelopt",
    }  # fmt: skip
    with pytest.raises(InputError, match=message):
        evaluate(**{**good, **change})
