"""Wherever the images lie: ITK applies what was written and gives what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nibabel.funcs import as_closest_canonical
from nibabel.nifti1 import Nifti1Image

from placing import (
    ANISOTROPIC,
    SIZE,
    WINDOW,
    gain,
    moved_to,
    place,
    source,
)
from voxelopt_layers import VoxelOptLayer
from voxelopt_train import Registration, outputs, register
from voxelopt_train.images import read_image, write_nifti
from voxelopt_train.report import make_report
from voxelopt_train.resampling import resample
from voxelopt_train.transforms import read_transform

# Grids of the fixed (None: as the phantom lies) and of the moving image, initial alignment.
OBLIQUE = {"degrees": (15, -10, 20)}
PERMUTED = {"shape": (36, 40, 32), "axes": (2, 0, 1)}
PLACES: dict[str, tuple[dict | None, dict | None, str]] = {
    "oblique": (None, OBLIQUE, "none"),
    "flipped": ({"flips": (-1, -1, 1)}, {"flips": (1, -1, -1)}, "none"),
    "permuted": (None, PERMUTED, "none"),
    "anisotropic": (None, ANISOTROPIC, "none"),
    "all together": (
        {"shape": (44, 18, 36), "spacing": (8, 14, 8), "degrees": (-8, 5, 12), "flips": (-1, 1, 1)},
        {
            "shape": (30, 42, 36), "spacing": (10, 7.5, 8), "degrees": (10, 12, -9),
            "axes": (2, 0, 1), "flips": (1, -1, 1), "shift_mm": (9, -5, 4),
        },
        "center-of-mass",
    ),
}  # fmt: skip


def warped_by_itk(folder: Path, result: Registration, moving: Path, labels: bool) -> np.ndarray:
    """SimpleITK applies the written transforms to the moving file, on the grid of Warped."""
    sitk = pytest.importorskip("SimpleITK")
    field = sitk.ReadImage(str(folder / "1Warp.nii.gz"), sitk.sitkVectorFloat64)
    chain = [sitk.DisplacementFieldTransform(field)]
    if result.initial is not None:
        chain.insert(0, sitk.ReadTransform(str(folder / "0GenericAffine.mat")))  # last first
    warped = sitk.Resample(
        sitk.ReadImage(str(moving)),
        sitk.ReadImage(str(folder / "Warped.nii.gz")),
        sitk.CompositeTransform(chain),
        sitk.sitkNearestNeighbor if labels else sitk.sitkLinear,
        0.0 if labels else float(result.warped.data.min()),
    )
    return sitk.GetArrayFromImage(warped).transpose(2, 1, 0)


@pytest.mark.parametrize("place_name", PLACES)
def test_itk_gives_what_we_wrote_wherever_the_images_lie(tmp_path, monkeypatch, pair, place_name):
    fixed_place, moving_place, initial = PLACES[place_name]
    grids = [
        None if where is None else place(pair.fixed.grid, **where)
        for where in (fixed_place, moving_place)
    ]
    seen = moved_to(pair, *grids)
    write_nifti(tmp_path / "moving.nii.gz", seen.moving.data, seen.moving.grid.affine)
    write_nifti(tmp_path / "labels.nii.gz", seen.moving_labels.data, seen.moving.grid.affine)
    result = register(
        source(seen.fixed),
        tmp_path / "moving.nii.gz",
        initial=initial,
        window=WINDOW,
        fixed_labels=source(seen.fixed_labels),
        moving_labels=tmp_path / "labels.nii.gz",
    )
    assert gain(result) > 0.1
    monkeypatch.setattr(outputs, "registration_picture", lambda *_, **__: None)  # it takes a second
    outputs.save(result, f"{tmp_path}/", make_report(result))

    def written(name: str) -> np.ndarray:
        image = read_image(tmp_path / name, name)
        assert image.grid.matches(seen.fixed.grid)
        return image.data.numpy()

    theirs = warped_by_itk(tmp_path, result, tmp_path / "moving.nii.gz", labels=False)
    # Rounding puts a point on the moving image's very edge inside for one and outside for one.
    assert (np.abs(theirs - written("Warped.nii.gz")) < 0.5).mean() > 0.9995
    theirs = warped_by_itk(tmp_path, result, tmp_path / "labels.nii.gz", labels=True)
    assert (theirs == written("WarpedLabels.nii.gz")).mean() > 0.9995

    fill = float(seen.moving.data.min())
    names = ["1Warp.nii.gz"] + (["0GenericAffine.mat"] if result.initial else [])
    for transforms in (result.transforms, [read_transform(tmp_path / name) for name in names]):
        again = resample(seen.moving, seen.fixed.grid, transforms, fill=fill).data
        assert ((again - result.warped.data).abs() < 0.5).float().mean() > 0.9995


def test_nothing_depends_on_the_order_in_which_voxels_are_stored(pair, plain):
    """Axes permuted and flipped in storage, the world as before: one field in the world."""
    stored = place(pair.fixed.grid, **PERMUTED, flips=(-1, -1, 1))
    lps = moved_to(pair, stored, stored)
    volumes = [Nifti1Image(*source(image)) for image in (lps.fixed, lps.moving)]
    canonical = [as_closest_canonical(volume) for volume in volumes]
    assert canonical[0].shape == SIZE["shape"] != volumes[0].shape
    # Filters of one width, for then the order of the axes does not matter to them.
    layer = VoxelOptLayer.from_preset("intensity", adaptive=False)
    by_storage = register(*volumes, window=WINDOW, layer=layer).field
    by_canonical = register(*canonical, window=WINDOW, layer=layer).field
    as_volume = Nifti1Image(
        by_storage.displacement_mm[0].permute(1, 2, 3, 0).numpy(), by_storage.grid.affine
    )
    turned = np.asarray(as_closest_canonical(as_volume).dataobj)
    difference = by_canonical.displacement_mm[0].permute(1, 2, 3, 0).numpy() - turned
    length = by_canonical.displacement_mm.norm(dim=1).mean()
    assert np.linalg.norm(difference, axis=-1).mean() < 0.002 * length
    # And the same as on the grid the phantom was made on, which is the canonical one.
    by_default = register(*canonical, window=WINDOW).field
    # But for hard choices that rounding tips.
    apart = (by_default.displacement_mm - plain.field.displacement_mm).abs()
    assert apart.mean() < 0.005 and apart.max() < 0.5
