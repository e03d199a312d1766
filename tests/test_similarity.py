"""Normalised mutual information, against NumPy's histograms and where its value is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from voxelopt_train.similarity import normalised_mutual_information


def test_as_the_formula_says_it():
    a = torch.rand(40, 30, 20)
    b = a.sqrt() + 0.3 * torch.rand(40, 30, 20)
    inside = []
    for x in (a.numpy().ravel(), b.numpy().ravel()):
        low, high = np.quantile(x, 0.001, method="lower"), np.quantile(x, 0.999, method="higher")
        inside.append(np.clip(x, low, high))
    counts, *_ = np.histogram2d(*inside, bins=64)
    p = counts / counts.sum()

    def entropy(q):
        return -(q[q > 0] * np.log(q[q > 0])).sum()

    expected = (entropy(p.sum(0)) + entropy(p.sum(1))) / entropy(p)
    assert normalised_mutual_information(a, b) == pytest.approx(expected, abs=1e-3)


def test_two_of_the_same_whatever_their_contrast_and_one_of_independent_images():
    a, b = torch.randn(2, 128, 128, 128)
    assert normalised_mutual_information(a, a) == pytest.approx(2)
    assert normalised_mutual_information(a, 5 - 3 * a) > 1.9
    assert normalised_mutual_information(a, b) == pytest.approx(1, abs=0.01)
    shifted = [normalised_mutual_information(a, a + s * a.roll(1)) for s in (0.1, 0.5, 2)]
    assert 2 > shifted[0] > shifted[1] > shifted[2] > 1


def test_a_few_bright_voxels_do_not_hide_the_rest():
    a = torch.rand(50, 50, 50)
    bright = a.clone()
    bright[0, 0, :3] = 1e6
    assert normalised_mutual_information(bright, a) > 1.9


def test_images_that_are_mostly_or_wholly_background():
    one = torch.zeros(30, 30, 30)
    assert math.isnan(normalised_mutual_information(one, torch.rand(30, 30, 30)))
    one[3, 3, 3:5] = 7.0
    assert normalised_mutual_information(one, one) == pytest.approx(2)
