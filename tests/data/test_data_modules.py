"""Batches, their order in resumed and distributed runs, phantom patients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from dataset_folders import SMALL, affine_of, voxels, write_subjects
from voxelopt_train.data.datamodule import PairDataModule, PhantomDataModule
from voxelopt_train.data.dataset import EpochSampler
from voxelopt_train.data.layouts import find_cohort
from voxelopt_train.data.prepare import prepare
from voxelopt_train.errors import InputError

TRAIN = ["01", "02", "03"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_subjects(folder, [*TRAIN, "04", "05"], keypoints=4)
    cohort = find_cohort(
        folder,
        images="image_*.nii.gz",
        labels="label_*.nii.gz",
        keypoints="points_*.csv",
        train="1-3",
        validation="4-5",
        test="4,5",
    )
    prepare(cohort, folder / "out", SMALL)
    return folder / "out"


def test_a_batch(prepared, tmp_path):
    for name in (*TRAIN, "04", "05"):
        np.save(tmp_path / f"{name}.npy", np.full((5, *SMALL.shape), float(name)))
    data = PairDataModule(prepared, batch_size=2, features=tmp_path)
    assert data.labels == (1, 2) and data.pair_names("train")[:2] == [("01", "02"), ("01", "03")]
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    assert isinstance(batch, dict)
    assert batch["fixed_name"] == ["04", "05"] and batch["moving_name"] == ["05", "04"]
    assert batch["index"].tolist() == [0, 1]
    for side, name in (("fixed", "04"), ("moving", "05")):
        image = voxels(prepared / "images" / f"{name}.nii.gz")
        assert batch[side].shape == (2, 1, *SMALL.shape) and batch[side].dtype == torch.float32
        np.testing.assert_array_equal(batch[side][0, 0].numpy(), image)
        labels = batch[f"{side}_labels"]
        assert labels.shape == batch[side].shape and labels.dtype == torch.uint8
        np.testing.assert_array_equal(
            labels[0, 0].numpy(), voxels(prepared / "labels" / f"{name}.nii.gz")
        )
        points = np.loadtxt(prepared / "keypoints" / f"{name}.csv", delimiter=",")
        np.testing.assert_allclose(batch[f"{side}_keypoints"][0].numpy(), points, atol=1e-4)
        assert batch[f"{side}_features"].shape == (2, 5, *SMALL.shape)
        assert (batch[f"{side}_features"][0] == float(name)).all()
        affine = batch[f"{side}_affine"]
        assert affine.shape == (2, 4, 4) and affine.dtype == torch.float64
        np.testing.assert_array_equal(
            affine[0].numpy(), affine_of(prepared / "images" / f"{name}.nii.gz")
        )
    assert batch["spacing_mm"].tolist() == [[3.0, 3.0, 3.0]] * 2
    plain = {type(value) for value in batch.values()}
    assert plain == {Tensor, list}  # no MetaTensor, whose operators are slower
    elsewhere = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert elsewhere.keys() == batch.keys() and elsewhere["moving_labels"].is_meta
    assert elsewhere["fixed_affine"] is batch["fixed_affine"]  # float64, unknown to MPS


def batches(data: PairDataModule, epoch: int) -> list[dict[str, Any]]:
    loader = data.train_dataloader()
    assert isinstance(loader.sampler, EpochSampler)
    loader.sampler.set_epoch(epoch)
    return list(loader)


def module(prepared: Path, **options: Any) -> PairDataModule:
    data = PairDataModule(prepared, augmentation="mild", **options)
    data.setup("fit")
    return data


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) if isinstance(a[key], Tensor) else a[key] == b[key] for key in a
    )


def test_what_is_trained_on_depends_on_seed_epoch_and_pair_alone(prepared):
    data = module(prepared, seed=7)
    epochs = [batches(data, epoch) for epoch in (0, 1, 2)]
    for options in ({}, {"num_workers": 2}, {"cache_rate": 0.0}):
        again = batches(module(prepared, seed=7, **options), 2)
        assert all(map(same, again, epochs[2])) and len(again) == 6
    orders = [[int(batch["index"]) for batch in epoch] for epoch in epochs]
    assert [sorted(order) for order in orders] == [list(range(6))] * 3
    assert orders[1] != orders[2]
    by_pair = [{int(batch["index"]): batch["fixed"] for batch in epoch} for epoch in epochs]
    assert not torch.equal(by_pair[1][0], by_pair[2][0])
    batch = epochs[0][0]  # one affine for all before, another for each after
    assert not torch.equal(batch["fixed_affine"], batch["moving_affine"])
    other = {int(batch["index"]): batch["fixed"] for batch in batches(module(prepared), 2)}
    assert not torch.equal(by_pair[2][0], other[0])
    validated = list(data.val_dataloader())
    data.augmentation = None
    assert all(map(same, validated, data.val_dataloader()))  # never augmented


def test_processes_share_the_pairs_of_an_epoch(prepared):
    data = module(prepared)
    dataset = data.train_dataloader().dataset
    for epoch in (0, 3):
        seen = []
        for rank in range(4):
            sampler = EpochSampler(dataset, num_replicas=4, rank=rank, seed=0)
            sampler.set_epoch(epoch)
            seen += list(sampler)
        assert {index // 6 for index in seen} == {epoch}
        assert {index % 6 for index in seen} == set(range(6)) and len(seen) == 8


class Recorder(LightningModule):
    """Adds up what it is given, weighted, so that order and content both count."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.1))
        self.seen: list[tuple[int, int, float]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.seen.append((self.current_epoch, int(batch["index"]), float(batch["fixed"].sum())))
        return (self.weight * batch["fixed"] - batch["moving"]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-2)


def fit(data: PairDataModule, folder: Path, epochs: int, resume: Path | None = None) -> Recorder:
    model = Recorder()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, "last")],
    )
    trainer.fit(model, datamodule=data, ckpt_path=resume)
    return model


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
@pytest.mark.filterwarnings("ignore:.*no `validation_step`|.*You defined a|The dirpath has")
def test_a_resumed_run_sees_what_one_without_a_break_sees(prepared, tmp_path):
    whole = fit(PairDataModule(prepared, augmentation="mild"), tmp_path / "whole", 3)
    fit(PairDataModule(prepared, augmentation="mild"), tmp_path / "part", 1)
    checkpoint = tmp_path / "part" / "last.ckpt"
    rest = fit(PairDataModule(prepared, augmentation="mild"), tmp_path / "rest", 3, checkpoint)
    assert [epoch for epoch, *_ in rest.seen] == [1] * 6 + [2] * 6
    assert rest.seen == whole.seen[6:]
    assert torch.equal(rest.weight, whole.weight)


def test_own_transforms_and_predict_split(prepared):
    def darker(volumes: dict[str, Tensor]) -> dict[str, Tensor]:
        volumes["image"].zero_()  # in place, which must not reach the cache
        return volumes

    data = PairDataModule(prepared, augmentation=darker, predict_split="train")
    data.setup()
    assert not any(batch["fixed"].any() for batch in data.train_dataloader())
    predicted = list(data.predict_dataloader())
    assert [int(batch["index"]) for batch in predicted] == list(range(6))
    assert all(batch["fixed"].any() for batch in predicted)


def test_phantom_patients():
    data = PhantomDataModule(subjects=(2, 1, 2), shape=(24, 20, 22), spacing_mm=16.0, seed=3)
    assert data.labels == tuple(range(1, 14))
    assert data.pair_names("train") == [
        ("phantom3000", "phantom3001"),
        ("phantom3001", "phantom3000"),
    ]
    data.setup("fit")
    assert data.val_dataloader() == []
    batch = next(iter(data.train_dataloader()))
    assert batch["fixed"].shape == (1, 1, 24, 20, 22) and batch["fixed"].dtype == torch.float32
    assert batch["fixed"].min() == 0 and 0.5 < batch["fixed"].max() <= 1
    assert batch["fixed_labels"].dtype == torch.uint8
    assert batch["fixed_labels"].unique().tolist() == list(range(14))
    assert batch["spacing_mm"].tolist() == [[16.0] * 3]
    assert not torch.equal(batch["fixed"], batch["moving"])
    data.setup("test")
    names = [(b["fixed_name"][0], b["moving_name"][0]) for b in data.test_dataloader()]
    assert (
        names
        == data.pair_names("test")
        == [
            ("phantom3003", "phantom3004"),
            ("phantom3004", "phantom3003"),
        ]
    )


def test_data_that_does_not_fit_is_named(prepared, tmp_path):
    def copy() -> Path:
        for path in prepared.rglob("*"):
            target = tmp_path / "copy" / path.relative_to(prepared)
            if path.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        return tmp_path / "copy"

    with pytest.raises(InputError, match="voxelopt prepare makes it"):
        PairDataModule(tmp_path)
    with pytest.raises(InputError, match="no features of subject 01"):
        PairDataModule(prepared, features=tmp_path)
    with pytest.raises(InputError, match="do not follow an augmentation"):
        PairDataModule(prepared, features=tmp_path, augmentation="mild")
    (copy() / "keypoints" / "02.csv").write_text("1,2,3\n")
    with pytest.raises(InputError, match="01 has 4 keypoints and 02 has 1"):
        PairDataModule(tmp_path / "copy")
    manifest = copy() / "manifest.json"
    text = manifest.read_text()
    for old, new, sentence in (
        ('"name": "02"', '"name": "2"', "train has a subject that is not listed: 02"),
        ('"version": 1', '"version": 9', "version 9, expected 1"),
        ('"shape"', '"form"', "no manifest that voxelopt prepare wrote"),
    ):
        manifest.write_text(text.replace(old, new))
        with pytest.raises(InputError, match=sentence):
            PairDataModule(manifest)
    manifest.write_text(text.replace('"labels": "labels/02.nii.gz",', ""))
    with pytest.raises(InputError, match="train split have no labels, which takes a batch_size"):
        PairDataModule(manifest, batch_size=2)
    manifest.write_text(text.replace("    8\n", "    9\n"))
    with pytest.raises(InputError, match="the manifest says"):
        PairDataModule(manifest).setup("test")
    empty = PairDataModule(prepared)
    empty._pairs = {}
    with pytest.raises(InputError, match="no pairs in its test split"):
        empty.test_dataloader()
