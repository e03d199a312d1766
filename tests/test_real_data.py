"""The gain on real scans that the README claims, on a few of the pairs."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest

from measure_real_data import chaos_pairs, measure, network, totalseg_pairs

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="real scans are not part of the project")


@needs_data
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_mind_gains_at_least_0_20_dice_between_subjects_with_no_fold(preset):
    net = network("mind", preset, ct=False)
    results = [measure(net, pair) for pair in chaos_pairs(DATA / "chaos_t2", 6)]
    assert fmean(r["dice after"] - r["dice before"] for r in results) >= 0.20
    assert max(r["folds %"] for r in results) == 0


@needs_data
def test_intensities_gain_too_and_fold_nothing():
    results = [
        measure(network("raw", "intensity", ct=False), pair)
        for pair in chaos_pairs(DATA / "chaos_t2", 6)
    ]
    assert fmean(r["dice after"] - r["dice before"] for r in results) >= 0.15
    assert max(r["folds %"] for r in results) == 0
    net = network("raw", "intensity", ct=True)
    (pair,) = totalseg_pairs(DATA / "totalseg_example", 1)
    assert measure(net, pair)["error mm"] < 0.8


@needs_data
def test_a_deformed_ct_is_brought_back():
    net = network("mind", "default", ct=True)
    (pair,) = totalseg_pairs(DATA / "totalseg_example", 1)
    result = measure(net, pair)
    assert result["dice after"] > result["dice before"] + 0.2
    assert result["error mm"] < 3
