import numpy as np
import pytest
import torch

from voxelopt_layers import jacobian_determinant, warp
from voxelopt_train.errors import InputError
from voxelopt_train.images import Image
from voxelopt_train.phantom import ORGANS, Pair, abdomen, deformed_pair, phantom_pair

SMALL = {"shape": (28, 22, 24), "spacing_mm": 12.0}
MEDIUM = {"shape": (56, 44, 48), "spacing_mm": 6.0}


def center_mm(labels: Image, label: int) -> np.ndarray:
    index = np.argwhere(labels.data.numpy() == label).mean(axis=0)
    return labels.grid.affine[:3, :3] @ index + labels.grid.affine[:3, 3]


def mean_dice(pair: Pair) -> float:
    fixed, moving = pair.fixed_labels.data, pair.moving_labels.data
    both = [int(((fixed == k) & (moving == k)).sum()) for k in ORGANS]
    each = [int((fixed == k).sum() + (moving == k).sum()) for k in ORGANS]
    return float(np.mean([2 * b / e for b, e in zip(both, each, strict=True)]))


def test_equal_seeds_give_equal_patients_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    ct, labels = abdomen(3, **SMALL)
    again, labels_again = abdomen(3, **SMALL)
    other, _ = abdomen(4, **SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(ct.data, again.data)
    assert torch.equal(labels.data, labels_again.data)
    assert (ct.data - other.data).abs().mean() > 20
    assert ct.data.dtype == torch.float32
    assert labels.data.dtype == torch.int32


@pytest.mark.parametrize("seed", range(6))
def test_every_organ_is_there_even_on_a_coarse_grid(seed):
    _, labels = abdomen(seed, **SMALL)
    assert set(labels.data.unique().tolist()) == {0, *ORGANS}


def test_default_patient_has_plausible_volumes_and_hounsfield_units():
    ct, labels = abdomen(0)
    assert ct.grid.spacing == (3.0, 3.0, 3.0)
    milliliters = {name: float((labels.data == k).sum()) * 27 / 1000 for k, name in ORGANS.items()}
    for name, low, high in (
        ("liver", 600, 2000), ("spleen", 70, 350), ("right kidney", 80, 330),
        ("left kidney", 80, 330), ("pancreas", 25, 160), ("left adrenal gland", 1, 9),
    ):  # fmt: skip
        assert low < milliliters[name] < high, name
    for k, low, high in ((1, 95, 145), (2, 135, 215), (4, 0, 45), (6, 95, 135), (8, 120, 190)):
        assert low < ct.data[labels.data == k].median() < high, ORGANS[k]
    assert (ct.data[0, 0] < -900).all()  # air beside the patient
    assert ct.data.max() > 350  # bone


@pytest.mark.parametrize("seed", range(3))
def test_organs_lie_where_they_belong_in_ras(seed):
    _, labels = abdomen(seed, **MEDIUM)
    center = {name: center_mm(labels, k) for k, name in ORGANS.items()}
    assert center["liver"][0] > 20 and center["right kidney"][0] > 20
    assert center["spleen"][0] < -50 and center["stomach"][0] < 0
    assert center["inferior vena cava"][0] > center["aorta"][0]
    assert center["gallbladder"][1] > center["right kidney"][1] + 30
    assert center["right adrenal gland"][2] > center["right kidney"][2] + 20
    assert center["esophagus"][2] > center["pancreas"][2] + 30


def test_one_seed_is_one_patient_at_any_resolution():
    _, medium = abdomen(5, **MEDIUM)
    _, fine = abdomen(5, shape=(84, 66, 72), spacing_mm=4.0)
    for label in (1, 2, 3, 6, 7):
        assert np.linalg.norm(center_mm(medium, label) - center_mm(fine, label)) < 2.5


def test_two_patients_overlap_in_part():
    dice = [mean_dice(phantom_pair(seed, **MEDIUM)) for seed in range(4)]
    assert 0.3 < np.mean(dice) < 0.55
    assert min(dice) > 0.2 and max(dice) < 0.65


@pytest.mark.parametrize("seed", range(3))
def test_deformed_pair_has_its_true_displacement(seed):
    pair = deformed_pair(seed, max_displacement_mm=24.0, **MEDIUM)
    u = pair.displacement
    assert u is not None and u.shape == (1, 3, 56, 44, 48)
    warped = warp(pair.moving.data[None, None], u, boundary="border")[0, 0]
    torch.testing.assert_close(warped, pair.fixed.data)
    labels = warp(pair.moving_labels.data[None, None], u, "nearest", "border")[0, 0]
    assert torch.equal(labels, pair.fixed_labels.data)
    assert abs(float(u.norm(dim=1).max()) * 6 - 24) < 1e-3
    assert jacobian_determinant(u).min() > 0
    assert u[:, :, 0].abs().max() < 1e-3 and u[..., -1].abs().max() < 1e-3
    assert mean_dice(pair) < 0.85


@pytest.mark.parametrize(
    "arguments", [{"shape": (20, 20)}, {"shape": (20, 1, 20)}, {"spacing_mm": 0.0}]
)
def test_impossible_grids_are_refused(arguments):
    with pytest.raises(InputError, match="at least 2 voxels"):
        abdomen(0, **arguments)


def test_folding_displacement_is_refused():
    with pytest.raises(InputError, match="folds"):
        deformed_pair(0, max_displacement_mm=300.0, **SMALL)
