"""The sets of pairs of ``voxelopt peers``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import Namespace
from nibabel.nifti1 import Nifti1Image

from command_line import sentence, strict_json
from peer_sets import SMALL, log, overlap
from voxelopt_layers import warp
from voxelopt_train.benchmark import peer_pairs
from voxelopt_train.images import read_image
from voxelopt_train.phantom import CT_WINDOW, abdomen


def options(**given) -> Namespace:
    names = ("phantom", "deformed", "known_warp", "data", "magnitude", "window")
    return Namespace({**dict.fromkeys(names), "count": 2, **given})


def test_a_known_warp_is_one_in_mm_on_any_voxels(pair):
    grid = pair.fixed.grid
    for name, image in (("a", pair.fixed), ("b", pair.fixed_labels)):
        flat = Nifti1Image(image.data.numpy()[..., ::2], grid.affine @ np.diag([1, 1, 2, 1]))
        flat.to_filename(f"{name}.nii")
    (known,) = peer_pairs.pair_sets(options(known_warp=["a.nii", "b.nii"], window=[-800, 500]))
    assert "from -800 to 500" in known.title
    for made, magnitude in zip((make() for make in known.pairs), (15, 25), strict=True):
        u = made.displacement
        assert u is not None and u.shape == (1, 3, 40, 32, 18)
        length = (u * torch.tensor([8.0, 8.0, 16.0]).view(1, 3, 1, 1, 1)).norm(dim=1)
        assert 0.85 * magnitude < length.max() < 1.05 * magnitude
        scan = read_image("a.nii", "scan").data.clamp(-800, 500)
        assert torch.equal(made.moving.data, scan)
        noise = made.fixed.data - warp(scan[None, None], u, boundary="border")[0, 0]
        low, high = np.percentile(scan, (0.5, 99.5))
        assert float(noise.std()) == pytest.approx(0.01 * (high - low), rel=0.05)
        labels = warp(made.moving_labels.data[None, None], u, "nearest", "border")[0, 0]
        assert torch.equal(made.fixed_labels.data, labels)


def test_phantoms_are_cut_off_as_ct(tools):
    phantom, deformed = peer_pairs.pair_sets(options())
    for make in (*phantom.pairs, *deformed.pairs):
        made = make()
        assert made.moving.data.min() == made.fixed.data.min() == CT_WINDOW[0]


def test_pairs_of_a_prepared_folder(run, tools):
    for n in range(3):
        for name, image in zip(("image", "label"), abdomen(n, **SMALL), strict=True):
            affine = image.grid.affine.copy()
            affine[:3, 3] += 30 * n  # each scan has a place of its own
            Nifti1Image(image.data.numpy(), affine).to_filename(f"{name}_{n}.nii.gz")
    prepare = ["prepare", ".", "-o", "made", "--images", "image_*.nii.gz", "--test", "0-2"]
    grid = ["--labels", "label_*.nii.gz", "--spacing", "12", "--shape", "28", "22", "24"]
    assert run(*prepare, *grid)[0] == 0
    code, out, _ = run("peers", "-o", "out", "--data", "made", "--count", "2")
    assert code == 0 and "test pairs of made" in out
    runs = log()
    assert len(runs) == 4 and all(fixed == moving for _, fixed, moving in runs)
    found = strict_json("out/peers.json")["sets"]["data"]["pairs"]
    names = [(pair["fixed"], pair["moving"]) for pair in found]
    fixed, moving = (
        read_image(f"made/labels/{name}.nii.gz", "labels", labels=True).data.numpy()
        for name in names[0]
    )
    dice = [overlap(fixed == k, moving == k) for k in range(1, 14)]
    assert found[0]["rows"]["before"]["dice"] == pytest.approx(np.mean(dice))
    assert "error_mm" not in found[0]["rows"]["before"]
    (more,) = peer_pairs.pair_sets(options(data="made", count=10))
    made = [make() for make in more.pairs]
    assert len(made) == 6 and [(p.fixed.name, p.moving.name) for p in made[:2]] == names
    # Without labels, or test pairs.
    manifest = json.loads(Path("made/manifest.json").read_text())
    del manifest["subjects"][1]["labels"]
    Path("made/manifest.json").write_text(json.dumps(manifest))
    code, _, err = run("peers", "-o", "new", "--data", "made", "--count", "9")
    assert code == 2 and "subject 1 has no labels" in sentence(err) and not Path("new").exists()
    manifest["splits"]["test"] = []
    Path("made/manifest.json").write_text(json.dumps(manifest))
    _, _, err = run("peers", "-o", "new", "--data", "made")
    assert "made: there are no test pairs" in sentence(err)
