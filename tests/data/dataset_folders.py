"""Small datasets on disk for the tests of layouts, preparation and data modules."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Image
from scipy.ndimage import gaussian_filter

from voxelopt_train.data.prepare import Settings

SHAPE = (14, 12, 10)
SMALL = Settings(spacing_mm=3.0, shape=(12, 10, 8))


def touch(folder: Path, names: Iterable[str]) -> None:
    """Empty files: finding a dataset does not open them."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Nifti1Image(array, affine).to_filename(path)


def voxels(path: Path) -> np.ndarray:
    return np.asarray(Nifti1Image.from_filename(path).dataobj)


def affine_of(path: Path) -> np.ndarray:
    affine = Nifti1Image.from_filename(path).affine
    assert affine is not None
    return affine


def write_subjects(folder: Path, names: Iterable[str], labels: int = 2, keypoints: int = 0) -> None:
    """``image_NAME.nii.gz``, ``label_NAME.nii.gz`` and ``points_NAME.csv``, seeded by position."""
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    for seed, name in enumerate(names):
        random = np.random.default_rng(seed)
        smooth = gaussian_filter(random.standard_normal(SHAPE), 1.5)
        write(folder / f"image_{name}.nii.gz", 100 * smooth.astype(np.float32), affine)
        if labels:
            classes = np.digitize(smooth, np.quantile(smooth, np.arange(1, labels + 1) / 4))
            write(folder / f"label_{name}.nii.gz", classes.astype(np.uint8), affine)
        if keypoints:
            points = random.uniform(3, 6, (keypoints, 3))
            np.savetxt(folder / f"points_{name}.csv", points, delimiter=",")
