import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from nibabel.orientations import apply_orientation, inv_ornt_aff

from voxelopt_train import picture
from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid
from voxelopt_train.images import Image
from voxelopt_train.phantom import deformed_pair
from voxelopt_train.picture import _View, registration_picture

ORIENTATIONS = [
    np.stack([permutation, flips], axis=1)
    for permutation in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


Images = tuple[Image, Image, Image]
Scene = tuple[Images, torch.Tensor, Images]


@pytest.fixture(scope="module")
def scene() -> Scene:
    pair = deformed_pair(0, 24.0, shape=(28, 22, 24), spacing_mm=12.0)
    assert pair.displacement is not None
    labels = (pair.fixed_labels, pair.moving_labels, pair.fixed_labels)
    return (pair.fixed, pair.moving, pair.fixed), pair.displacement, labels


def stored(image: Image, orientation: np.ndarray) -> Image:
    """The same volume of the world with its array axes permuted and flipped."""
    array = apply_orientation(image.data.numpy(), orientation)
    affine = image.grid.affine @ inv_ornt_aff(orientation, image.grid.shape)
    return Image(torch.from_numpy(array.copy()), Grid(array.shape, affine), image.name)


def turned(images: Images, orientation: np.ndarray) -> Images:
    a, b, c = (stored(image, orientation) for image in images)
    return a, b, c


def stored_displacement(u: torch.Tensor, orientation: np.ndarray) -> torch.Tensor:
    out = torch.empty(1, 3, *apply_orientation(u[0, 0].numpy(), orientation).shape)
    for old, (new, flip) in enumerate(orientation.astype(int)):
        component = apply_orientation(u[0, old].numpy(), orientation) * float(flip)
        out[0, new] = torch.from_numpy(component.copy())
    return out


def test_writes_one_png_and_nothing_else(tmp_path, scene: Scene):
    images, u, labels = scene
    path = tmp_path / "picture.png"
    registration_picture(path, *images, u, torch.rand(1, 1, 14, 11, 12), labels, (-160, 240))
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]
    height, width, _ = imread(path).shape
    assert width == 1960 and height > 500


def test_picture_is_of_the_world_and_not_of_the_array(tmp_path, scene: Scene):
    images, u, labels = scene
    entropy = torch.rand(1, 1, *u.shape[2:], generator=torch.Generator().manual_seed(0))
    registration_picture(tmp_path / "ras.png", *images, u, entropy, labels)
    expected = imread(tmp_path / "ras.png")
    turn = ORIENTATIONS[29]  # axes rotated, two of them flipped
    other = torch.from_numpy(apply_orientation(entropy[0, 0].numpy(), turn).copy())[None, None]
    registration_picture(
        tmp_path / "turned.png", *turned(images, turn),
        stored_displacement(u, turn), other, turned(labels, turn),
    )  # fmt: skip
    drawn = imread(tmp_path / "turned.png")
    assert drawn.shape == expected.shape
    assert np.abs(drawn - expected).mean() < 1e-3
    registration_picture(tmp_path / "wrong.png", *images, -u, entropy, labels)
    assert np.abs(imread(tmp_path / "wrong.png") - expected).mean() > 3e-3


@pytest.mark.parametrize("number", range(0, 48, 5))
def test_displacement_turns_as_the_affine_says(number):
    turn = ORIENTATIONS[number]
    spacing = np.array([1.0, 2.0, 5.0])
    image = stored(Image(torch.rand(5, 6, 7), Grid((5, 6, 7), np.diag([*spacing, 1])), "x"), turn)
    u = torch.randn(1, 3, *image.grid.shape)
    world = torch.einsum("ij,jxyz->ixyz", torch.tensor(image.grid.affine[:3, :3]), u[0].double())
    view = _View(image)
    np.testing.assert_allclose(view.spacing, spacing)
    expected = np.stack([view.scalars(component) for component in world])
    np.testing.assert_allclose(view.vectors_mm(u), expected, rtol=1e-5)


def test_a_large_grid_is_thinned_and_keeps_its_place(monkeypatch):
    monkeypatch.setattr(picture, "_ENOUGH_VOXELS", 8)
    grid = Grid((9, 17, 24), np.diag([1.0, 2.0, 5.0, 1]))
    ramp = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in grid.shape), indexing="ij"))
    view = _View(Image(torch.rand(grid.shape) + 1, grid, "x"))
    np.testing.assert_allclose(view.spacing, (1, 4, 15))
    assert view.scalars(ramp[0]).shape == (9, 9, 8)
    # A displacement keeps its length.
    in_mm = ramp.numpy() * np.array([1, 2, 5]).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(view.vectors_mm(ramp[None]), in_mm[:, :, ::2, ::3])


def test_left_is_right_and_front_is_up(tmp_path):
    data = torch.zeros(20, 20, 20)
    data[2:18, 2:18, 2:18] = 0.3
    data[3:7, 13:17, 5:15] = 1.0  # the patient's left and front, in RAS
    image = Image(data, Grid((20, 20, 20), np.diag([4.0, 4, 4, 1])), "x")
    u = torch.zeros(1, 3, 20, 20, 20)
    for turn in (ORIENTATIONS[0], ORIENTATIONS[37]):
        images = turned((image, image, image), turn)
        registration_picture(tmp_path / "p.png", *images, u, window=(0, 1))
        cell = (1960 - 34 - 5 * 6) / 6
        axial = imread(tmp_path / "p.png")[40 : 40 + int(cell), 34 : 34 + int(cell), :3]
        rows, columns = np.nonzero(axial.min(axis=-1) > 0.9)
        assert rows.mean() < 0.4 * cell and columns.mean() > 0.6 * cell


def test_bad_input_is_told_in_one_sentence(tmp_path, scene: Scene):
    (fixed, moving, warped), u, _ = scene
    shifted = replace(moving, grid=Grid(moving.grid.shape, moving.grid.affine + np.eye(4, k=3)))
    with pytest.raises(InputError, match="another grid"):
        registration_picture(tmp_path / "p.png", fixed, shifted, warped, u)
    with pytest.raises(InputError, match="displacement has shape"):
        registration_picture(tmp_path / "p.png", fixed, moving, warped, u[:, :, 1:])
    with pytest.raises(InputError, match="cannot be written"):
        registration_picture(tmp_path / "missing" / "p.png", fixed, moving, warped, u)
    assert list(tmp_path.iterdir()) == []
