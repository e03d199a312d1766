"""Voxel grids: spacing, equality, isotropic grids, overlap in the world."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from voxelopt_train.grids import Grid, isotropic_grid, shared_part


def oblique_grid(shape=(10, 12, 7), spacing=(1.0, 1.5, 4.0), origin=(-20.0, 5.0, 30.0)) -> Grid:
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", [10, -20, 30], degrees=True).as_matrix()
    affine[:3, :3] = rotation * spacing
    affine[:3, 3] = origin
    return Grid(shape, affine)


def moved(grid: Grid, voxels) -> Grid:
    """``grid`` shifted by so many of its own voxels."""
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.asarray(voxels, dtype=float)
    return Grid(grid.shape, affine)


def test_spacing_is_the_length_of_a_voxel_step():
    assert oblique_grid().spacing == pytest.approx((1.0, 1.5, 4.0))


def test_matches_tolerates_rounding_but_no_shift():
    grid = oblique_grid()
    rounded = Grid(grid.shape, grid.affine.astype(np.float32).astype(np.float64))
    assert grid.matches(rounded)
    assert grid.matches(moved(grid, (5e-4, 0, 0)))
    assert not grid.matches(moved(grid, (0, 0, 2e-3)))
    assert not grid.matches(Grid((10, 12, 8), grid.affine))


def test_matches_sees_a_small_scaling_at_the_far_corner():
    grid = Grid((400, 4, 4), np.eye(4))
    assert not grid.matches(Grid((400, 4, 4), np.diag([1 + 1e-5, 1, 1, 1])))


@pytest.mark.parametrize("spacing_mm", [0.5, 1.0, 2.3])
def test_isotropic_grid_is_cubic_centred_and_covers(spacing_mm):
    grid = oblique_grid()
    cubic = isotropic_grid(grid, spacing_mm)
    assert cubic.spacing == pytest.approx((spacing_mm,) * 3)
    old, new = (g.affine[:3, :3] / g.spacing for g in (grid, cubic))
    np.testing.assert_allclose(new, old, atol=1e-12)
    old, new = (g.affine @ [*((np.array(g.shape) - 1) / 2), 1] for g in (grid, cubic))
    np.testing.assert_allclose(new, old, atol=1e-9)
    surplus = np.array(cubic.shape) * spacing_mm - np.array(grid.shape) * grid.spacing
    assert (surplus > -1e-9).all() and (surplus < spacing_mm).all()


def test_isotropic_grid_of_an_isotropic_grid_is_itself():
    # 0.1f + rounding: the extent is 100.00001 voxels, still 100.
    grid = Grid((100, 50, 1), np.diag([np.float32(0.1)] * 3 + [1]).astype(np.float64))
    assert isotropic_grid(grid, 0.1).shape == (100, 50, 1)


def test_around_a_point_of_the_world():
    like = oblique_grid()
    grid = Grid.around(np.array([3.0, -7.0, 20.0]), (8, 5, 6), like.affine[:3, :3])
    np.testing.assert_allclose(grid.center, [3, -7, 20])
    np.testing.assert_allclose(grid.affine @ [3.5, 2, 2.5, 1], [3, -7, 20, 1])
    assert grid.shape == (8, 5, 6) and grid.spacing == pytest.approx(like.spacing)
    assert Grid.around(like.center, like.shape, like.affine[:3, :3]).matches(like)


@pytest.mark.parametrize(
    ("voxels", "expected"), [((9.5, 0, 0), 0.05), ((10.5, 0, 0), 0), ((0, 0, -7.5), 0)]
)
def test_part_shared_by_shifted_oblique_boxes(voxels, expected):
    grid = oblique_grid()
    other = moved(grid, voxels)
    assert shared_part(grid, other) == pytest.approx(expected)
    assert shared_part(other, grid) == pytest.approx(expected)
    within = Grid((2, 2, 2), other.affine)
    assert shared_part(other, within) == shared_part(within, other) == pytest.approx(1)


def test_overlap_looks_along_the_axes_of_both_boxes():
    # Around the rotated box the world-aligned box reaches the other one; the box itself does not.
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("z", 45, degrees=True).as_matrix()
    rotated = Grid((20, 20, 4), affine)
    small = Grid((4, 4, 4), np.eye(4))
    beside = moved(small, (10, 2, 0))
    assert shared_part(rotated, moved(small, (0, 10, 0)))
    assert shared_part(rotated, beside) == 0
