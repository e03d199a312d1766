"""`RegistrationModule` in training: what it learns, schedules, logs and refuses."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tiny_training import OnePair, batches, encoder, first_convolution, layer, phantoms, trainer
from voxelopt_models import MINDSSC
from voxelopt_train.data.datamodule import PhantomDataModule
from voxelopt_train.errors import InputError
from voxelopt_train.learning import RegistrationLoss, RegistrationModule, pictures

# What Lightning, MONAI and PyTorch say of themselves and of this machine.
OTHERS = ("LeafSpec", "non-tuple sequence", "does not have many workers")


class Watch(Callback):
    """Notes of every step: the loss, the temperature, the gradient of the first convolution."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.temperatures: list[float] = []
        self.gradients: list[torch.Tensor] = []

    def on_after_backward(self, trainer, pl_module: Any):
        self.temperatures.append(pl_module.net.layer.solver.value("temperature"))
        gradient = first_convolution(pl_module).grad
        assert gradient is not None
        self.gradients.append(gradient.clone())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


def semi_supervised(label_weight: float = 1.0, **options: Any) -> RegistrationLoss:
    return RegistrationLoss(smoothness_weight=0.05, label_weight=label_weight, **options)


@pytest.mark.parametrize(("normalisation", "label_weight"), [("channel", 0.0), ("unit", 1.0)])
def test_overfits_one_pair(tmp_path, normalisation, label_weight):
    module = RegistrationModule(
        encoder(normalisation), layer(), semi_supervised(label_weight), 2e-2, (0.1, 0.01)
    )
    watch, data = Watch(), OnePair()
    run = trainer(tmp_path, 14, callbacks=[watch], check_val_every_n_epoch=14)
    (before,) = run.validate(module, datamodule=data, verbose=False)
    run.fit(module, datamodule=data)
    (after,) = run.validate(module, datamodule=data, verbose=False)

    assert max(watch.losses[-3:]) < watch.losses[0] - 0.07
    assert after["validation/dice"] > before["validation/dice"] + 0.07
    assert after["validation/folds"] < 0.01
    for gradient in watch.gradients:
        assert gradient.isfinite().all() and gradient.abs().max() > 0


def test_bf16_is_close_to_32_bits(tmp_path, monkeypatch):
    results = {}
    for precision in ("32-true", "bf16-mixed"):
        module = RegistrationModule(encoder(), layer(), semi_supervised(), 1e-3)
        watch, data = Watch(), phantoms()
        maps, fields = set(), set()
        convolution = module.net.encoder.network.model[0]  # pyright: ignore
        convolution.register_forward_hook(lambda *args, maps=maps: maps.add(args[2].dtype))  # pyright: ignore
        solve = module.solve

        def noted(batch, solve=solve, fields=fields):
            solution = solve(batch)
            fields.add(solution.displacement.dtype)
            return solution

        monkeypatch.setattr(module, "solve", noted)
        run = trainer(tmp_path, 2, precision=precision, callbacks=[watch])
        run.fit(module, datamodule=data)
        (validated,) = run.validate(module, datamodule=data, verbose=False)
        (tested,) = run.test(module, datamodule=data, verbose=False)
        assert fields == {torch.float32}
        assert maps == {torch.bfloat16 if precision == "bf16-mixed" else torch.float32}
        assert all(p.dtype == torch.float32 for p in module.parameters())
        results[precision] = watch.losses, validated["validation/dice"], tested["test/dice"]
    losses, *dice = (torch.tensor(x) for x in zip(*results.values(), strict=True))
    assert losses.shape == (2, 4) and losses.isfinite().all()
    assert (losses[0] - losses[1]).abs().max() < 0.01
    assert all((d[0] - d[1]).abs() < 0.02 for d in dice)


def test_temperature_falls_by_one_factor_per_step(tmp_path):
    module = RegistrationModule(encoder(), layer(), temperature=(0.1, 0.001))
    assert module.net.layer.solver.value("temperature") == 0.001  # tested without training
    watch = Watch()
    trainer(tmp_path, 3, callbacks=[watch], limit_val_batches=0).fit(module, datamodule=phantoms())
    expected = torch.logspace(-1, -3, 6, dtype=torch.float64)  # 2 pairs, 3 epochs
    torch.testing.assert_close(torch.tensor(watch.temperatures).double(), expected)
    assert module.net.layer.solver.value("temperature") == pytest.approx(0.001)


def test_the_schedule_ends_at_the_hard_assignment(tmp_path):
    data = phantoms()
    data.setup("validate")
    batch = batches(data.val_dataloader())[0]
    end = RegistrationModule(encoder(), layer(), temperature=(0.1, 1e-6))
    hard = RegistrationModule(encoder(), layer(assignment="hard"))
    start = RegistrationModule(encoder(), layer(temperature=0.1))
    with torch.no_grad():
        u_end, u_hard, u_start = (m.eval().solve(batch).displacement for m in (end, hard, start))
    assert (u_end - u_hard).abs().mean() < 1e-3 < 0.1 < (u_start - u_hard).abs().mean()


def test_more_weights_than_levels():
    with pytest.raises(ValueError, match="4 level_weights for 3 pyramid levels"):
        RegistrationModule(encoder(), layer(), RegistrationLoss(level_weights=[1.0] * 4))


@pytest.mark.parametrize(
    ("options", "temperature", "message"),
    [
        ({"learnable": ["temperature"]}, (0.1, 0.01), "learned cannot follow"),
        ({"assignment": "hard"}, (0.1, 0.01), "no temperature"),
        ({}, (0.1, 0.0), "above 0"),
    ],
)
def test_schedules_that_cannot_be(options, temperature, message):
    with pytest.raises(ValueError, match=message):
        RegistrationModule(encoder(), layer(**options), temperature=temperature)


class Unlabelled(PhantomDataModule):
    def volumes(self, names):
        return [{k: v for k, v in x.items() if k != "labels"} for x in super().volumes(names)]


def unlabelled() -> PhantomDataModule:
    data = Unlabelled((2, 2, 2), (24, 20, 24), 16.0)
    data.labels = ()
    return data


def test_what_cannot_be_trained_says_why(tmp_path):
    def fit(module, data=None, **options):
        trainer(tmp_path, **options).fit(module, datamodule=data or phantoms())

    frozen = RegistrationModule(encoder(trainable=False), layer())
    for module in (frozen, RegistrationModule(MINDSSC(), layer())):
        with pytest.raises(InputError, match="nothing to train"):
            fit(module)
    with pytest.raises(InputError, match=r"phantom\d, phantom\d has no labels"):
        fit(RegistrationModule(encoder(), layer(), semi_supervised()), unlabelled())
    with pytest.raises(InputError, match="max_epochs or max_steps"):
        fit(RegistrationModule(encoder(), layer(), temperature=(0.1, 0.01)), epochs=-1)
    data = phantoms()
    data.setup()
    with pytest.raises(InputError, match="datamodule=data"):
        trainer(tmp_path).validate(
            RegistrationModule(encoder(), layer()), data.val_dataloader(), verbose=False
        )


def test_data_without_labels_train_and_are_measured_without(tmp_path):
    module = RegistrationModule(encoder(), layer())
    run, data = trainer(tmp_path), unlabelled()
    run.fit(module, datamodule=data)
    assert set(run.callback_metrics) == {
        *(f"train/{x}" for x in ("similarity", "smoothness", "folds", "loss", "loss_step")),
        *(f"validation/{x}" for x in ("sd_log_jacobian", "folds")),
    }
    (tested,) = run.test(module, datamodule=data, verbose=False)
    measures = ("sd_log_jacobian", "sd_log_jacobian_strict", "folds", "seconds")
    assert set(tested) == {f"test/{measure}" for measure in measures}


def test_learned_parameters_of_the_layer_alone(tmp_path):
    module = RegistrationModule(MINDSSC(), layer(learnable=["alpha", "beta"]), learning_rate=0.1)
    before = {name: module.net.layer.solver.value(name).item() for name in ("alpha", "beta")}
    trainer(tmp_path).fit(module, datamodule=phantoms(2, 0, 2))  # nothing to validate on
    for name, value in before.items():
        assert module.net.layer.solver.value(name).item() != pytest.approx(value, rel=1e-3)


def test_the_layer_has_a_rate_of_its_own(tmp_path):
    """Adam's first step moves every weight by its rate."""
    module = RegistrationModule(
        encoder(), layer(learnable=["alpha"]), learning_rate=1e-4, layer_learning_rate=0.05
    )
    before = {name: value.clone() for name, value in module.named_parameters()}
    run = trainer(tmp_path, limit_train_batches=1, max_steps=1)
    run.fit(module, datamodule=phantoms(2, 0, 2))
    moved = {n: (v - before[n]).abs().max().item() for n, v in module.named_parameters()}
    layers = {name for name in moved if ".layer." in name}
    assert len(layers) == 1
    assert all(moved[name] == pytest.approx(0.05, rel=1e-3) for name in layers)
    assert max(moved[name] for name in moved.keys() - layers) == pytest.approx(1e-4, rel=1e-2)
    assert run.callback_metrics["layer/alpha"] > 0


def test_logs_and_picture(tmp_path, monkeypatch):
    """All terms on two levels, the measures and a picture with labels and entropy; no warnings."""
    drawn: list[dict[str, Any]] = []
    original = pictures.registration_picture

    def noted(path: Path, *args: Any, **options: Any) -> None:
        drawn.append(options)
        original(path, *args, **options)

    monkeypatch.setattr(pictures, "registration_picture", noted)
    loss = semi_supervised(level_weights=(1.0, 0.5))
    module, data = RegistrationModule(encoder(), layer(), loss), phantoms(batch_size=2)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DeprecationWarning)
        run = trainer(tmp_path, 1, logger=logger, num_sanity_val_steps=1)
        run.fit(module, datamodule=data)
        run.test(module, datamodule=data, verbose=False)
        run.predict(module, datamodule=data)
    ours = [str(w.message) for w in caught if not any(x in str(w.message) for x in OTHERS)]
    assert ours == []

    assert [set(options) for options in drawn] == [{"entropy", "labels"}] * 2
    for options in drawn:
        assert options["entropy"].std() > 0 and len(options["labels"]) == 3
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["images"] == ["validation/pair"]
    images = events.Images("validation/pair")
    assert [image.step for image in images] == [0, 1]
    assert all(image.width > 1000 and image.height > 300 for image in images)
    terms = ("similarity", "smoothness", "labels", "folds", "loss")
    measures = ("dice", "sd_log_jacobian", "folds")
    more = ("dice_before", "hd95", "sd_log_jacobian_strict", "seconds")
    assert set(events.Tags()["scalars"]) == {
        "epoch",
        *(f"train/{name}" for name in terms),
        *(f"validation/{name}" for name in measures),
        *(f"test/{name}" for name in (*measures, *more)),
    }
    total = [event.value for event in events.Scalars("train/loss")]
    parts = [[e.value for e in events.Scalars(f"train/{name}")] for name in terms[:3]]
    assert total == pytest.approx([sum(step) for step in zip(*parts, strict=True)], abs=1e-5)
