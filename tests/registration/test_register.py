"""`register`: what it finds, and what it starts from."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from placing import (
    AIR,
    ANISOTROPIC,
    SIZE,
    WINDOW,
    dice,
    gain,
    label_sources,
    moved_to,
    place,
    shifted,
    source,
    sources,
)
from voxelopt_layers import compose, jacobian_determinant
from voxelopt_models import RawIntensity
from voxelopt_train import InputError, alignment, register
from voxelopt_train.errors import InputWarning, warn_once
from voxelopt_train.images import read_image
from voxelopt_train.phantom import Pair, deformed_pair
from voxelopt_train.report import make_report
from voxelopt_train.resampling import resample
from voxelopt_train.transforms import AffineTransform, Transform, mm_to_voxels, write_affine


@pytest.mark.parametrize("encoder", ["mind", "raw"])
def test_known_deformation_is_found(encoder):
    pair = deformed_pair(0, max_displacement_mm=40.0, **SIZE)
    truth = pair.displacement
    assert truth is not None
    result = register(*sources(pair), encoder=encoder, window=WINDOW, **label_sources(pair))
    body = pair.fixed.data > -300
    before = truth.norm(dim=1)[0][body].mean()
    after = (result.displacement - truth).norm(dim=1)[0][body].mean()
    assert after < 0.5 * before
    assert gain(result) > 0.2
    assert jacobian_determinant(result.displacement).min() > 0


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_what_a_mask_hides_does_not_mislead(side):
    pair = deformed_pair(0, max_displacement_mm=40.0, **SIZE)
    truth = pair.displacement
    assert truth is not None
    images = dict(zip(("fixed", "moving"), sources(pair), strict=True))
    array, affine = images[side]
    middle = tuple(slice(n // 3, n - n // 3) for n in array.shape)
    array, mask = array.copy(), np.ones(array.shape, np.uint8)
    array[middle] = np.roll(array, 3, axis=0)[middle]
    mask[middle] = 0
    images[side] = (array, affine)
    body = pair.fixed.data > -300

    def error(**masks) -> float:
        result = register(**images, window=WINDOW, **masks)
        return float((result.displacement - truth).norm(dim=1)[0][body].mean())

    assert error(**{f"{side}_mask": (mask, affine)}) < 0.85 * error()


def test_an_encoder_with_a_stride(pair):
    encoder = torch.nn.Sequential(RawIntensity(window=WINDOW), torch.nn.AvgPool3d(2))
    result = register(*sources(pair), encoder=encoder, **label_sources(pair))
    assert result.entropy.data.shape == result.fixed.data.shape
    assert gain(result) > 0.05


@pytest.mark.parametrize("encoder", ["mind", "raw"])
def test_the_number_of_threads_changes_no_bit(request, pair, encoder):
    before = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(before))
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(register(*sources(pair), encoder=encoder, initial="center-of-mass"))
    assert torch.equal(found[0].displacement, found[1].displacement)
    assert torch.equal(found[0].warped.data, found[1].warped.data)


def test_field_in_voxels_and_in_millimetres_agree(plain):
    linear = torch.from_numpy(plain.fixed.grid.affine[:3, :3]).float()
    mm = torch.einsum("ij,bj...->bi...", linear, plain.displacement)
    torch.testing.assert_close(mm, plain.field.displacement_mm, atol=1e-3, rtol=1e-4)


def test_working_spacing_gives_the_result_on_the_fixed_grid(pair):
    grid = place(pair.fixed.grid, **ANISOTROPIC)
    seen = moved_to(pair, grid, None)
    result = register(*sources(seen), spacing_mm=8.0, window=WINDOW, **label_sources(seen))
    np.testing.assert_allclose(result.working_grid.spacing, 8.0)
    assert result.working_grid.shape == (42, 33, 35)
    for image in (result.warped, result.aligned, result.entropy):
        assert image.data.shape == grid.shape and image.grid.matches(grid)
    for field in (result.field, result.inverse_field):
        assert field.displacement_mm.shape == (1, 3, *grid.shape) and field.grid.matches(grid)
    assert gain(result) > 0.1
    assert result.entropy.data.min() >= 0
    # Resampled once, from the moving image's own voxels.
    again = resample(pair.moving, grid, result.transforms, fill=float(pair.moving.data.min()))
    assert torch.equal(again.data, result.warped.data)


def test_images_that_hardly_overlap_are_told_of(pair):
    across = 0.8 * pair.fixed.grid.shape[0] * pair.fixed.grid.spacing[0]
    beside = shifted(pair.moving, [across, 0.0, 0.0])
    with pytest.warns(InputWarning, match=r"share 20 % of the smaller .*center-of-mass"):
        result = register(source(pair.fixed), source(beside), spacing_mm=24.0)
    line = repr(result)
    assert "fixed image" in line and "moving image" in line and len(line) < 200


@pytest.mark.parametrize("side", [0, 1])
def test_a_label_map_in_place_of_an_image_is_told_of(pair, side):
    images = [pair.fixed, pair.moving]
    images[side] = pair.moving_labels
    warn_once.cache_clear()
    with pytest.warns(InputWarning, match="a few whole numbers alone.*intensities: is it"):
        register(*map(source, images), spacing_mm=24.0)


def test_two_label_maps_are_registered_as_they_are(pair):
    warn_once.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        register(source(pair.fixed_labels), source(pair.moving_labels), spacing_mm=24.0)


def test_center_of_mass_brings_distant_images_together(pair):
    offset = [150.0, -220.0, 300.0]
    far, far_labels = shifted(pair.moving, offset), shifted(pair.moving_labels, offset)
    with pytest.raises(InputError, match=r"do not overlap in world space.*center-of-mass"):
        register(source(pair.fixed), source(far))
    result = register(
        source(pair.fixed),
        source(far),
        encoder="raw",
        initial="center-of-mass",
        window=WINDOW,
        fixed_labels=source(pair.fixed_labels),
        moving_labels=source(far_labels),
    )
    assert result.initial is not None and result.labels is not None
    np.testing.assert_allclose(result.initial.matrix[:3, :3], np.eye(3))
    assert np.linalg.norm(result.initial.matrix[:3, 3] - offset) < 30
    assert dice(result.labels.fixed.data, result.labels.moving.data) == 0
    assert gain(result) > 0.1
    assert result.transforms == [result.field, result.initial]


def test_initial_transform_from_a_file_maps_fixed_to_moving(tmp_path, pair, plain):
    """The moving image is turned and shifted; the file undoes exactly that."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", [20, -15, 30], degrees=True).as_matrix()
    matrix[:3, 3] = [40, -25, 10]
    write_affine(tmp_path / "initial.tfm", AffineTransform(matrix))
    moving = pair.moving.data.numpy(), matrix @ pair.moving.grid.affine
    result = register(
        source(pair.fixed), moving, initial=str(tmp_path / "initial.tfm"), window=WINDOW
    )
    assert result.initial is not None
    np.testing.assert_allclose(result.initial.matrix, matrix, atol=1e-9)
    difference = result.field.displacement_mm - plain.field.displacement_mm
    assert difference.norm(dim=1).mean() < 0.1
    assert (result.warped.data - plain.warped.data).abs().mean() < 1


def test_affine_alignment_finds_a_turned_image(monkeypatch, pair):
    pytest.importorskip("SimpleITK")
    monkeypatch.setattr(alignment, "_WORKING_VOXELS", 40)  # for speed
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", [10, -8, 15], degrees=True).as_matrix()
    turn[:3, 3] = [30, 15, -20]
    small = place(pair.fixed.grid, shape=(30, 24, 27), spacing=(10.7, 10.7, 10.7))
    fixed = resample(pair.fixed, small, fill=AIR)
    moving = fixed.data.numpy(), turn @ small.affine
    result = register(source(fixed), moving, initial="affine", window=WINDOW)
    assert result.initial is not None
    body = torch.from_numpy(np.argwhere(fixed.data.numpy() > -300).T).double()
    points = AffineTransform(small.affine)(body[None])
    error = (result.initial(points) - AffineTransform(turn)(points)).norm(dim=1)
    assert error.mean() < 3
    assert (result.warped.data - fixed.data).abs()[fixed.data > -300].mean() < 30


def test_inverse_brings_the_fixed_image_to_the_moving_one(pair):
    offset = [60.0, -40.0, 25.0]
    seen = Pair(
        pair.fixed, pair.fixed_labels,
        shifted(pair.moving, offset), shifted(pair.moving_labels, offset), None,
    )  # fmt: skip
    result = register(*sources(seen), initial="center-of-mass", window=WINDOW)
    assert result.initial is not None
    back: list[Transform] = [result.initial.inverse(), result.inverse_field]
    grid, moving_grid = result.fixed.grid, seen.moving.grid

    def score(transforms: list[Transform]) -> float:
        labels = resample(pair.fixed_labels, moving_grid, transforms, mode="nearest")
        return dice(labels.data, seen.moving_labels.data)

    assert score(back) > score(back[:1]) + 0.1
    u, inverse = result.displacement, mm_to_voxels(result.inverse_field.displacement_mm, grid)
    inner = (slice(n // 4, n - n // 4) for n in grid.shape)
    error = compose(u, inverse)[(..., *inner)].norm(dim=1).mean()
    assert 0 < error < 0.1
    assert make_report(result).inverse_error_voxels == pytest.approx(float(error), abs=1e-5)


@pytest.mark.parametrize("part", [slice(0, 20), slice(14, 36)])
def test_partial_field_of_view_is_masked(pair, plain, part):
    """Half of the moving patient is missing: the half that is there comes out as before."""
    affine = pair.moving.grid.affine.copy()
    affine[:3, 3] += affine[:3, 2] * part.start
    cropped = pair.moving.data[..., part].numpy(), affine
    labels = pair.moving_labels.data[..., part].numpy(), affine
    result = register(
        source(pair.fixed),
        cropped,
        window=WINDOW,
        fixed_labels=source(pair.fixed_labels),
        moving_labels=labels,
    )
    length, usual = (r.field.displacement_mm.norm(dim=1).max() for r in (result, plain))
    assert length < 1.5 * usual
    assert jacobian_determinant(result.displacement).min() > 0
    assert result.labels is not None
    fixed, before, after = (
        m.data[..., part]
        for m in (result.labels.fixed, result.labels.aligned, result.labels.warped)
    )
    assert dice(fixed, after) > dice(fixed, before) + 0.05


def test_slice_of_one_voxel_is_registered(pair):
    seen = moved_to(pair, *[place(pair.fixed.grid, shape=(40, 32, 1))] * 2)
    result = register(*sources(seen), window=WINDOW, **label_sources(seen))
    assert torch.isfinite(result.displacement).all()
    assert gain(result) > 0


def test_a_result_warps_more_images_and_is_saved_as_by_the_command(tmp_path, pair, plain):
    again = plain.warp(source(pair.moving))
    assert torch.equal(again.data, plain.warped.data)
    labels = plain.warp(source(pair.moving_labels), labels=True)
    assert labels.grid is plain.fixed.grid and not labels.data.is_floating_point()
    assert set(labels.data.unique().tolist()) <= set(pair.moving_labels.data.unique().tolist())
    with pytest.raises(InputError, match="labels must be whole numbers"):
        plain.warp(source(pair.moving), labels=True)
    assert {path.name for path in plain.save(tmp_path / "new")} == {
        "Warped.nii.gz", "WarpedLabels.nii.gz", "1Warp.nii.gz", "Report.json", "Report.png",
    }  # fmt: skip
    files = plain.save(f"{tmp_path}/a_", inverse=True)
    assert tmp_path / "a_1InverseWarp.nii.gz" in files and all(p.is_file() for p in files)
    written = read_image(tmp_path / "new" / "Warped.nii.gz", "warped")
    assert torch.allclose(written.data, plain.warped.data)
    with pytest.raises(InputError, match="the output folder"):
        plain.save(files[0] / "below")
