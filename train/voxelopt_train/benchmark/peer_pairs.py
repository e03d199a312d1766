"""What tools are compared on: one pair for ``voxelopt benchmark``, sets of them for ``peers``."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jsonargparse import Namespace
from torch import Tensor

from voxelopt_layers import warp
from voxelopt_layers.displacement import resize_displacement
from voxelopt_train.data.manifest import read_manifest
from voxelopt_train.data.subjects import Subject
from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid
from voxelopt_train.images import Image, read_image
from voxelopt_train.label_maps import read_label_pair, read_labels
from voxelopt_train.pair_checks import check_pair, cut_off
from voxelopt_train.phantom import (
    CT_WINDOW,
    Pair,
    deformed_pair,
    phantom_pair,
    random_displacement,
)

MAGNITUDES_MM = (15.0, 25.0, 35.0)
_OF_PEERS = ("pair", "fixed_labels", "moving_labels", "window")
_PERCENTILES = (0.5, 99.5)
_NOISE = 0.01  # of the range of intensities

Window = tuple[float, float] | None


class PairSet(NamedTuple):
    """Pairs that make one table, each made when it is its turn: all would not fit in memory."""

    name: str
    title: str
    pairs: Sequence[Callable[[], Pair]]


def pair_sets(options: Namespace) -> list[PairSet]:
    """The sets that the options of ``voxelopt peers`` name.

    Raises:
        InputError: an option has a value that makes no pair, or a file cannot be used.
    """
    magnitudes = options.magnitude or MAGNITUDES_MM
    window = _window(options.window)
    if options.count < 1:
        raise InputError(f"--count must be at least 1, got {options.count}")
    if not all(0 < mm < math.inf for mm in magnitudes):
        raise InputError("--magnitude must be above 0 mm")
    if window is not None and options.known_warp is None:
        raise InputError("--window is for --known-warp, which is not given")
    named = options.phantom or options.deformed or options.known_warp or options.data
    warps = [(seed, magnitudes[seed % len(magnitudes)]) for seed in range(options.count)]
    sets = []
    if options.phantom or not named:
        pairs = [partial(_phantom, seed) for seed in range(options.count)]
        sets.append(PairSet("phantom", "two synthetic patients", pairs))
    if options.deformed or not named:
        pairs = [partial(_deformed_phantom, *warp) for warp in warps]
        sets.append(PairSet("deformed", "a synthetic patient and itself deformed", pairs))
    if options.known_warp is not None:
        scan, labels = _read_scan(*options.known_warp)
        pairs = [partial(_deformed_scan, scan, labels, window, *warp) for warp in warps]
        kept = "" if window is None else f", intensities from {window[0]:g} to {window[1]:g}"
        sets.append(PairSet("known-warp", f"{scan.name} and itself deformed{kept}", pairs))
    if options.data is not None:
        pairs = _prepared_pairs(options.data, options.count)
        sets.append(PairSet("data", f"test pairs of {options.data}", pairs))
    return sets


def peer_pair(options: Namespace) -> Pair | None:
    """The pair of ``voxelopt benchmark --peers``; None without ``--peers``.

    Raises:
        InputError: an image or label map is missing or cannot be used, or the grids differ.
    """
    given = [name for name in _OF_PEERS if getattr(options, name) is not None]
    if not options.peers:
        if given:
            raise InputError(f"--{given[0].replace('_', '-')} is for --peers, which is not given")
        return None
    if options.pair is not None:
        fixed, moving = options.pair
        pair = _read_pair(fixed, moving, options.fixed_labels, options.moving_labels)
        return _within(pair, _window(options.window))
    if given:
        raise InputError(f"--{given[0].replace('_', '-')} needs --pair FIXED MOVING")
    return _phantom(0)


def _read_pair(
    fixed: str, moving: str, fixed_labels: str | None, moving_labels: str | None
) -> Pair:
    images = read_image(fixed, "fixed image"), read_image(moving, "moving image")
    if not images[1].grid.matches(images[0].grid):
        raise InputError(
            f"{moving} does not lie on the grid of {fixed}, which the tools are to share: "
            f"voxelopt apply {moving} --reference {fixed} brings it there"
        )
    _check_axes(images[0])
    labels = read_label_pair(fixed_labels, moving_labels, *images)
    if labels is None:
        raise InputError("--pair is measured by its labels: give --fixed-labels, --moving-labels")
    return Pair(images[0], labels[0], images[1], labels[1])


def _phantom(seed: int) -> Pair:
    return _within(phantom_pair(seed), CT_WINDOW)


def _deformed_phantom(seed: int, magnitude_mm: float) -> Pair:
    pair = _within(deformed_pair(seed, magnitude_mm), CT_WINDOW)
    return replace(pair, fixed=_deformed(pair.fixed.data, pair.moving, magnitude_mm))


def _read_scan(path: str, labels_path: str) -> tuple[Image, Image]:
    scan = read_image(path, "image")
    _check_axes(scan)
    labels = read_labels(labels_path, "labels", scan)
    if not labels.data.any():
        raise InputError(f"{labels.name}: the labels are 0 everywhere, there is nothing to compare")
    if min(scan.grid.shape) < 3:  # outer voxels stay where they are
        raise InputError(f"{scan.name}: shape {scan.grid.shape} leaves no room for a warp")
    return scan, labels


def _deformed_scan(
    scan: Image, labels: Image, window: Window, seed: int, magnitude_mm: float
) -> Pair:
    """With noise on the deformed image, so that the two are not copies of each other."""
    scan = cut_off(scan, window)
    check_pair(scan, scan, window)
    truth = _displacement(seed, magnitude_mm, scan.grid)
    fixed = warp(scan.data[None, None], truth, boundary="border")[0, 0]
    fixed_labels = warp(labels.data[None, None], truth, "nearest", "border")[0, 0]
    low, high = np.percentile(scan.data.numpy(), _PERCENTILES).tolist()
    noise = torch.randn(fixed.shape, generator=torch.Generator().manual_seed(seed))
    fixed += _NOISE * (high - low) * noise
    return Pair(
        _deformed(fixed, scan, magnitude_mm),
        _deformed(fixed_labels, labels, magnitude_mm),
        scan,
        labels,
        truth,
    )


def _displacement(seed: int, magnitude_mm: float, grid: Grid) -> Tensor:
    """`random_displacement` for voxels of any edges: made on cubes of their volume."""
    edge_mm = math.prod(grid.spacing) ** (1 / 3)
    extent = zip(grid.shape, grid.spacing, strict=True)
    cubes = [max(round(n * mm / edge_mm), 3) for n, mm in extent]
    return resize_displacement(random_displacement(seed, magnitude_mm, cubes, edge_mm), grid.shape)


def _deformed(data: Tensor, image: Image, magnitude_mm: float) -> Image:
    return Image(data, image.grid, f"{image.name} deformed by {magnitude_mm:g} mm")


def _prepared_pairs(folder: str, count: int) -> list[Callable[[], Pair]]:
    """Sampled so that a larger ``count`` adds to the pairs of a smaller one."""
    cohort = read_manifest(folder).cohort
    names = cohort.pairs.get("test", [])
    if not names:
        raise InputError(f"{folder}: there are no test pairs in this dataset")
    chosen = random.Random(0).sample(names, len(names))[:count]
    return [partial(_prepared_pair, *(cohort.subjects[n] for n in pair)) for pair in chosen]


def _prepared_pair(fixed: Subject, moving: Subject) -> Pair:
    """Voxel on voxel, as networks see it: each file has the affine of its own scan."""
    if fixed.labels is None or moving.labels is None:
        name = (fixed if fixed.labels is None else moving).name
        raise InputError(f"subject {name} has no labels, by which the tools are measured")
    images = read_image(fixed.image, "fixed image"), read_image(moving.image, "moving image")
    labels = read_label_pair(fixed.labels, moving.labels, *images)
    assert labels is not None
    if images[0].grid.shape != images[1].grid.shape:
        raise InputError(
            f"{images[0].name} and {images[1].name} differ in shape, prepare them again"
        )
    _check_axes(images[0])

    def volume(image: Image, subject: Subject) -> Image:
        return Image(image.data, images[0].grid, subject.name)

    pair = Pair(
        volume(images[0], fixed),
        volume(labels[0], fixed),
        volume(images[1], moving),
        volume(labels[1], moving),
    )
    return _within(pair, None)


def _window(values: Sequence[float] | None) -> Window:
    if values is None:
        return None
    low, high = values
    if not low < high:
        raise InputError(f"--window must go from low to high, got {low:g} {high:g}")
    return low, high


def _within(pair: Pair, window: Window) -> Pair:
    """With intensities cut off; InputError where that leaves nothing to register."""
    pair = replace(pair, fixed=cut_off(pair.fixed, window), moving=cut_off(pair.moving, window))
    check_pair(pair.fixed, pair.moving, window)
    return pair


def _check_axes(image: Image) -> None:
    axes = image.grid.affine[:3, :3] / image.grid.spacing
    if np.abs(axes.T @ axes - np.eye(3)).max() >= 1e-3:
        raise InputError(
            f"{image.name}: its axes are not at right angles, as ITK's tools need them"
        )
