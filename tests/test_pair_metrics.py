"""The metrics over pairs, batches and processes agree with `evaluate`, pair by pair."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torchmetrics import MetricCollection

from voxelopt_layers import warp
from voxelopt_layers.displacement import resize
from voxelopt_train.errors import InputError
from voxelopt_train.label_metrics import Protocol
from voxelopt_train.metrics import Evaluation, evaluate
from voxelopt_train.pair_metrics import HD95, TRE, Dice, Folds, PairMetric, PairValue, SDLogJacobian

SHAPE, LABELS = (12, 11, 10), (1, 2, 5)
PROTOCOLS: tuple[Protocol, ...] = ("voxelopt", "learn2reg")


def batch_of(pairs: int, first: int = 0) -> dict[str, Tensor]:
    """Pairs in which label 5 is now here, now there, and in the first nowhere."""

    def labels() -> Tensor:
        smooth = resize(torch.randn(pairs, 3, 4, 4, 4), SHAPE)
        maps = torch.tensor([0, 1, 2])[smooth.argmax(1, keepdim=True)]
        for n in range(1, pairs):
            if torch.rand(()) < 0.7:
                maps[n, :, :3, :3, :3] = 5
        return maps.to(torch.uint8)

    fixed, moving = labels(), labels()
    u = resize(2 * torch.randn(pairs, 3, 4, 4, 4), SHAPE)
    return {
        "index": torch.arange(first, first + pairs),
        "fixed_labels": fixed,
        "moving_labels": moving,
        "warped_labels": warp(moving, u, "nearest"),
        "displacement": u,
        "spacing_mm": torch.tensor([[1.0, 2.0, 3.5]]) + torch.arange(pairs)[:, None],
    }


def part(batch: dict[str, Tensor], *rows: int) -> dict[str, Tensor]:
    return {key: value[list(rows)] for key, value in batch.items()}


def all_of(protocol: Protocol) -> dict[str, PairMetric]:
    return {
        "dice": Dice(LABELS, protocol),
        "hd95": HD95(LABELS, protocol),
        "sd": SDLogJacobian(protocol),
        "strict": SDLogJacobian(protocol, strict=True),
        "folds": Folds(),
    }


def together(metrics: dict[str, PairMetric]) -> MetricCollection:
    return MetricCollection(dict(metrics))


def evaluations(batch: dict[str, Tensor], protocol: Protocol) -> list[Evaluation]:
    fixed, moving, warped = (
        batch[f"{name}_labels"][:, 0] for name in ("fixed", "moving", "warped")
    )
    u, spacing_mm = batch["displacement"], batch["spacing_mm"].tolist()
    return [
        evaluate(fixed[n], moving[n], warped[n], u[n : n + 1], spacing_mm[n], protocol, LABELS)
        for n in range(len(u))
    ]


def nanmean(values) -> float:
    return torch.tensor(list(values), dtype=torch.float64).nanmean().item()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_pair_and_every_mean_is_that_of_evaluate(protocol):
    batch = batch_of(5, first=7)
    metrics = all_of(protocol)
    for rows in ((0, 1), (2, 3), (4,)):
        together(metrics).update(**part(batch, *rows))
    expected = evaluations(batch, protocol)
    for key, mean, values in (
        ("dice", "mean_dice", "dice"),
        ("hd95", "mean_hd95", "hd95"),
        ("sd", "sd_log_jacobian", None),
        ("strict", "sd_log_jacobian_strict", None),
        ("folds", "folds", None),
    ):
        per_pair = [getattr(e, mean) for e in expected]
        assert metrics[key].compute().item() == pytest.approx(nanmean(per_pair), rel=1e-12)
        wanted = dict(zip(range(7, 12), per_pair, strict=True))
        assert metrics[key].pair_means() == pytest.approx(wanted, rel=1e-12)
        if values:
            for found, e in zip(metrics[key].per_pair().values(), expected, strict=True):
                by_name = {str(label): v for label, v in getattr(e, values).items()}
                assert found == pytest.approx(by_name, rel=1e-12, nan_ok=True)
    assert metrics["folds"].per_pair()[8] == {"folds": pytest.approx(expected[1].folds)}
    assert expected[0].folds != expected[1].folds


def test_a_missing_label_counts_by_the_protocol_and_a_pair_without_any_not_at_all():
    batch = batch_of(2)
    batch["fixed_labels"][1] = 0  # nothing to find
    expected = evaluations(part(batch, 0), "learn2reg")[0]
    assert math.isnan(expected.dice[5])
    dice = Dice(LABELS, "learn2reg")
    dice.update(**part_for(dice, batch))
    assert math.isnan(dice.per_pair()[0]["5"]) and math.isnan(dice.pair_means()[1])
    assert dice.compute().item() == pytest.approx(expected.mean_dice)
    paper = Dice(LABELS, "voxelopt")
    paper.update(**part_for(paper, batch))
    assert paper.per_pair()[0]["5"] == 0 and paper.pair_means()[1] == 0
    assert paper.compute().item() == pytest.approx(expected.mean_dice * 2 / 3 / 2)


def part_for(metric, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return metric._filter_kwargs(**batch)


def test_a_vanished_label_is_infinitely_far_in_learn2reg_only():
    batch = batch_of(2)
    batch["warped_labels"][batch["warped_labels"] == 1] = 0
    for protocol in PROTOCOLS:
        hd95 = HD95(LABELS, protocol)
        hd95.update(**part_for(hd95, batch))
        assert math.isinf(hd95.compute().item()) == (protocol == "learn2reg")


def test_a_pair_seen_twice_counts_once_in_one_process_and_merged():
    batch = batch_of(3)
    one, two = Folds(), Folds()
    for metric, rows in ((one, (0, 1)), (one, (1,)), (two, (2, 0))):
        metric.update(**part_for(metric, part(batch, *rows)))
    one.merge_state(two)
    folds = [e.folds for e in evaluations(batch, "voxelopt")]
    assert list(one.per_pair()) == [0, 1, 2]
    assert one.compute().item() == pytest.approx(nanmean(folds))


def test_reset_forgets_and_forward_gives_the_batch_alone():
    metric = PairValue("seconds")
    assert metric(torch.tensor([0, 1]), torch.tensor([1.0, 3.0])).item() == 2
    assert metric(torch.tensor([2]), torch.tensor([8.0])).item() == 8
    assert metric.compute().item() == 4
    assert metric.per_pair() == {0: {"seconds": 1}, 1: {"seconds": 3}, 2: {"seconds": 8}}
    metric.update(torch.tensor([9]), torch.tensor([0.0]))
    assert metric.pair_means() == {0: 1, 1: 3, 2: 8, 9: 0}
    metric.reset()
    metric.update(torch.tensor([5]), torch.tensor([7.0]))
    assert metric.per_pair() == {5: {"seconds": 7}}


def test_a_collection_keeps_metrics_apart_that_agree_on_the_first_batch():
    batch = batch_of(2)
    metrics = all_of("voxelopt")
    collection = together(metrics)
    moved = batch["displacement"].clone()
    batch["displacement"][0] = 0
    collection.update(**part(batch, 0))  # SDlogJ, strict SDlogJ and folds are all 0
    collection.update(**part(batch, 1))
    last = evaluations({**batch, "displacement": moved}, "voxelopt")[1]
    assert last.folds and last.folds != last.sd_log_jacobian
    assert metrics["folds"].pair_means() == {0: 0, 1: pytest.approx(last.folds)}
    assert metrics["sd"].pair_means()[1] == pytest.approx(last.sd_log_jacobian)
    assert metrics["strict"].pair_means()[1] == pytest.approx(last.sd_log_jacobian_strict)


def test_no_pair_at_all_has_no_mean():
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert math.isnan(Folds().compute().item())


@pytest.mark.parametrize("d", [2, 3])
def test_tre_of_a_translation_is_what_it_leaves_in_mm(d):
    index = torch.tensor([3, 4])
    fixed = 2 + 5 * torch.rand(2, 6, d)
    shift = torch.tensor([1.0, -2.0, 0.5])[:d]
    spacing = torch.tensor([[1.0, 2.0, 4.0], [3.0, 1.0, 1.0]])[:, :d]
    u = shift.view(1, d, *[1] * d).repeat(2, 1, *[9] * d)
    tre = TRE()
    tre.update(index, u, fixed, fixed + shift, spacing)
    assert tre.compute().item() == pytest.approx(0, abs=1e-5)
    tre.reset()
    tre.update(index, torch.zeros_like(u), fixed, fixed + shift, spacing)
    left = [math.hypot(*(shift * mm).tolist()) for mm in spacing]
    assert tre.pair_means() == pytest.approx({3: left[0], 4: left[1]}, rel=1e-5)


def test_tre_samples_the_field_at_the_fixed_keypoints():
    u = torch.zeros(1, 3, 8, 8, 8)
    u[:, 1, 2, 5] = 3.0  # along axis 1, where the fixed keypoint lies and not where it comes from
    fixed, moving = torch.tensor([[[2.0, 5.0, 4.0]]]), torch.tensor([[[2.0, 8.0, 4.0]]])
    tre, one = TRE(), torch.ones(1, 3)
    tre.update(torch.tensor([0]), u, fixed, moving, one)
    assert tre.compute().item() == pytest.approx(0, abs=1e-5)
    tre.reset()
    tre.update(torch.tensor([0]), u, moving, fixed, one)
    assert tre.compute().item() == pytest.approx(3)


def test_wrong_protocols_and_no_labels_are_refused():
    paper: Any = "paper"
    for make in (lambda: Dice([1], paper), lambda: SDLogJacobian(paper)):
        with pytest.raises(InputError, match="must be one of voxelopt, learn2reg"):
            make()
    with pytest.raises(InputError, match="nothing to evaluate"):
        HD95([])


GIVEN = {"padded": [(0, 2), (1, 0)], "one without any": [(0, 1, 2), ()]}


def process(rank: int, file: str, batch: dict[str, Tensor]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    try:
        means = [e.mean_dice for e in evaluations(batch, "learn2reg")]
        for rows in GIVEN.values():
            dice = Dice(LABELS, "learn2reg")
            for row in rows[rank]:
                dice.update(**part_for(dice, part(batch, row)))
            assert dice.compute().item() == pytest.approx(nanmean(means))
            assert dice.pair_means() == pytest.approx(dict(enumerate(means)))
            assert list(dice.per_pair()) == [0, 1, 2]
    finally:
        dist.destroy_process_group()


def test_two_processes_count_every_pair_once(tmp_path):
    spawn(process, (str(tmp_path / "meeting"), batch_of(3)), nprocs=2)
