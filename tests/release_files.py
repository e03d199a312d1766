"""Files of every kind that this version writes, for later versions to read.

``python tests/release_files.py`` makes ``tests/fixtures/VERSION``, once for each release: what is
there already is never written again. `test_compatibility` reads those of all releases.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule

import voxelopt_layers
from tiny_training import CLASSES, encoder, layer, phantoms, trainer, unet
from voxelopt_models import FeatureEncoder
from voxelopt_train.cli import main as voxelopt
from voxelopt_train.learning import RegistrationLoss, RegistrationModule, SegmentationModule
from voxelopt_train.transforms import CompositeTransform, Transform, write_transform
from voxelopt_train.transforms.maps import map_points
from worlds import make_grid, some_affine, some_field

sys.path.append(str(Path(__file__).parent / "data"))
from dataset_folders import write_subjects

FIXTURES = Path(__file__).parent / "fixtures"
FIXED = make_grid((10, 6, 8), (3, 4, 2), (25, 10, -40), (1, 2, 0), (-1, 1, 1))
MOVING = make_grid((10, 6, 8), (2.2, 3, 3), (-30, 5, 15), (2, 1, 0), (1, -1, 1))
LINEAR = {"linear.mat": "itk", "linear.tfm": "itk", "flirt.mat": "fsl"}
DENSE = {
    "itk.nii.gz": "itk", "itk.h5": "itk", "nifti.nii.gz": "nifti", "fsl.nii.gz": "fsl",
    "niftyreg_def.nii.gz": "niftyreg-def", "niftyreg_disp.nii.gz": "niftyreg-disp",
    "learn2reg.nii.gz": "learn2reg",
}  # fmt: skip


def registration() -> LightningModule:
    return RegistrationModule(encoder(), layer(learnable=["alpha"]), RegistrationLoss())


def segmentation() -> LightningModule:
    return SegmentationModule(FeatureEncoder(unet(CLASSES), divisor=2))


MODULES = {"registration": registration, "segmentation": segmentation}


def result(module: LightningModule) -> torch.Tensor:
    """What a network makes of two images: a displacement, or scores of the labels."""
    generator = torch.Generator().manual_seed(0)
    pair = [torch.rand(1, 1, 12, 10, 14, generator=generator) for _ in range(2)]
    with torch.no_grad():
        if isinstance(module, RegistrationModule):
            return module.eval().net(*pair)
        assert isinstance(module, SegmentationModule)
        return module.eval().encoder(pair[0])


def points() -> torch.Tensor:
    """The voxels of the fixed image, RAS mm, where every format says what is meant."""
    axes = [torch.arange(n, dtype=torch.float64) for n in FIXED.shape]
    return map_points(FIXED.affine, torch.stack(torch.meshgrid(*axes, indexing="ij"))[None])


def _checkpoints(folder: Path) -> dict[str, np.ndarray]:
    outputs = {}
    for name, make in MODULES.items():
        module = make()
        with tempfile.TemporaryDirectory() as root:
            run = trainer(Path(root))
            run.fit(module, datamodule=phantoms())
        run.save_checkpoint(folder / f"{name}.ckpt")  # a callback would keep this machine's paths
        outputs[name] = result(module).numpy()
    return outputs


def _transforms(folder: Path) -> dict[str, np.ndarray]:
    folder.mkdir()
    chains: dict[str, list[Transform]] = {
        "linear": [some_affine()],
        "dense": [some_field(FIXED), some_affine()],
    }
    for files, chain in ((LINEAR, chains["linear"]), (DENSE, chains["dense"])):
        for name, to in files.items():
            write_transform(folder / name, chain, to, FIXED, MOVING)
    at = points()
    return {name: CompositeTransform(tuple(chain))(at).numpy() for name, chain in chains.items()}


def _prepared(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as root:
        write_subjects(Path(root), "abcdef")
        names = ["--images", "image_*.nii.gz", "--labels", "label_*.nii.gz"]
        splits = ["--train", "a,b", "--validation", "c,d", "--test", "e,f"]
        grid = ["--spacing", "6", "--shape", "8", "8", "8"]
        code = voxelopt(["prepare", root, "-o", str(folder), *names, *grid, *splits])
        assert code == 0
    shutil.rmtree(folder / "records")  # what `prepare` goes on by; they name this machine's files


def main() -> None:
    """Write the files of this version."""
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    folder = FIXTURES / voxelopt_layers.__version__
    if folder.exists():
        sys.exit(f"{folder} is there already, and is to stay as it is")
    folder.mkdir(parents=True)
    arrays: dict[str, Any] = {**_checkpoints(folder), **_transforms(folder / "transforms")}
    np.savez_compressed(folder / "expected.npz", **arrays)
    _prepared(folder / "prepared")


if __name__ == "__main__":
    main()
