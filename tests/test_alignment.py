"""Initial alignment: centre of mass, affine registration, and transform files."""

import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from voxelopt_train import alignment
from voxelopt_train.alignment import center_of_mass, check_alignment, initial_alignment
from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid
from voxelopt_train.images import Image
from voxelopt_train.resampling import resample
from voxelopt_train.transforms import (
    AffineTransform,
    DisplacementField,
    write_affine,
    write_displacement_field,
    write_transform,
)


def body(shape=(44, 36, 30), spacing=(4.0, 4.0, 5.0)) -> Image:
    """A textured ellipsoid in air at -1000, as in CT."""
    texture = gaussian_filter(np.random.default_rng(0).normal(size=shape), 2)
    axes = [np.linspace(-1, 1, n) for n in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    tissue = (x / 0.7) ** 2 + (y / 0.6) ** 2 + (z / 0.8) ** 2 < 1
    data = np.where(tissue, 100 * texture / texture.std(), -1000).astype(np.float32)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-80, -60, 20]
    return Image(torch.from_numpy(data), Grid(shape, affine), "moving image")


def about(center: np.ndarray, linear: np.ndarray, shift) -> AffineTransform:
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = center - linear @ center + shift
    return AffineTransform(matrix)


def mean_distance(a: AffineTransform, b: AffineTransform, image: Image) -> float:
    """Mean distance in mm between where the two send the inside of the image."""
    indices = torch.nonzero(image.data > -900).T[None].double()
    world = AffineTransform(image.grid.affine)(indices)
    return float((a(world) - b(world)).norm(dim=1).mean())


@pytest.fixture
def known():
    """A moving image, a fixed one made from it, and the transform between the two."""
    moving = body()
    linear = Rotation.from_euler("xyz", [6, -8, 10], degrees=True).as_matrix()
    linear = linear @ np.diag([1.06, 0.95, 1.04]) + [[0, 0.05, 0], [0, 0, 0], [0, 0, 0]]
    truth = about(center_of_mass(moving), linear, [14.0, -10.0, 12.0])
    # Another grid, oblique, so that nothing rests on a common one.
    affine = moving.grid.affine.copy()
    affine[:3, :3] = Rotation.from_euler("z", 15, degrees=True).as_matrix() @ affine[:3, :3]
    affine[:3, 3] += [-10, -20, -10]
    grid = Grid((46, 44, 32), affine)
    return resample(moving, grid, [truth], fill=-1000), moving, truth


def test_none():
    assert initial_alignment(body(), body(), "none") is None


def test_center_of_mass_is_in_the_world_and_air_weighs_nothing():
    data = torch.full((6, 5, 4), -1000.0)
    data[4, 1, 2] = 500
    affine = np.array([[0, 2.0, 0, 10], [-3, 0, 0, 5], [0, 0, 4, -7], [0, 0, 0, 1]])
    image = Image(data, Grid((6, 5, 4), affine), "image")
    np.testing.assert_allclose(center_of_mass(image), [12, -7, 1])
    data[2, 1, 2] = 500
    np.testing.assert_allclose(center_of_mass(image), [12, -4, 1])


def test_center_of_mass_of_a_constant_image_is_its_centre():
    image = Image(torch.full((5, 3, 1), 7.0), Grid((5, 3, 1), np.eye(4)), "image")
    np.testing.assert_allclose(center_of_mass(image), [2, 1, 0])


def test_center_of_mass_recovers_a_translation():
    moving = body()
    affine = moving.grid.affine.copy()
    affine[:3, 3] += [30, -200, 55]
    fixed = Image(moving.data, Grid(moving.grid.shape, affine), "fixed image")
    aligned = initial_alignment(fixed, moving, "center-of-mass")
    assert aligned is not None
    expected = np.eye(4)
    expected[:3, 3] = [-30, 200, -55]
    np.testing.assert_allclose(aligned.matrix, expected, atol=1e-6)


def test_affine_recovers_a_known_transform(known):
    pytest.importorskip("SimpleITK")
    fixed, moving, truth = known
    start = initial_alignment(fixed, moving, "center-of-mass")
    aligned = initial_alignment(fixed, moving, "affine")
    assert start is not None and aligned is not None
    assert mean_distance(start, truth, fixed) > 8
    assert mean_distance(aligned, truth, fixed) < 2  # half a voxel


def test_affine_repeats(known, monkeypatch):
    pytest.importorskip("SimpleITK")
    monkeypatch.setattr(alignment, "_SAMPLES", 2000)  # quick, and noisier: a seed lost would show
    fixed, moving, _ = known
    first, second = (initial_alignment(fixed, moving, "affine") for _ in range(2))
    assert first is not None and second is not None
    np.testing.assert_array_equal(first.matrix, second.matrix)


def test_affine_finds_images_far_apart(known):
    pytest.importorskip("SimpleITK")
    fixed, moving, truth = known
    far = np.eye(4)
    far[:3, 3] = [0, 700, -300]
    grid = Grid(moving.grid.shape, far @ moving.grid.affine)
    aligned = initial_alignment(fixed, Image(moving.data, grid, "moving image"), "affine")
    assert aligned is not None
    assert mean_distance(aligned, AffineTransform(far @ truth.matrix), fixed) < 2


def test_affine_of_a_constant_image_is_refused():
    pytest.importorskip("SimpleITK")
    flat = Image(torch.zeros(16, 16, 16), Grid((16, 16, 16), np.eye(4)), "flat.nii")
    with pytest.raises(InputError, match=r"flat\.nii") as raised:
        initial_alignment(flat, flat, "affine")
    assert "\n" not in str(raised.value)


def test_affine_without_simpleitk(monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)  # what an absent module looks like
    with pytest.raises(InputError, match="pip install SimpleITK"):
        initial_alignment(body(), body(), "affine")


def test_transform_file(tmp_path, known):
    fixed, moving, truth = known
    path = tmp_path / "a0GenericAffine.mat"
    write_affine(path, truth)
    for method, expected in ((str(path), truth), (f"[{path},1]", truth.inverse())):
        aligned = initial_alignment(fixed, moving, method)
        assert aligned is not None
        np.testing.assert_allclose(aligned.matrix, expected.matrix, atol=1e-9)


def test_matrix_of_flirt(tmp_path, known):
    fixed, moving, truth = known
    path = tmp_path / "flirt.mat"
    write_transform(path, [truth], "fsl", fixed.grid, moving.grid)
    aligned = initial_alignment(fixed, moving, str(path))
    back = initial_alignment(moving, fixed, f"[fsl:{path},1]")
    assert aligned is not None and back is not None
    np.testing.assert_allclose(aligned.matrix, truth.matrix, atol=1e-9)
    np.testing.assert_allclose(back.matrix, truth.inverse().matrix, atol=1e-9)
    check_alignment(str(path))  # before there are images
    path.write_text("1 0 0 0\n")
    with pytest.raises(InputError, match="4 lines of 4 numbers"):
        check_alignment(str(path))


def test_unusable_method(tmp_path):
    image = body()
    with pytest.raises(InputError, match="expected none, center-of-mass, affine"):
        initial_alignment(image, image, "centre")
    with pytest.raises(InputError, match="there is no such file"):
        initial_alignment(image, image, "[centre,1]")
    field = DisplacementField(torch.zeros(1, 3, 2, 2, 2), Grid((2, 2, 2), np.eye(4)))
    write_displacement_field(tmp_path / "a1Warp.nii.gz", field)
    write_transform(tmp_path / "a.h5", [field])
    for name, says in (("a1Warp.nii.gz", "this is an image or a disp"), ("a.h5", "is deformable")):
        with pytest.raises(InputError, match=says):
            initial_alignment(image, image, str(tmp_path / name))
