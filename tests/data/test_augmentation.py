"""Augmentation: what moves together, what stays, and by how many millimetres."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from voxelopt_layers import jacobian_determinant
from voxelopt_layers.displacement import identity_coordinates
from voxelopt_train.data.augmentation import augment, choose_augmentation
from voxelopt_train.data.dataset import PairDataset
from voxelopt_train.data.deformation import RandDiffeomorphismd

SPACING_MM = 6.0


def test_labels_keypoints_and_affine_follow_the_augmentation():
    shape, point = (30, 28, 26), torch.tensor([[17.0, 12.0, 14.0]])
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij"), -1)
    distance = (grid - point).norm(dim=-1)
    volumes = {
        "name": "blob",
        "image": torch.exp(-((distance / 3) ** 2))[None],
        "labels": (distance < 4.5).byte()[None],
        "affine": torch.tensor(np.diag([-2.0, 3.0, 4.0, 1.0])),
        "keypoints": point,
    }
    before = {key: v.clone() for key, v in volumes.items() if isinstance(v, Tensor)}
    world = volumes["affine"] @ torch.tensor([17.0, 12, 14, 1], dtype=torch.float64)
    shifts = []
    mild = choose_augmentation("mild", SPACING_MM)
    assert mild is not None
    for seed in range(4):
        after = augment(volumes, mild, seed)
        assert after["labels"].dtype == torch.uint8 and after["image"].dtype == torch.float32
        moved = after["keypoints"][0]
        for weights in ((after["image"][0] - after["image"].min()).square(), after["labels"][0]):
            centroid = (grid * weights[..., None]).sum((0, 1, 2)) / weights.sum()
            torch.testing.assert_close(centroid.float(), moved, atol=0.25, rtol=0)
        homogeneous = torch.cat([moved.double(), torch.ones(1, dtype=torch.float64)])
        torch.testing.assert_close(after["affine"] @ homogeneous, world, atol=1e-4, rtol=0)
        shifts.append(float((moved - point).norm()))
    assert max(shifts) > 1
    assert all(torch.equal(volumes[key], before[key]) for key in before)  # the cache stays


@pytest.mark.parametrize("strength", ["mild", "strong"])
def test_labels_stay_on_their_structures(strength):
    """Dice of the labels and of the structure as its brightness shows it."""
    labels = torch.zeros(1, 30, 28, 26, dtype=torch.uint8)
    labels[:, 8:22, 6:16, 9:20] = 3
    volumes = {"image": 0.1 + 0.8 * (labels > 0), "labels": labels, "affine": torch.eye(4)}
    augmentation = choose_augmentation(strength, SPACING_MM)
    assert augmentation is not None
    changed = 0
    for seed in range(6):
        after = augment(volumes, augmentation, seed)
        assert set(after["labels"].unique().tolist()) == {0, 3}
        inside, image = after["labels"] > 0, after["image"]
        threshold = (image[inside].mean() + image[~inside].mean()) / 2
        overlap = (
            2 * (inside & (image > threshold)).sum() / (inside.sum() + (image > threshold).sum())
        )
        assert overlap > 0.93
        changed += not torch.equal(after["labels"], labels)
        again = augment(volumes, augmentation, seed)
        assert torch.equal(after["image"], again["image"])
    assert changed == 6
    assert choose_augmentation("none", SPACING_MM) is None
    with pytest.raises(ValueError, match="augmentation must be none, mild, strong or a function"):
        choose_augmentation("wild", SPACING_MM)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("spacing_mm", [4.0, 8.0])
def test_strong_deforms_by_the_same_millimetres_on_any_grid(spacing_mm):
    """Labels that hold their own coordinate tell where each voxel came from."""
    n = int(320 / spacing_mm)
    ramp = torch.arange(n, dtype=torch.uint8)[:, None, None].expand(n, n, n)[None]
    volumes = {"image": ramp / n, "labels": ramp, "affine": torch.eye(4)}
    strong = choose_augmentation("strong", spacing_mm)
    assert strong is not None
    interior = slice(n // 4, 3 * n // 4)
    axes = torch.meshgrid(*[torch.arange(n // 4, 3 * n // 4).double()] * 3, indexing="ij")
    pose = torch.stack([torch.ones_like(axes[0]), *axes], -1).reshape(-1, 4)
    deviations_mm = []
    for seed in range(8):
        x = augment(volumes, strong, seed)["labels"][0, interior, interior, interior].double()
        x = x.reshape(-1, 1)
        rest = x - pose @ torch.linalg.lstsq(pose, x).solution  # what no affine explains
        deviations_mm.append(float(rest.std()) * spacing_mm)
    elastic = [deviation for deviation in deviations_mm if deviation > 3]
    assert 3 <= len(elastic) < 8  # seven in ten, and rounding alone is below 3 mm
    assert 4 < sum(elastic) / len(elastic) < 12


def test_a_random_diffeomorphism_moves_all_alike_and_folds_nowhere():
    """Volumes that hold their own coordinates tell where each voxel came from."""
    coordinates = identity_coordinates(torch.empty(1, 1, 44, 40, 36))
    volumes = {"image": coordinates[0], "labels": (coordinates[0] * 100).round().int()}
    deform = RandDiffeomorphismd(("image", "labels", "absent"), 5.0, 1.0, (24.0, 36.0), (9.0, 9.0))
    lengths_mm = []
    for seed in range(5):
        deform.set_random_state(seed)
        after = deform(volumes)
        assert (after["labels"] / 100 - after["image"]).abs().max() < 0.51
        displacement = after["image"][None] - coordinates
        # Near the border, what would come from outside repeats the border.
        inner = displacement[:, :, 10:-10, 10:-10, 10:-10]
        assert jacobian_determinant(inner).min() > 0
        lengths_mm.append(float(inner.square().mean().sqrt()) * 5.0)
        deform.set_random_state(seed)
        assert torch.equal(deform(volumes)["image"], after["image"])
    assert 6 < sum(lengths_mm) / len(lengths_mm) < 12


@pytest.mark.parametrize("shape", [(1, 9, 5), (64, 2, 3)])
def test_thin_volumes_can_be_deformed(shape):
    deform = RandDiffeomorphismd(("image",), 5.0, 1.0, (24.0, 36.0), (5.0, 12.0))
    image = torch.rand(1, *shape)
    moved = deform({"image": image})["image"]
    assert moved.shape == image.shape and image.min() <= moved.min() and moved.max() <= image.max()


def test_workers_deform_after_the_kernels_have_run_here():
    """A forked process has none of its parent's OpenMP threads."""
    volumes = {"image": torch.rand(1, 20, 18, 16), "labels": torch.ones(1, 20, 18, 16).byte()}
    subjects = [{**volumes, "name": name, "affine": torch.eye(4)} for name in "ab"]
    deform = RandDiffeomorphismd(("image", "labels"), 8.0, 1.0, (24.0, 36.0), (9.0, 9.0))
    pairs = PairDataset(subjects, [(0, 1), (1, 0)], 8.0, deform)
    here = pairs[0]["fixed"]
    loader = DataLoader(pairs, batch_size=None, num_workers=1, timeout=60)
    assert torch.equal(next(iter(loader))["fixed"], here)
