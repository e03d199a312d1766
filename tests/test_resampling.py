"""Resampling through world space, and its proof: ITK applies our files and gives what we give."""

import numpy as np
import pytest
import torch

from voxelopt_layers import warp
from voxelopt_train.grids import Grid
from voxelopt_train.images import Image, read_image, write_nifti
from voxelopt_train.resampling import resample
from voxelopt_train.transforms import (
    AffineTransform,
    DisplacementField,
    maps,
    read_transform,
    voxels_to_mm,
    write_affine,
    write_displacement_field,
)
from worlds import PAIRS, PLAIN, make_grid, smooth_noise, some_affine, some_field, some_image


def resample_with_itk(folder, fixed: Grid, moving: Image, labels: bool) -> np.ndarray:
    """Write everything, and have SimpleITK do the work from the files."""
    sitk = pytest.importorskip("SimpleITK")
    write_nifti(folder / "fixed.nii.gz", np.zeros(fixed.shape, np.float32), fixed.affine)
    write_nifti(folder / "moving.nii.gz", moving.data, moving.grid.affine)
    write_displacement_field(folder / "1Warp.nii.gz", some_field(fixed))
    write_affine(folder / "0GenericAffine.mat", some_affine())
    field = sitk.ReadImage(str(folder / "1Warp.nii.gz"), sitk.sitkVectorFloat64)
    affine = sitk.ReadTransform(str(folder / "0GenericAffine.mat"))
    warped = sitk.Resample(
        sitk.ReadImage(str(folder / "moving.nii.gz")),
        sitk.ReadImage(str(folder / "fixed.nii.gz")),
        sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field)]),  # last first
        sitk.sitkNearestNeighbor if labels else sitk.sitkLinear,
        -1000.0,
    )
    return sitk.GetArrayFromImage(warped).transpose(2, 1, 0)


@pytest.mark.parametrize("pair", PAIRS)
def test_itk_gives_the_same_through_our_files(tmp_path, pair):
    fixed, moving_grid = PAIRS[pair]
    moving = some_image(moving_grid)
    theirs = resample_with_itk(tmp_path, fixed, moving, labels=False)
    ours = resample(moving, fixed, [some_field(fixed), some_affine()], fill=-1000.0).data.numpy()
    inside = (ours != -1000) & (theirs != -1000)
    assert inside.mean() > 0.4  # of the fixed grid: there is something to compare
    assert ((ours == -1000) == (theirs == -1000)).mean() > 0.999
    assert np.abs(ours - theirs)[inside].max() < 0.05  # of a standard deviation of 100

    write_nifti(tmp_path / "ours.nii.gz", ours, fixed.affine)
    chain = [read_transform(tmp_path / name) for name in ("1Warp.nii.gz", "0GenericAffine.mat")]
    read_back = read_image(tmp_path / "moving.nii.gz", "moving image")
    again = resample(read_back, fixed, chain, fill=-1000.0).data.numpy()
    assert np.abs(again - ours)[inside].max() < 0.05


@pytest.mark.parametrize("pair", ["oblique fixed", "all together"])
def test_itk_gives_the_same_labels(tmp_path, pair):
    fixed, moving_grid = PAIRS[pair]
    data = (smooth_noise(moving_grid.shape, 2, 0) * 2).round()
    labels = Image(torch.from_numpy(data).int(), moving_grid, "moving labels")
    theirs = resample_with_itk(tmp_path, fixed, labels, labels=True)
    ours = resample(labels, fixed, [some_field(fixed), some_affine()], "nearest", fill=-1000)
    assert ours.data.dtype == torch.int32
    assert len(np.unique(theirs)) > 5
    assert (ours.data.numpy() == theirs).mean() > 0.999


def test_displacement_in_voxels_is_warp():
    grid = PAIRS["all together"][0]
    image = some_image(grid)
    displacement = torch.from_numpy(np.stack([smooth_noise(grid.shape, 3, s) for s in (1, 2, 3)]))
    field = DisplacementField(voxels_to_mm(displacement[None], grid), grid)
    by_voxels = warp(image.data[None, None], displacement[None], boundary="border")[0, 0]
    ours = resample(image, grid, [field], fill=torch.nan).data
    inside = ~ours.isnan()
    assert inside.float().mean() > 0.8
    torch.testing.assert_close(ours[inside], by_voxels[inside], atol=1e-2, rtol=0)


def test_onto_its_own_grid_is_the_identity():
    image = some_image(PAIRS["all together"][1])
    torch.testing.assert_close(resample(image, image.grid).data, image.data, atol=1e-3, rtol=0)
    interpolated = resample(image, Grid(image.grid.shape, image.grid.affine)).data
    torch.testing.assert_close(interpolated, image.data, atol=1e-3, rtol=0)


def test_onto_its_own_grid_is_a_copy_of_float32():
    numbers = torch.arange(8, dtype=torch.int32).reshape(2, 2, 2)
    image = Image(numbers, Grid((2, 2, 2), np.eye(4)), "numbers")
    linear = resample(image, image.grid).data
    nearest = resample(image, image.grid, mode="nearest").data
    assert linear.dtype == torch.float32 and nearest.dtype == torch.int32
    nearest += 1
    assert numbers.flatten().tolist() == list(range(8))


def test_order_of_transforms_first_comes_first():
    # The point 1 goes to 2 * 1, then to 2 + 3; the other way round it would be 8.
    image = Image(torch.arange(20.0).reshape(20, 1, 1), Grid((20, 1, 1), np.eye(4)), "ramp")
    double, add = np.diag([2.0, 1, 1, 1]), np.eye(4)
    add[0, 3] = 3
    chain = [AffineTransform(double), AffineTransform(add)]
    assert resample(image, Grid((3, 1, 1), np.eye(4)), chain).data[1, 0, 0] == 5


def test_affines_around_a_field_are_not_mixed_up():
    fixed, moving_grid = PAIRS["oblique moving"]
    moving, field, affine = some_image(moving_grid), some_field(fixed), some_affine()
    chain = [affine, affine.inverse(), field, affine, affine]
    short = [field, AffineTransform(affine.matrix @ affine.matrix)]
    a, b = (resample(moving, fixed, t).data for t in (chain, short))
    torch.testing.assert_close(a, b, atol=1e-2, rtol=0)
    assert (a - resample(moving, fixed, [affine, field]).data).abs().mean() > 1


def test_slabs_join_seamlessly(monkeypatch):
    fixed, moving_grid = PAIRS["oblique moving"]
    moving, chain = some_image(moving_grid), [some_field(fixed), some_affine()]
    whole = resample(moving, fixed, chain).data
    monkeypatch.setattr(maps, "_SLAB_VOXELS", 5 * fixed.shape[1] * fixed.shape[2])
    torch.testing.assert_close(resample(moving, fixed, chain).data, whole, atol=1e-4, rtol=0)


def test_outside_is_filled_from_the_outer_voxel_edge_on():
    image = Image(torch.full((2, 2, 2), 7.0), Grid((2, 2, 2), np.eye(4)), "image")
    affine = np.diag([0.25, 1.0, 1.0, 1.0])
    affine[0, 3] = -0.875
    line = resample(image, Grid((14, 1, 1), affine), fill=-1.0).data.flatten()
    assert line.tolist() == [-1] * 2 + [7] * 8 + [-1] * 4


def test_large_labels_stay_exact():
    labels = torch.tensor([0, 2**24 + 1, 614454277], dtype=torch.int32).reshape(3, 1, 1)
    image = Image(labels, Grid((3, 1, 1), np.eye(4)), "labels")
    onto = Grid((3, 1, 1), np.eye(4))  # its own, which is not known at once
    assert torch.equal(resample(image, onto, mode="nearest").data, labels)


def test_antialias_keeps_the_mean_of_a_fine_pattern():
    stripes = (torch.arange(64) % 2).float().reshape(64, 1, 1).expand(64, 8, 8).contiguous()
    image = Image(stripes, Grid((64, 8, 8), np.eye(4)), "stripes")
    coarse = Grid((16, 8, 8), np.diag([4.0, 1, 1, 1]))
    plain, smooth = (resample(image, coarse, antialias=a).data[2:-2] for a in (False, True))
    assert plain.unique().tolist() == [0]  # every fourth stripe: all of one colour
    torch.testing.assert_close(smooth, torch.full_like(smooth, 0.5), atol=0.01, rtol=0)


def test_antialias_leaves_alone_what_does_not_get_coarser():
    image = some_image(PLAIN)
    rotated = make_grid((20, 20, 20), (1.9, 1.9, 1.9), (20, -15, 30))
    a, b = (resample(image, rotated, antialias=x).data for x in (False, True))
    assert torch.equal(a, b)


def test_the_largest_numbers_stay_numbers():
    """-3.4e38 marks missing values in some files; rounding must not take it beyond float32."""
    least = float(np.finfo(np.float32).min)
    grid = make_grid((9, 8, 7), (2, 2, 2))
    image = Image(torch.full(grid.shape, least), grid, "missing")
    for antialias in (False, True):
        target = make_grid((11, 10, 5), (1.3, 2.1, 3.7), (20, -10, 5))
        found = resample(image, target, antialias=antialias, fill=None)
        assert found.data.isfinite().all() and found.data.max() < 0.999 * least
