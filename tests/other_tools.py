"""What other tools make of our transform files: each warps an image with its own code.

Run as a program, it prints how far each is from our own warped image, over all pairs of grids.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.blocks.warp import Warp
from nibabel.nifti1 import Nifti1Image
from scipy.ndimage import map_coordinates

from voxelopt_train.grids import Grid
from voxelopt_train.images import Image, write_nifti
from voxelopt_train.resampling import resample
from voxelopt_train.transforms import (
    Transform,
    from_simpleitk,
    read_transform,
    to_ddf,
    to_simpleitk,
    write_transform,
)
from worlds import PAIRS, some_affine, some_field, some_image

OUTSIDE = -1000


def chain_on(fixed: Grid) -> list[Transform]:
    """A field and an affine."""
    return [some_field(fixed), some_affine()]


def affine_alone(fixed: Grid) -> list[Transform]:
    """What FLIRT's matrices can hold."""
    return [some_affine()]


Chain = Callable[[Grid], list[Transform]]


def our_image(fixed: Grid, moving: Image, chain: Chain = chain_on) -> np.ndarray:
    return resample(moving, fixed, chain(fixed), fill=OUTSIDE).data.numpy()


def _written(
    folder: Path, fixed: Grid, moving: Image, name: str, to: str, chain: Chain = chain_on
) -> str:
    """The images, and the chain in one file; returns the file's name."""
    write_nifti(folder / "fixed.nii.gz", np.zeros(fixed.shape, np.float32), fixed.affine)
    write_nifti(folder / "moving.nii.gz", moving.data, moving.grid.affine)
    write_transform(folder / name, chain(fixed), to, fixed, moving.grid)
    return str(folder / name)


def _with_simpleitk(folder: Path, transform: Any) -> np.ndarray:
    import SimpleITK as sitk

    moving, fixed = (sitk.ReadImage(str(folder / f"{n}.nii.gz")) for n in ("moving", "fixed"))
    warped = sitk.Resample(moving, fixed, transform, sitk.sitkLinear, OUTSIDE)
    return sitk.GetArrayFromImage(warped).T


def itk_field(folder: Path, fixed: Grid, moving: Image) -> np.ndarray:
    import SimpleITK as sitk

    path = _written(folder, fixed, moving, "t.nii.gz", "itk")
    field = sitk.ReadImage(path, sitk.sitkVectorFloat64)
    return _with_simpleitk(folder, sitk.DisplacementFieldTransform(field))


def itk_composite(folder: Path, fixed: Grid, moving: Image, suffix: str = ".h5") -> np.ndarray:
    import SimpleITK as sitk

    path = _written(folder, fixed, moving, f"t{suffix}", "itk")
    return _with_simpleitk(folder, sitk.ReadTransform(path))


def itk_text(folder: Path, fixed: Grid, moving: Image) -> np.ndarray:
    return itk_composite(folder, fixed, moving, ".tfm")


def itk_in_memory(folder: Path, fixed: Grid, moving: Image) -> np.ndarray:
    _written(folder, fixed, moving, "t.h5", "itk")
    return _with_simpleitk(folder, to_simpleitk(chain_on(fixed)))


def ants_field(folder: Path, fixed: Grid, moving: Image, name: str = "t.nii.gz") -> np.ndarray:
    ants = import_module("ants")

    path = _written(folder, fixed, moving, name, "itk")
    images = (ants.image_read(str(folder / f"{n}.nii.gz")) for n in ("fixed", "moving"))
    return ants.apply_transforms(*images, transformlist=[path], defaultvalue=OUTSIDE).numpy()


def ants_composite(folder: Path, fixed: Grid, moving: Image) -> np.ndarray:
    return ants_field(folder, fixed, moving, "t.h5")


def nitransforms_itk(folder: Path, fixed: Grid, moving: Image) -> np.ndarray:
    from nitransforms.nonlinear import DenseFieldTransform
    from nitransforms.resampling import apply

    transform = DenseFieldTransform.from_filename(
        _written(folder, fixed, moving, "t.nii.gz", "itk"), fmt="itk"
    )
    images = (str(folder / f"{n}.nii.gz") for n in ("moving", "fixed"))
    warped: Any = apply(transform, *images, order=1, cval=OUTSIDE)
    return np.asarray(warped.dataobj)


def fslpy_warp(folder: Path, fixed: Grid, moving: Image) -> np.ndarray:
    from fsl.data.image import Image as FslImage
    from fsl.transform.fnirt import readFnirt
    from fsl.transform.nonlinear import applyDeformation

    path = _written(folder, fixed, moving, "t.nii.gz", "fsl")
    source, reference = (FslImage(str(folder / f"{n}.nii.gz")) for n in ("moving", "fixed"))
    field = readFnirt(path, source, reference, defType="relative")
    return applyDeformation(source, field, ref=reference, order=1, mode="constant", cval=OUTSIDE)


def fslpy_flirt(folder: Path, fixed: Grid, moving: Image) -> np.ndarray:
    from fsl.data.image import Image as FslImage
    from fsl.transform.flirt import fromFlirt, readFlirt
    from fsl.utils.image.resample import resampleToReference

    path = _written(folder, fixed, moving, "t.mat", "fsl", affine_alone)
    source, reference = (FslImage(str(folder / f"{n}.nii.gz")) for n in ("moving", "fixed"))
    matrix = fromFlirt(readFlirt(path), source, reference, "world", "world")
    how = {"order": 1, "smooth": False, "mode": "constant", "cval": OUTSIDE}
    return resampleToReference(source, reference, matrix, **how)[0]


def nitransforms_flirt(folder: Path, fixed: Grid, moving: Image) -> np.ndarray:
    from nitransforms.linear import Affine
    from nitransforms.resampling import apply

    path = _written(folder, fixed, moving, "t.mat", "fsl", affine_alone)
    images = [str(folder / f"{n}.nii.gz") for n in ("moving", "fixed")]
    transform = Affine.from_filename(path, fmt="fsl", moving=images[0], reference=images[1])
    warped: Any = apply(transform, *images, order=1, cval=OUTSIDE)
    return np.asarray(warped.dataobj)


def niftyreg(folder: Path, fixed: Grid, moving: Image, to: str) -> np.ndarray:
    path = _written(folder, fixed, moving, "t.nii.gz", to)
    files = {"ref": folder / "fixed.nii.gz", "flo": folder / "moving.nii.gz", "trans": path}
    options = [text for name, file in files.items() for text in (f"-{name}", str(file))]
    warped = folder / "warped.nii.gz"
    command = ["reg_resample", *options, "-res", str(warped), "-inter", "1", "-pad", str(OUTSIDE)]
    subprocess.run(command, check=True, capture_output=True)
    return Nifti1Image.from_filename(warped).get_fdata()


def learn2reg_evaluation(folder: Path, fixed: Grid, moving: Image) -> np.ndarray:
    """As the challenge's evaluation, which indexes the moving array."""
    path = _written(folder, fixed, moving, "t.nii.gz", "learn2reg")
    displacement = np.moveaxis(Nifti1Image.from_filename(path).get_fdata(), -1, 0)
    where = np.indices(fixed.shape) + displacement
    return map_coordinates(moving.data.numpy(), where, order=1, cval=OUTSIDE)


def monai_warp(folder: Path, fixed: Grid, moving: Image) -> np.ndarray:
    ddf = to_ddf(chain_on(fixed), fixed, moving.grid)
    return Warp("bilinear", "zeros")(moving.data[None, None], ddf)[0, 0].numpy()


def _read_back(
    name: str, to: str, chain: Chain = chain_on
) -> Callable[[Path, Grid, Image], np.ndarray]:
    def warped(folder: Path, fixed: Grid, moving: Image) -> np.ndarray:
        path = _written(folder, fixed, moving, name, to, chain)
        transform = read_transform(path, fixed, moving.grid)
        return resample(moving, fixed, [transform], fill=OUTSIDE).data.numpy()

    return warped


def _simpleitk_read_back(folder: Path, fixed: Grid, moving: Image) -> np.ndarray:
    transform = from_simpleitk(to_simpleitk(chain_on(fixed)))
    return resample(moving, fixed, [transform], fill=OUTSIDE).data.numpy()


@dataclass(frozen=True)
class Tool:
    """How one tool warps an image by one of our files, and the module or program that it needs."""

    warped: Callable[[Path, Grid, Image], np.ndarray]
    needs: str = "voxelopt_train"
    one_shape: bool = False  # of fixed and moving image
    chain: Chain = chain_on  # what is in our file

    @property
    def installed(self) -> bool:
        return shutil.which(self.needs) is not None or find_spec(self.needs) is not None


TOOLS = {
    "itk .nii.gz, SimpleITK": Tool(itk_field, "SimpleITK"),
    "itk .nii.gz, ANTsPy": Tool(ants_field, "ants"),
    "itk .nii.gz, nitransforms": Tool(nitransforms_itk, "nitransforms"),
    "itk .h5, SimpleITK": Tool(itk_composite, "SimpleITK"),
    "itk .h5, ANTsPy": Tool(ants_composite, "ants"),
    "itk .tfm, SimpleITK": Tool(itk_text, "SimpleITK"),
    "in memory, SimpleITK": Tool(itk_in_memory, "SimpleITK"),
    "in memory, MONAI's Warp": Tool(monai_warp, one_shape=True),
    "fsl, fslpy": Tool(fslpy_warp, "fsl"),
    "fsl .mat, fslpy": Tool(fslpy_flirt, "fsl", chain=affine_alone),
    "fsl .mat, nitransforms": Tool(nitransforms_flirt, "nitransforms", chain=affine_alone),
    "niftyreg-def, NiftyReg": Tool(partial(niftyreg, to="niftyreg-def"), "reg_resample"),
    "niftyreg-disp, NiftyReg": Tool(partial(niftyreg, to="niftyreg-disp"), "reg_resample"),
    "learn2reg, scipy as its evaluation": Tool(learn2reg_evaluation, one_shape=True),
    "itk .nii.gz, read back": Tool(_read_back("t.nii.gz", "itk")),
    "itk .h5, read back": Tool(_read_back("t.h5", "itk")),
    "itk .tfm, read back": Tool(_read_back("t.tfm", "itk")),
    "in memory, SimpleITK's read back": Tool(_simpleitk_read_back, "SimpleITK"),
    "nifti, read back": Tool(_read_back("t.nii.gz", "nifti")),
    "niftyreg-def, read back": Tool(_read_back("t.nii.gz", "niftyreg-def")),
    "niftyreg-disp, read back": Tool(_read_back("t.nii.gz", "niftyreg-disp")),
    "fsl, read back": Tool(_read_back("t.nii.gz", "fsl")),
    "fsl .mat, read back": Tool(_read_back("t.mat", "fsl", affine_alone), chain=affine_alone),
}


def difference(tool: Tool, folder: Path, pair: str) -> float:
    """Largest difference to our warped image, in per cent of the image's standard deviation.

    Taken wherever the chain leads to at least a voxel inside the moving image: some tools blend
    what is outside into the edge.
    """
    fixed, moving_grid = PAIRS[pair]
    if tool.one_shape:
        steps = moving_grid.affine[:3, :3] * np.divide(moving_grid.shape, fixed.shape)
        moving_grid = Grid.around(moving_grid.center, fixed.shape, steps)
    moving = some_image(moving_grid)  # with a standard deviation of 100
    seen = torch.zeros(moving_grid.shape)
    seen[1:-1, 1:-1, 1:-1] = 1
    near = our_image(fixed, Image(seen, moving_grid, "marker"), tool.chain) == 1
    assert near.mean() > 0.15, "too little to compare"
    theirs = tool.warped(folder, fixed, moving)
    return float(np.abs(theirs - our_image(fixed, moving, tool.chain))[near].max())


def _print_table() -> None:
    for name, tool in TOOLS.items():
        if not tool.installed:
            print(f"{name:36} not installed")
            continue
        with tempfile.TemporaryDirectory() as folder:
            largest = max(difference(tool, Path(folder), pair) for pair in PAIRS)
        print(f"{name:36} {largest:.4f} %")


if __name__ == "__main__":
    _print_table()
