"""What earlier releases wrote is still read, and means the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nibabel.nifti1 import Nifti1Image

from release_files import DENSE, FIXED, FIXTURES, LINEAR, MODULES, MOVING, points, result
from voxelopt_train.cli import main
from voxelopt_train.transforms import read_transform

RELEASES = sorted(path.name for path in FIXTURES.iterdir())
release = pytest.mark.parametrize("release", RELEASES)


def expected(release: str, name: str) -> np.ndarray:
    with np.load(FIXTURES / release / "expected.npz", allow_pickle=False) as arrays:
        return arrays[name]


def test_there_are_releases():
    assert "0.1.0" in RELEASES


@release
@pytest.mark.parametrize("name", MODULES)
def test_checkpoint(release, name):
    module = MODULES[name]()
    before = result(module)
    path = FIXTURES / release / f"{name}.ckpt"
    module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    after = result(module).numpy()
    assert np.abs(after - before.numpy()).max() > 1e-4  # training has changed something
    np.testing.assert_allclose(after, expected(release, name), atol=1e-3)


@release
@pytest.mark.parametrize("name", [*LINEAR, *DENSE])
def test_transform(release, name):
    path = FIXTURES / release / "transforms" / name
    spec = f"learn2reg:{path}" if name.startswith("learn2reg") else path
    mapped = read_transform(spec, FIXED, MOVING)(points()).numpy()
    kind = "linear" if name in LINEAR else "dense"
    np.testing.assert_allclose(mapped, expected(release, kind), atol=1e-3)


@release
def test_prepared_data(release, tmp_path):
    data = FIXTURES / release / "prepared"
    code = main(
        ["predict", "--config", "mind", "--data", str(data), "-o", str(tmp_path / "run"),
         "--trainer.enable_progress_bar=false"]
    )  # fmt: skip
    assert code == 0
    fields = sorted((tmp_path / "run" / "warps").iterdir())
    assert len(fields) == 2
    for path in fields:
        field = np.asarray(Nifti1Image.from_filename(path).dataobj)
        assert np.isfinite(field).all() and np.abs(field).max() > 0.1
