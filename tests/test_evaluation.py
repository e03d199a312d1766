"""``test`` and ``predict``: tables of all pairs, and warps that ITK applies to the scans."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from nibabel.nifti1 import Nifti1Image

from tiny_training import batches, encoder, layer, trainer
from voxelopt_layers import warp
from voxelopt_models import MINDSSC
from voxelopt_train.data.datamodule import PairDataModule, PhantomDataModule
from voxelopt_train.data.layouts import find_cohort
from voxelopt_train.data.prepare import Settings, prepare
from voxelopt_train.learning import RegistrationModule
from voxelopt_train.metrics import evaluate
from voxelopt_train.phantom import ORGANS, abdomen
from voxelopt_train.tables import ResultTable

LABELS = tuple(ORGANS)
# How each scan is stored: voxel edge in mm, where its first voxel is in the world, its axes.
SCANS = {
    "s1": (12.0, (-150.0, 40.0, 900.0), (1, 1, 1)),
    "s2": (11.0, (300.0, -80.0, 5.0), (-1, 1, -1)),
}


class NotCalled(torch.nn.Module):
    def forward(self, image):
        raise AssertionError("no image was to be encoded")


def mind() -> RegistrationModule:
    return RegistrationModule(MINDSSC(), layer(levels=4, temperature=0.003))


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """CT of two patients on grids of their own, far from each other in the world."""
    folder = tmp_path_factory.mktemp("scans")
    for patient, (name, (edge_mm, origin, axes)) in enumerate(SCANS.items()):
        image, labels = abdomen(patient, (32, 26, 30), edge_mm)
        affine = np.diag([*(edge_mm * np.array(axes)), 1.0])
        affine[:3, 3] = origin
        flip = tuple(slice(None, None, sense) for sense in axes)
        organs = labels.data.numpy()[flip]
        for kind, array in (
            ("image", image.data.numpy()[flip]),
            ("label", organs.astype(np.uint8)),
        ):
            Nifti1Image(array, affine).to_filename(folder / f"{kind}_{name}.nii.gz")
        centers = [np.argwhere(organs == label).mean(0) for label in (1, 6, 7)]
        np.savetxt(folder / f"points_{name}.csv", centers, delimiter=",")
    return folder


@pytest.fixture(scope="module")
def data(scans) -> PairDataModule:
    cohort = find_cohort(
        scans,
        images="image_*.nii.gz",
        labels="label_*.nii.gz",
        keypoints="points_*.csv",
        test="s1,s2",
    )
    settings = Settings(spacing_mm=12.0, shape=(28, 24, 28), window=(-800.0, 500.0))
    prepare(cohort, scans / "prepared", settings)
    return PairDataModule(scans / "prepared")


def test_the_tables_say_what_evaluate_says(tmp_path, data):
    module = mind()
    (logged,) = trainer(tmp_path).test(module, datamodule=data, verbose=False)
    table = ResultTable.read(tmp_path / "test.json")
    assert table == module.table
    assert [(pair.fixed, pair.moving) for pair in table.pairs] == [("s1", "s2"), ("s2", "s1")]
    for pair, batch in zip(table.pairs, batches(data.test_dataloader()), strict=True):
        fixed, moving = batch["fixed_labels"], batch["moving_labels"]
        u = module.solve(batch).displacement
        warped = warp(moving, u, mode="nearest")
        maps = fixed[0, 0], moving[0, 0], warped[0, 0]
        expected = evaluate(*maps, u, (12.0,) * 3, labels=LABELS)
        assert pair.dice == pytest.approx(expected.mean_dice)
        assert pair.dice_per_label == pytest.approx(expected.dice)
        assert pair.hd95 == pytest.approx(expected.mean_hd95)
        assert pair.folds == pytest.approx(expected.folds)
        assert pair.sd_log_jacobian == pytest.approx(expected.sd_log_jacobian)
        assert pair.dice_before < pair.dice
        assert 0 < pair.tre < 60 and pair.seconds > 0
    means = {name: statistics.mean for name, statistics in table.summary().items()}
    assert {f"test/{name}": mean for name, mean in means.items()} == pytest.approx(logged, rel=1e-5)
    with (tmp_path / "test.csv").open() as file:
        assert [float(row["dice"]) for row in csv.DictReader(file)] == [p.dice for p in table.pairs]
    assert "| Dice before |" in (tmp_path / "test.md").read_text()


class PartlyLabelled(PhantomDataModule):
    """Patients of which the last has no labels."""

    def volumes(self, names):
        *others, last = super().volumes(names)
        return [*others, {key: value for key, value in last.items() if key != "labels"}]


def test_pairs_without_labels_leave_cells_empty(tmp_path):
    data = PartlyLabelled((2, 2, 3), (24, 20, 24), 16.0)
    module = mind()
    trainer(tmp_path).test(module, datamodule=data, verbose=False)
    labelled = [pair.dice == pair.dice for pair in module.table.pairs]  # not NaN
    assert labelled == ["phantom6" not in names for names in data.pair_names("test")]
    assert module.table.summary()["dice"].pairs == 2
    assert module.table.summary()["folds"].pairs == 6


def test_precomputed_features_take_the_place_of_the_encoder(tmp_path, scans, data):
    folder = tmp_path / "features"
    folder.mkdir()
    for name in SCANS:
        image = Nifti1Image.from_filename(scans / "prepared" / "images" / f"{name}.nii.gz")
        volume = torch.from_numpy(image.get_fdata(dtype=np.float32))[None, None]
        np.save(folder / f"{name}.npy", MINDSSC()(volume)[0].numpy())
    precomputed = RegistrationModule(NotCalled(), mind().net.layer)
    given = PairDataModule(scans / "prepared", features=folder)
    trainer(tmp_path).test(precomputed, datamodule=given, verbose=False)
    module = mind()
    trainer(tmp_path).test(module, datamodule=data, verbose=False)
    for ours, theirs in zip(precomputed.table.pairs, module.table.pairs, strict=True):
        assert ours.dice_per_label == theirs.dice_per_label and ours.folds == theirs.folds


def test_itk_applies_the_warps_to_the_scans(tmp_path, scans, data):
    sitk = pytest.importorskip("SimpleITK")
    module = mind()
    ((path,), (other,)) = trainer(tmp_path).predict(module, datamodule=data)  # pyright: ignore
    assert path == tmp_path / "warps" / "s1_s2_1Warp.nii.gz" and other.is_file()

    def read(file: Path, pixels):
        return sitk.ReadImage(str(file), pixels)

    field = sitk.DisplacementFieldTransform(read(path, sitk.sitkVectorFloat64))

    # On the prepared grids: exactly what the network's own displacement does.
    images = [scans / "prepared" / "images" / f"{name}.nii.gz" for name in ("s1", "s2")]
    fixed, moving = (read(file, sitk.sitkFloat32) for file in images)
    by_itk = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, field, sitk.sitkLinear, -1.0))
    batch = batches(data.test_dataloader())[0]
    u = module.solve(batch).displacement
    ours = warp(batch["moving"], u, boundary="border")[0, 0].numpy().transpose(2, 1, 0)
    inside = by_itk >= 0
    assert inside.mean() > 0.9
    np.testing.assert_allclose(by_itk[inside], ours[inside], atol=1e-4)

    # On the scans themselves: the organs of the one come to lie on those of the other.
    fixed, moving = (read(scans / f"label_{name}.nii.gz", sitk.sitkUInt8) for name in SCANS)
    warped = sitk.Resample(moving, fixed, field, sitk.sitkNearestNeighbor)
    maps = [sitk.GetArrayFromImage(image).astype(np.int32) for image in (fixed, warped)]
    dice = evaluate(maps[0], maps[0], maps[1], None, (12.0,) * 3, labels=LABELS).mean_dice
    trainer(tmp_path).test(module, datamodule=data, verbose=False)
    assert dice > module.table.pairs[0].dice_before + 0.05
    assert dice == pytest.approx(module.table.pairs[0].dice, abs=0.08)


def test_warps_that_are_there_are_left_alone(tmp_path, data, caplog):
    module, run = mind(), trainer(tmp_path)
    run.predict(module, datamodule=data)
    assert "were there already" not in caplog.text
    files = sorted((tmp_path / "warps").iterdir())
    assert len(files) == 2
    times = [file.stat().st_mtime_ns for file in files]
    content = files[1].read_bytes()
    assert run.predict(RegistrationModule(NotCalled()), datamodule=data) == [[], []]
    assert "2 warps were there already" in caplog.text
    assert [file.stat().st_mtime_ns for file in files] == times
    files[1].unlink()
    assert run.predict(module, datamodule=data) == [[], [files[1]]]
    assert files[0].stat().st_mtime_ns == times[0] and files[1].read_bytes() == content


def test_a_module_is_a_network_too(data):
    module, batch = RegistrationModule(encoder(), layer()), batches(data.test_dataloader())[0]
    u = module(batch["fixed"], batch["moving"])
    assert u.shape == (1, 3, 28, 24, 28)
    torch.testing.assert_close(u, module.solve(batch).displacement)
