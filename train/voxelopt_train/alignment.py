"""Initial alignment of two images, before the deformable registration.

All of them give the affine transform that maps fixed world points to moving world points, RAS mm.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid, isotropic_grid
from voxelopt_train.images import Image
from voxelopt_train.nifti_names import is_nifti
from voxelopt_train.resampling import resample
from voxelopt_train.transforms import (
    RAS_TO_LPS,
    AffineTransform,
    read_transform,
    transform_file,
)

if TYPE_CHECKING:
    import SimpleITK as sitk

# What an initial alignment is called that is no file.
ALIGNMENTS = ("none", "center-of-mass", "affine")
_EXPECTED = "expected none, center-of-mass, affine, or the file of a linear transform"
_NEEDS_SIMPLEITK = "affine alignment needs SimpleITK: pip install SimpleITK"
_WORKING_VOXELS = 80  # along the longest axis of the images that are registered
_SAMPLES = 30_000  # voxels that the mutual information is estimated from, per level
_SEED = 1
_ANYWHERE = Grid((1, 1, 1), np.eye(4))  # of images that are not there yet


def initial_alignment(fixed: Image, moving: Image, method: str) -> AffineTransform | None:
    """Find the affine transform to start from.

    Args:
        fixed: the image whose grid the result will be on.
        moving: the image that is to be moved.
        method: ``"none"``; ``"center-of-mass"``, a translation; ``"affine"``, 12 parameters by
            mutual information, which needs SimpleITK; or the file of a linear transform, of ITK
            or FLIRT.

    Returns:
        Transform from the fixed to the moving world, RAS mm; None for ``"none"``.

    Raises:
        InputError: SimpleITK is not installed, its registration fails, or the file is no linear
            transform.
    """
    _check_kind(method)
    if method == "none":
        return None
    if method == "center-of-mass":
        return _translation(center_of_mass(moving) - center_of_mass(fixed))
    if method == "affine":
        return register_affine(fixed, moving)
    return _read_alignment(method, fixed.grid, moving.grid)


def check_alignment(method: str) -> None:
    """Raise InputError for what `initial_alignment` refuses whatever the images are."""
    _check_kind(method)
    if method == "affine" and importlib.util.find_spec("SimpleITK") is None:
        raise InputError(_NEEDS_SIMPLEITK)
    if method not in ALIGNMENTS:
        _read_alignment(method, _ANYWHERE, _ANYWHERE)


def _check_kind(method: object) -> None:
    if not isinstance(method, str | Path) or not str(method):
        got = repr(method) if isinstance(method, str) else type(method).__name__
        raise InputError(f"initial alignment: {_EXPECTED}, got {got}")


def _read_alignment(method: str, fixed: Grid, moving: Grid) -> AffineTransform:
    if not transform_file(method).exists():
        raise InputError(f"initial alignment {method}: {_EXPECTED}, and there is no such file")
    if is_nifti(transform_file(method)):
        raise InputError(
            f"initial alignment {method}: {_EXPECTED} (.mat, .tfm, .txt, .h5), this is an image or "
            "a displacement field"
        )
    transform = read_transform(method, fixed, moving)
    if not isinstance(transform, AffineTransform):
        raise InputError(
            f"initial alignment {method}: expected a linear transform, this one is deformable"
        )
    return transform


def center_of_mass(image: Image) -> np.ndarray:
    """Centre of mass ``(3,)`` in RAS mm, each voxel weighing its intensity above the minimum.

    So the air of a CT, at -1000 HU, weighs nothing. A constant image gives its centre.
    """
    weights = image.data.double() - image.data.min()
    if not weights.any():
        weights = torch.ones_like(weights)
    centre = np.ones(4)
    for axis, n in enumerate(image.grid.shape):
        profile = weights.sum(dim=[other for other in range(3) if other != axis]).cpu()
        centre[axis] = float(profile @ torch.arange(n, dtype=torch.float64) / profile.sum())
    return (image.grid.affine @ centre)[:3]


def _translation(offset: np.ndarray) -> AffineTransform:
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return AffineTransform(matrix)


def register_affine(fixed: Image, moving: Image) -> AffineTransform:
    """Affine registration with SimpleITK: Mattes mutual information, rigid, then 12 parameters.

    It starts from the best of three translations: none, centre on centre, and centre of mass on
    centre of mass. Sums in one thread and a fixed seed make it repeatable.

    Raises:
        InputError: SimpleITK is not installed, or finds no alignment.
    """
    try:
        import SimpleITK as sitk
    except ImportError as error:
        raise InputError(_NEEDS_SIMPLEITK) from error
    fixed, moving = _working_copy(fixed), _working_copy(moving)
    masses = center_of_mass(fixed), center_of_mass(moving)
    offsets = np.zeros(3), moving.grid.center - fixed.grid.center, masses[1] - masses[0]
    fixed_itk, moving_itk = _to_itk(fixed), _to_itk(moving)
    rigid = sitk.Euler3DTransform()
    rigid.SetCenter(_flip_xy(masses[0]))
    method = _registration(fixed_itk, shrink=[4, 2])

    def cost(offset: np.ndarray) -> float:
        rigid.SetTranslation(_flip_xy(offset))
        method.SetInitialTransform(rigid)
        try:
            return method.MetricEvaluate(fixed_itk, moving_itk)
        except RuntimeError:  # the two do not overlap there
            return np.inf

    try:
        rigid.SetTranslation(_flip_xy(min(offsets, key=cost)))
        method.SetInitialTransform(rigid, inPlace=True)
        method.Execute(fixed_itk, moving_itk)
        affine = sitk.AffineTransform(3)
        affine.SetCenter(rigid.GetCenter())
        affine.SetMatrix(rigid.GetMatrix())
        affine.SetTranslation(rigid.GetTranslation())
        method = _registration(fixed_itk, shrink=[4, 2, 1])
        method.SetInitialTransform(affine, inPlace=True)
        method.Execute(fixed_itk, moving_itk)
    except RuntimeError as error:
        raise InputError(
            f"no affine alignment of {moving.name} to {fixed.name} was found, try center-of-mass"
        ) from error
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(affine.GetMatrix(), (3, 3))
    center = np.asarray(affine.GetCenter())
    lps[:3, 3] = center + affine.GetTranslation() - lps[:3, :3] @ center
    return AffineTransform(RAS_TO_LPS @ lps @ RAS_TO_LPS)


def _registration(fixed: sitk.Image, shrink: list[int]) -> sitk.ImageRegistrationMethod:
    """Metric and optimiser, with one resolution for each factor of ``shrink``."""
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfWorkUnits(1)  # sums over threads would differ from run to run
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    shares = [min(1.0, _SAMPLES * n**3 / fixed.GetNumberOfPixels()) for n in shrink]
    method.SetMetricSamplingPercentagePerLevel(shares, _SEED)
    # At few samples, gradients are cheaper taken there than filtered over both images.
    method.SetMetricUseFixedImageGradientFilter(False)
    method.SetMetricUseMovingImageGradientFilter(False)
    method.SetInterpolator(sitk.sitkLinear)
    # A first step of one voxel: longer ones throw the 12 parameters off for good.
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0,
        minStep=1e-3,
        numberOfIterations=100,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-8,
        estimateLearningRate=method.Once,
        maximumStepSizeInPhysicalUnits=fixed.GetSpacing()[0],
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(shrink)
    method.SetSmoothingSigmasPerLevel([n / 2 if n > 1 else 0.0 for n in shrink])
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(False)
    return method


def _working_copy(image: Image) -> Image:
    """Resample to cubic voxels: some 5 mm in an abdomen, less in what is smaller."""
    extent = max(n * mm for n, mm in zip(image.grid.shape, image.grid.spacing, strict=True))
    grid = isotropic_grid(image.grid, extent / _WORKING_VOXELS)
    return resample(image, grid, fill=float(image.data.min()), antialias=True)


def _flip_xy(vector_ras: np.ndarray) -> list[float]:
    return (RAS_TO_LPS[:3, :3] @ vector_ras).tolist()


def _to_itk(image: Image) -> sitk.Image:
    import SimpleITK as sitk

    # SimpleITK's arrays have the axes reversed, z first.
    volume = sitk.GetImageFromArray(image.data.cpu().permute(2, 1, 0).contiguous().numpy())
    lps = RAS_TO_LPS @ image.grid.affine
    volume.SetSpacing(image.grid.spacing)
    volume.SetOrigin(lps[:3, 3].tolist())
    volume.SetDirection((lps[:3, :3] / image.grid.spacing).ravel().tolist())
    return volume
