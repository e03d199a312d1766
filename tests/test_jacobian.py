"""Jacobian determinants in physical space: analytic maps, ITK and ANTs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from voxelopt_layers import jacobian_determinant
from voxelopt_train.images import write_nifti
from voxelopt_train.jacobian import map_jacobian
from voxelopt_train.transforms import (
    AffineTransform,
    DisplacementField,
    map_points,
    maps,
    mm_to_voxels,
    write_displacement_field,
)
from worlds import PAIRS, make_grid, some_affine, some_field

INNER = (slice(2, -2),) * 3


class Wave:
    """A smooth map of the world, ``x + a sin(k y)`` and so on around, and its determinant."""

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        return points + 3 * torch.sin(points.roll(-1, dims=1) / 15)

    def determinant(self, points: np.ndarray) -> np.ndarray:
        # The matrix is circulant: 1 + abc with the derivatives a, b, c.
        return 1 + np.prod(3 / 15 * np.cos(points / 15), axis=0)


class Stretch:
    """Each axis by itself: ``x + a sin(k x)``."""

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        return points + 4 * torch.sin(points / 12)

    def determinant(self, points: np.ndarray) -> np.ndarray:
        return np.prod(1 + 4 / 12 * np.cos(points / 12), axis=0)


def world_points(grid) -> np.ndarray:
    indices = torch.stack(torch.meshgrid(*map(torch.arange, grid.shape), indexing="ij"))
    return map_points(grid.affine, indices[None].double())[0].numpy()


@pytest.mark.parametrize("pair", PAIRS)
def test_affine_maps_have_the_determinant_of_their_matrix(pair):
    grid = PAIRS[pair][0]
    scale = AffineTransform(np.diag([1.1, 1.1, 1.1, 1.0]))
    torch.testing.assert_close(
        map_jacobian([scale], grid), torch.full((1, *grid.shape), 1.331), atol=1e-4, rtol=0
    )
    mirror = AffineTransform(np.diag([-1.0, 1, 1, 1]) @ some_affine().matrix)
    expected = np.linalg.det(some_affine().matrix[:3, :3])
    np.testing.assert_allclose(map_jacobian([mirror], grid), -expected, atol=1e-4)


@pytest.mark.parametrize("wave", [Wave(), Stretch()])
@pytest.mark.parametrize(
    "grid",
    [
        make_grid((40, 36, 32), (1.5, 1.5, 1.5)),
        make_grid((40, 30, 24), (1.2, 1.5, 2), (25, 10, -40), (1, 2, 0), (-1, 1, 1)),
    ],
)
def test_analytic_maps(grid, wave):
    expected = wave.determinant(world_points(grid))
    ours = map_jacobian([wave], grid)[0].numpy()
    assert np.abs(expected - 1).max() > (0.005 if isinstance(wave, Wave) else 0.5)
    np.testing.assert_allclose(ours[INNER], expected[INNER], atol=0.02 * np.ptp(expected))


@pytest.mark.parametrize("pair", PAIRS)
def test_itk_gives_the_same(tmp_path, pair):
    sitk = pytest.importorskip("SimpleITK")
    grid = PAIRS[pair][0]
    write_displacement_field(tmp_path / "1Warp.nii.gz", some_field(grid))
    field = sitk.ReadImage(str(tmp_path / "1Warp.nii.gz"), sitk.sitkVectorFloat64)
    # ITK's filter knows spacings but no directions: its vectors have to lie along the image's axes.
    directions = np.array(field.GetDirection()).reshape(3, 3)
    along_axes = sitk.GetImageFromArray(sitk.GetArrayFromImage(field) @ directions, isVector=True)
    along_axes.SetSpacing(field.GetSpacing())
    theirs = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(along_axes))
    ours = map_jacobian([some_field(grid)], grid)[0].numpy()
    assert ours.std() > 0.2
    np.testing.assert_allclose(ours[INNER], theirs.transpose(2, 1, 0)[INNER], atol=1e-5)


@pytest.mark.parametrize("pair", ["anisotropic", "oblique fixed", "all together"])
def test_ants_gives_nearly_the_same(tmp_path, pair):
    """By its geometric rule, volumes of tetrahedra, since its derivatives miss directions too."""
    ants = pytest.importorskip("ants")
    grid = PAIRS[pair][0]
    write_displacement_field(tmp_path / "1Warp.nii.gz", some_field(grid))
    write_nifti(tmp_path / "fixed.nii", np.zeros(grid.shape, np.float32), grid.affine)
    fixed = ants.image_read(str(tmp_path / "fixed.nii"))
    path = str(tmp_path / "1Warp.nii.gz")
    theirs = ants.create_jacobian_determinant_image(fixed, path, False, True).numpy()
    ours = map_jacobian([some_field(grid)], grid)[0].numpy()
    assert np.abs(ours - theirs)[INNER].mean() < 0.15 * ours.std()
    assert np.corrcoef(ours[INNER].ravel(), theirs[INNER].ravel())[0, 1] > 0.99


def test_the_determinant_of_a_chain_is_the_product():
    fixed, affine = PAIRS["all together"][0], some_affine()
    field = some_field(fixed)
    alone = map_jacobian([field], fixed)
    factor = float(np.linalg.det(affine.matrix[:3, :3]))
    torch.testing.assert_close(
        map_jacobian([field, affine], fixed), factor * alone, atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("pair", PAIRS)
def test_displacements_in_voxels_have_the_same_determinant(pair):
    """As `register --jacobian` and the reports compute it: a change of basis alters nothing."""
    grid = PAIRS[pair][0]
    field = some_field(grid)
    in_voxels = jacobian_determinant(mm_to_voxels(field.displacement_mm, grid))
    torch.testing.assert_close(map_jacobian([field], grid), in_voxels, atol=1e-4, rtol=0)


def test_slabs_join_seamlessly(monkeypatch):
    grid = PAIRS["all together"][0]
    whole = map_jacobian([some_field(grid), some_affine()], grid)
    monkeypatch.setattr(maps, "_SLAB_VOXELS", 5 * grid.shape[1] * grid.shape[2])
    assert torch.equal(map_jacobian([some_field(grid), some_affine()], grid), whole)


def test_a_fold_is_negative():
    grid = make_grid((16, 8, 8), (2, 2, 2))
    x = torch.from_numpy(world_points(grid)).float()[None]
    mirrored = torch.cat([-2 * x[:, :1], torch.zeros(1, 2, *grid.shape)], dim=1)
    jacobian = map_jacobian([DisplacementField(mirrored, grid)], grid)
    torch.testing.assert_close(jacobian, torch.full_like(jacobian, -1.0), atol=1e-4, rtol=0)
