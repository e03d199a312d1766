"""Labels with smooth boundaries: against a plain reference, against ANTs, and against shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from memory import TrackMemory
from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid
from voxelopt_train.images import Image, write_nifti
from voxelopt_train.label_resampling import resample_labels, vanished
from voxelopt_train.resampling import mapped_slabs, resample, stages_between
from voxelopt_train.transforms import maps, write_affine, write_displacement_field
from worlds import PAIRS, PLAIN, make_grid, smooth_noise, some_affine, some_field


def patches(grid: Grid, contrast: float = 1.5) -> Image:
    """A handful of labels, each in several pieces."""
    levels = (smooth_noise(grid.shape, 1.5, 0) * contrast).round()
    return Image(torch.from_numpy(levels - levels.min()).int(), grid, "labels")


def world_points(grid: Grid) -> np.ndarray:
    indices = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"))
    return (
        np.einsum("ij,jxyz->ixyz", grid.affine[:3, :3], indices)
        + grid.affine[:3, 3, None, None, None]
    )


def ball(points: np.ndarray, radius: float = 13.0) -> np.ndarray:
    return (np.square(points / np.array([1.2, 0.8, 1])[:, None, None, None])).sum(0) < radius**2


def shell(points: np.ndarray) -> np.ndarray:
    return np.abs(np.linalg.norm(points, axis=0) - 12) < 1.5


def as_labels(mask: np.ndarray, grid: Grid) -> Image:
    return Image(torch.from_numpy(mask).int(), grid, "labels")


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("sigma", [0, 0.45, 1.3])
@pytest.mark.parametrize("pair", ["anisotropic", "all together"])
def test_agrees_with_the_largest_of_all_smoothed_indicators(pair, sigma):
    fixed, moving_grid = PAIRS[pair]
    labels, chain = patches(moving_grid), [some_field(fixed), some_affine()]
    ((_, points),) = mapped_slabs(fixed, stages_between(fixed, chain, moving_grid))
    at = points[0].numpy()
    values = np.unique(labels.data)
    assert len(values) > 5
    indicators = [(labels.data.numpy() == value).astype(float) for value in values]
    smooth = [gaussian_filter(indicator, sigma, mode="nearest") for indicator in indicators]
    weights = [map_coordinates(image, at, order=1, mode="nearest") for image in smooth]
    expected = values[np.argmax(weights, axis=0)]
    size = np.array(moving_grid.shape).reshape(3, 1, 1, 1)
    expected[((at < -0.5) | (at >= size - 0.5)).any(axis=0)] = 0
    ours = resample_labels(labels, fixed, chain, sigma)
    assert ours.data.dtype == torch.int32 and ours.grid is fixed
    # Sums of the same numbers in float32 and float64 may tip where two labels are equal.
    assert (ours.data.numpy() == expected).mean() > 0.999
    assert {*ours.data.unique().tolist()} <= {0, *values.tolist()}


@pytest.mark.parametrize("spacing", [(2, 2, 2), (1.2, 1.2, 4)])
def test_boundaries_come_nearer_to_the_true_shape_than_by_nearest_neighbour(spacing):
    coarse = make_grid(tuple(int(60 / s) for s in spacing), spacing)
    fine, affine = make_grid((56, 56, 56), (1, 1, 1)), some_affine()
    there = world_points(fine)
    truth_at = affine(torch.from_numpy(there)[None])[0].numpy()
    for shape in (ball, shell):
        labels, truth = as_labels(shape(world_points(coarse)), coarse), shape(truth_at)
        nearest = resample(labels, fine, [affine], "nearest").data.numpy() > 0
        smooth = resample_labels(labels, fine, [affine]).data.numpy() > 0
        assert 1 - overlap(smooth, truth) < 0.85 * (1 - overlap(nearest, truth))
        assert abs(smooth.sum() / truth.sum() - 1) < 0.1


def test_a_grid_of_its_own_keeps_all_labels_as_they_are():
    """Even noise, where each voxel is a label of its own kind among others."""
    noise = np.random.default_rng(0).integers(0, 9, (16, 14, 12), dtype=np.int32)
    noise[8, 8, 8] = 99
    labels = Image(torch.from_numpy(noise), make_grid((16, 14, 12), (1, 2, 3)), "labels")
    assert torch.equal(resample_labels(labels, labels.grid).data, labels.data)


def test_what_is_thin_stays_by_default_and_goes_with_a_wide_gaussian():
    mask = np.zeros((24, 24, 24), np.int32)
    mask[4:20, 4:20, 12] = 5  # a plate of one voxel
    mask[2:8, 2:8, 2:8] = 6
    grid = make_grid((24, 24, 24), (1, 1, 1))
    labels = Image(torch.from_numpy(mask), grid, "labels")
    fine = make_grid((80, 80, 80), (0.3, 0.3, 0.3))
    default = resample_labels(labels, fine)
    assert vanished(labels, default) == []
    volume = 0.3**3 * (default.data == 5).sum()
    assert 0.8 * 16 * 16 < volume < 16 * 16
    middle = (default.data[30:50, 30:50] == 5).sum() * 0.3 / 400
    assert 0.85 < middle < 0.95  # of a voxel: its thickness, as far as steps of 0.3 tell
    wide = resample_labels(labels, fine, sigma_voxels=0.86)
    assert vanished(labels, wide) == [5] and (wide.data == 6).any()


def test_a_label_reaches_the_outer_voxel_edge_and_ends_there():
    labels = Image(torch.full((4, 4, 4), 7, dtype=torch.int32), Grid((4, 4, 4), np.eye(4)), "a")
    affine = np.diag([0.25, 1, 1, 1])
    affine[0, 3] = -0.875
    line = resample_labels(labels, Grid((22, 1, 1), affine), sigma_voxels=1.0).data.flatten()
    assert line.tolist() == [0] * 2 + [7] * 16 + [0] * 4


def test_large_and_negative_labels_stay_exact():
    values = torch.tensor([0, 2**24 + 1, -614454277], dtype=torch.int32).reshape(3, 1, 1)
    labels = Image(values, Grid((3, 1, 1), np.eye(4)), "labels")
    assert torch.equal(resample_labels(labels, Grid((3, 1, 1), np.eye(4))).data, values)


def test_slabs_join_seamlessly_and_progress_names_each_label(monkeypatch):
    fixed, moving_grid = PAIRS["oblique moving"]
    labels, chain, seen = patches(moving_grid), [some_field(fixed), some_affine()], []
    whole = resample_labels(labels, fixed, chain, progress=seen.append).data
    assert seen == [f"label {value}" for value in labels.data.unique().tolist()]
    monkeypatch.setattr(maps, "_SLAB_VOXELS", 5 * fixed.shape[1] * fixed.shape[2])
    assert torch.equal(resample_labels(labels, fixed, chain).data, whole)


def test_many_labels_take_no_more_memory_than_few():
    few = np.zeros((32, 32, 32), np.int32)
    few[::2] = 1
    grid, peaks = make_grid((32, 32, 32), (1, 1, 1)), []
    for array in (few, np.arange(32**3, dtype=np.int32).reshape(32, 32, 32) // 512):
        with TrackMemory() as memory:
            resample_labels(Image(torch.from_numpy(array), grid, "labels"), grid)
        peaks.append(memory.peak)
    assert peaks[1] <= peaks[0]


@pytest.mark.parametrize("sigma", [-1.0, float("nan"), float("inf")])
def test_a_sigma_that_is_none(sigma):
    with pytest.raises(InputError, match="must be from 0 to 24 voxels"):
        resample_labels(patches(PLAIN), PLAIN, sigma_voxels=sigma)


@pytest.mark.parametrize(("interpolator", "sigma"), [("multiLabel", 1.0), ("genericLabel", 0.0)])
@pytest.mark.parametrize("pair", ["anisotropic", "all together"])
def test_ants_gives_nearly_the_same(tmp_path, pair, interpolator, sigma):
    ants = pytest.importorskip("ants")
    fixed, moving_grid = PAIRS[pair]
    labels = patches(moving_grid)
    write_nifti(tmp_path / "fixed.nii", np.zeros(fixed.shape, np.float32), fixed.affine)
    write_nifti(tmp_path / "labels.nii", labels.data, moving_grid.affine)
    write_displacement_field(tmp_path / "1Warp.nii.gz", some_field(fixed))
    write_affine(tmp_path / "0GenericAffine.mat", some_affine())
    theirs = ants.apply_transforms(
        ants.image_read(str(tmp_path / "fixed.nii")),
        ants.image_read(str(tmp_path / "labels.nii")),
        [str(tmp_path / "1Warp.nii.gz"), str(tmp_path / "0GenericAffine.mat")],
        interpolator=interpolator,
    ).numpy()
    chain = [some_field(fixed), some_affine()]
    ours = resample_labels(labels, fixed, chain, sigma).data.numpy()
    nearest = resample(labels, fixed, chain, "nearest").data.numpy()
    counted = (ours != 0) & (theirs != 0)
    assert counted.mean() > 0.3
    # MultiLabel integrates its Gaussian over voxels, ours is sampled and interpolated.
    assert (ours == theirs)[counted].mean() > (0.95 if sigma else 0.999)
    assert (nearest == theirs)[counted].mean() < 0.92
