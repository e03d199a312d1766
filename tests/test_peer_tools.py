"""Fields of other tools in this project's convention, each held against the tool's own warp."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from nibabel.nifti1 import Nifti1Image

from voxelopt_layers import warp
from voxelopt_train.benchmark import peer_tools
from voxelopt_train.benchmark.peer_tools import TOOLS
from voxelopt_train.grids import Grid
from voxelopt_train.images import Image, write_nifti
from voxelopt_train.metrics import evaluate
from voxelopt_train.phantom import CT_WINDOW, Pair, deformed_pair
from voxelopt_train.transforms import voxels_to_mm


def oblique(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Axes in another order, one of them turned round, and all of them 20 degrees off the world's.

    Were a sign or the order of axes wrong anywhere, no field would fit on such a grid.
    """
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    turned = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, c, -s], [0, s, c]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turned @ np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]]) * spacing_mm
    affine[:3, 3] = 30.0, -50.0, 70.0
    return affine


@pytest.fixture(scope="module")
def pair() -> Pair:
    """A known deformation of up to 25 mm, on voxels of 6 x 6 x 12 mm."""
    whole = deformed_pair(1, 25.0, (52, 44, 48), 6.0)
    assert whole.displacement is not None
    grid = Grid((52, 44, 24), oblique((6.0, 6.0, 12.0)))
    u = whole.displacement[..., ::2] * torch.tensor([1, 1, 0.5]).view(1, 3, 1, 1, 1)
    images = {
        name: Image(getattr(whole, name).data[..., ::2].contiguous(), grid, name)
        for name in ("moving", "moving_labels")
    }
    ct = images["moving"]
    # From 0 up: beyond the image all of them see air.
    images["moving"] = Image(ct.data.clamp(*CT_WINDOW) - CT_WINDOW[0], grid, "moving")
    images["fixed"] = moved(images["moving"], u, "linear")
    images["fixed_labels"] = moved(images["moving_labels"], u, "nearest")
    return Pair(**images, displacement=u)


def moved(image: Image, u: torch.Tensor, mode: Literal["linear", "nearest"]) -> Image:
    return Image(warp(image.data[None, None], u, mode, "border")[0, 0], image.grid, "fixed")


@pytest.fixture
def files(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")
    paths = tmp_path / "fixed.nii", tmp_path / "moving.nii"
    for path, image in zip(paths, (pair.fixed, pair.moving), strict=True):
        write_nifti(path, image.data, image.grid.affine)
    return paths


def ours(pair: Pair, u: np.ndarray) -> np.ndarray:
    return warp(pair.moving.data[None, None], torch.from_numpy(u))[0, 0].numpy()


def check(pair: Pair, name: str, u: np.ndarray, own: np.ndarray, tolerance: float) -> None:
    """The field registers the labels, is near the truth, and warps as the tool itself does."""
    assert u.shape == (1, 3, 52, 44, 24) and u.dtype == np.float32
    field = torch.from_numpy(u)
    fixed, moving = pair.fixed_labels.data, pair.moving_labels.data
    warped = warp(moving[None, None], field, mode="nearest")[0, 0]
    spacing = pair.fixed.grid.spacing
    before = evaluate(fixed, moving, moving, None, spacing).mean_dice
    after = evaluate(fixed, moving, warped, field, spacing).mean_dice
    assert after > before + 0.1, name
    assert pair.displacement is not None
    inside = (fixed > 0)[None]
    error, length = (
        (v * torch.tensor(spacing).view(1, 3, 1, 1, 1)).norm(dim=1)[inside].mean()
        for v in (field - pair.displacement, pair.displacement)
    )
    assert error < 0.6 * length, name
    box = (slice(3, -3),) * 3
    moved = np.abs(pair.moving.data.numpy() - own)[box].mean()
    assert np.abs(ours(pair, u) - own)[box].mean() < tolerance * moved, name


def test_convex_adam(pair, files):
    apply = pytest.importorskip("convexAdam.apply_convex").apply_convex
    u, seconds = peer_tools.convex_adam(*files, threads=1)
    own = apply(np.moveaxis(u[0], 0, -1), pair.moving.data.numpy())
    check(pair, "ConvexAdam", u, own, 1e-3)
    assert seconds > 0


def test_ants(pair, files, monkeypatch):
    ants = pytest.importorskip("ants")
    register, found = ants.registration, {}
    monkeypatch.setattr(
        ants, "registration", lambda *a, **k: found.update(register(*a, **k)) or found
    )
    u, seconds = peer_tools.ants_syn(*files, threads=1)
    check(pair, "ANTs", u, found["warpedmovout"].numpy(), 1e-3)
    assert seconds > 0


def test_itk_demons(pair, files, monkeypatch):
    sitk = pytest.importorskip("SimpleITK")
    fields = []
    run = peer_tools.demons_field
    monkeypatch.setattr(peer_tools, "demons_field", lambda *a: fields.append(run(*a)) or fields[0])
    u, seconds = peer_tools.itk_demons(*files, threads=1)
    fixed, moving = (sitk.ReadImage(str(path), sitk.sitkFloat32) for path in files)
    field = sitk.DisplacementFieldTransform(sitk.Cast(fields[0], sitk.sitkVectorFloat64))
    own = sitk.Resample(moving, fixed, field, sitk.sitkLinear, 0.0)
    check(pair, "ITK demons", u, sitk.GetArrayFromImage(own).transpose(2, 1, 0), 1e-3)
    assert seconds > 0


def test_greedy(pair, files, monkeypatch, tmp_path):
    greedy, sitk = pytest.importorskip("picsl_greedy"), pytest.importorskip("SimpleITK")
    made = []

    class Watched:
        def __init__(self) -> None:
            self.tool = real()
            made.append(self.tool)

        def execute(self, *arguments, **images) -> None:
            self.tool.execute(*arguments, **images)

        def __getitem__(self, name):
            return self.tool[name]

    real = greedy.Greedy3D
    monkeypatch.setattr(greedy, "Greedy3D", Watched)
    u, seconds = peer_tools.greedy(*files, threads=1)
    own, field = tmp_path / "own.nii", tmp_path / "field.nii"
    sitk.WriteImage(made[0]["field"], str(field))
    assert len(np.unique(u)) > u.size / 2  # not rounded to steps of a voxel's tenth
    real().execute(f"-rf {files[0]} -rm {files[1]} {own} -r {field}")
    check(pair, "greedy", u, np.asarray(Nifti1Image.from_filename(own).dataobj), 1e-3)
    assert seconds > 0


@pytest.mark.parametrize("features", ["raw", "mind"])
def test_the_layer(pair, files, features):
    u, seconds = peer_tools.voxelopt_layer(*files, threads=1, features=features)
    check(pair, features, u, ours(pair, u), 1e-3)
    preset, _ = peer_tools.voxelopt_layer(*files, threads=1, features=features, preset="paper")
    assert seconds > 0 and np.abs(preset - u).max() > 0.1


def test_vectors_of_itk_become_voxels(pair, files):
    """As the transform files of this project say the same field."""
    assert pair.displacement is not None
    grid = pair.fixed.grid
    lps_mm = voxels_to_mm(pair.displacement, grid)[0] * torch.tensor([-1, -1, 1]).view(3, 1, 1, 1)
    u = peer_tools._from_itk(lps_mm.permute(1, 2, 3, 0).numpy(), files[0])
    np.testing.assert_allclose(u, pair.displacement.numpy(), atol=1e-4)


def test_each_tool_has_its_settings_and_a_package():
    assert all(tool.settings for tool in TOOLS.values())
    assert all(bool(tool.package) == bool(tool.module) for tool in TOOLS.values())
