"""What the commands write, and what their settings reach."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from nibabel.nifti1 import Nifti1Image

import voxelopt_layers
from command_line import (
    ALWAYS,
    EXTRAS,
    LABELS,
    QUICK,
    contents,
    names,
    sentence,
    strict_json,
    volume,
)
from voxelopt_layers import VoxelOptLayer
from voxelopt_train import InputError, commands
from voxelopt_train.cli import main
from voxelopt_train.configs import find_config
from voxelopt_train.transforms import AffineTransform, write_affine


def test_register_writes_the_named_files_and_ends_with_a_table(run):
    code, out, err = run("register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/", *LABELS)
    assert (code, err) == (0, "")
    assert names("out") == ALWAYS | {"WarpedLabels.nii.gz"}
    for word in (
        "Dice",
        "HD95 (mm)",
        "NMI",
        "SDlogJ",
        "folds",
        "before",
        "registered",
        *names("out"),
    ):
        assert word in out
    assert volume("out/Warped.nii.gz").shape == (40, 32, 36)
    assert volume("out/1Warp.nii.gz").shape == (40, 32, 36, 1, 3)
    assert volume("out/WarpedLabels.nii.gz").dtype == np.uint8
    picture = imread("out/Report.png")
    assert picture.shape[0] > 300 and picture.shape[1] > 300 and picture[..., :3].std() > 0.1
    report = strict_json("out/Report.json")
    dice = {stage: value["mean_dice"] for stage, value in report["labels"].items()}
    assert set(dice) == {"before", "registered"}
    assert dice["registered"] > dice["before"] + 0.1
    assert f"{dice['registered']:.3f}" in out
    similarity = report["normalised_mutual_information"]
    assert 1 < similarity["before"] < similarity["registered"] < 2
    assert f"{similarity['registered']:.3f}" in out
    assert report["folds"] == 0 and report["working_grid"]["shape"] == [40, 32, 36]


def test_extra_files_on_request(run, no_picture):
    arguments = ["register", "fixed.nii.gz", "moving.nii.gz", "--initial", "center-of-mass"]
    flags = ["--inverse", "--entropy", "--jacobian"]
    code, out, _ = run(*arguments, *flags, "-o", "out/", "--window", "-200", "300")
    assert code == 0
    assert all(word in out for word in ("NMI", "aligned", "registered")) and "Dice" not in out
    assert names("out") == ALWAYS | EXTRAS | {"0GenericAffine.mat"}
    assert volume("out/Entropy.nii.gz").min() >= 0
    jacobian = volume("out/Jacobian.nii.gz")
    assert jacobian.shape == (40, 32, 36) and abs(jacobian.mean() - 1) < 0.2
    np.testing.assert_allclose(volume("out/LogJacobian.nii.gz"), np.log(jacobian), atol=1e-5)
    forward, backward = volume("out/1Warp.nii.gz"), volume("out/1InverseWarp.nii.gz")
    assert np.abs(forward).mean() > 1
    assert np.linalg.norm((forward + backward).mean((0, 1, 2))) < np.abs(forward).mean()


def test_output_is_a_folder_or_the_start_of_names(run, no_picture):
    Path("there").mkdir()
    for prefix, where, start in (
        ("new/deep/pair1_", "new/deep", "pair1_"), ("there", "there", ""), ("a_", ".", "a_"),
    ):  # fmt: skip
        before = names(where) if Path(where).exists() else set()
        code, _, _ = run("register", "fixed.nii.gz", "moving.nii.gz", "-o", prefix, *QUICK)
        assert code == 0
        assert names(where) - before == {start + name for name in ALWAYS}


def test_results_replace_older_ones_and_leave_other_files_alone(run, no_picture):
    Path("out").mkdir()
    Path("out/Warped.nii.gz").write_text("old")
    Path("out/notes.txt").write_text("mine")
    assert run("register", "fixed.nii.gz", "moving.nii.gz", "-o", "out", *QUICK)[0] == 0
    assert volume("out/Warped.nii.gz").shape == (40, 32, 36)
    assert Path("out/notes.txt").read_text() == "mine"


def test_working_spacing_and_protocol(run, no_picture):
    code, out, _ = run(
        "register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/", "--spacing", "16", *QUICK,
        *LABELS, "--protocol", "learn2reg",
    )  # fmt: skip
    assert code == 0 and "HD95 (voxels)" in out
    report = strict_json("out/Report.json")
    assert report["working_grid"] == {"shape": [20, 16, 18], "spacing_mm": [16.0, 16.0, 16.0]}
    assert volume("out/Warped.nii.gz").shape == (40, 32, 36)


def test_a_label_of_one_image_alone_leaves_the_report_strict_json(run, no_picture):
    """Learn2Reg gives it no HD95: NaN, for which JSON has no word."""
    labels = volume("moving_labels.nii.gz").copy()
    labels[0, 0, 0] = 99
    Nifti1Image(labels, Nifti1Image.from_filename("fixed.nii.gz").affine).to_filename(
        "moving_labels.nii.gz"
    )
    code, _, _ = run(
        "register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/", "--protocol", "learn2reg",
        *LABELS,
    )  # fmt: skip
    assert code == 0
    assert strict_json("out/Report.json")["labels"]["before"]["hd95"]["99"] is None


def test_apply_through_the_written_transforms_gives_warped(run, no_picture):
    shifted = AffineTransform(np.eye(4))
    shifted.matrix[:3, 3] = [12, -7, 5]
    write_affine("initial.tfm", shifted)
    moving = ["register", "fixed.nii.gz", "moving.nii.gz", "--initial", "initial.tfm"]
    assert run(*moving, "--inverse", *LABELS, "-o", "out/p_", *QUICK)[0] == 0
    transforms = ["-t", "out/p_1Warp.nii.gz", "-t", "out/p_0GenericAffine.mat"]
    code, out, err = run(
        "apply", "moving.nii.gz", "-r", "fixed.nii.gz", *transforms, "-o", "new/image.nii.gz"
    )
    assert (code, err) == (0, "") and "new/image.nii.gz" in out
    assert names("new") == {"image.nii.gz"}
    difference = np.abs(volume("new/image.nii.gz") - volume("out/p_Warped.nii.gz"))
    assert (difference < 0.5).mean() > 0.9995
    labels = ["apply", "moving_labels.nii.gz", "--labels", "-r", "fixed.nii.gz", *transforms]
    assert run(*labels, "-o", "labels.nii")[0] == 0
    same = volume("labels.nii") == volume("out/p_WarpedLabels.nii.gz")
    assert same.mean() > 0.9995 and volume("labels.nii").dtype == np.uint8

    back = ["-t", "[out/p_0GenericAffine.mat,1]", "-t", "out/p_1InverseWarp.nii.gz"]
    fixed = ["apply", "fixed.nii.gz", "-r", "moving.nii.gz"]
    assert run(*fixed, "-o", "unmoved.nii.gz")[0] == 0
    assert run(*fixed, *back, "-o", "back.nii.gz")[0] == 0
    target = volume("moving.nii.gz")
    after, before = (np.abs(volume(f"{n}.nii.gz") - target).mean() for n in ("back", "unmoved"))
    assert after < 0.8 * before


def test_demo_writes_its_phantoms_too(run, monkeypatch, no_picture, pair):
    seeds = []
    monkeypatch.setattr(commands, "phantom_pair", lambda seed: seeds.append(seed) or pair)
    code, out, err = run("demo", "--seed", "4", *QUICK)
    assert (code, err) == (0, "") and "Dice" in out and seeds == [4]
    phantoms = {f"{n}.nii.gz" for n in ("fixed", "moving", "fixed_labels", "moving_labels")}
    assert names("voxelopt_demo") == ALWAYS | EXTRAS | {"WarpedLabels.nii.gz"} | phantoms
    np.testing.assert_array_equal(volume("voxelopt_demo/fixed.nii.gz"), pair.fixed.data)


# Settings


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], VoxelOptLayer.from_preset("intensity")),
        (["--features", "mind"], VoxelOptLayer()),
        (["--preset", "paper"], VoxelOptLayer.from_preset("paper")),
        (
            ["--preset", "released", "--layer.levels", "3", "--layer.theta", "[9, 2.5]"],
            VoxelOptLayer.from_preset("released", levels=3, theta=(9, 2.5)),
        ),
        (
            ["--layer.adaptive", "false", "--layer.dissimilarity=l2", "--layer.boundary=zeros"],
            VoxelOptLayer.from_preset(
                "intensity", adaptive=False, dissimilarity="l2", boundary="zeros"
            ),
        ),
    ],
)
def test_preset_and_single_settings_reach_the_layer(monkeypatch, refused, arguments, expected):
    given: dict = {}

    def stop(*_, **options):
        given.update(options)
        raise InputError("far enough")

    monkeypatch.setattr(commands, "register", stop)
    command = ["register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/", "--features", "raw"]
    assert refused(*command, "--window", "-800", "500", *arguments) == "far enough"

    def settings(module: torch.nn.Module) -> dict:
        kept = {k: v for k, v in vars(module).items() if not k.startswith("_") and k != "solver"}
        return {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}

    layer = given["layer"]
    assert settings(layer) == settings(expected)
    assert settings(layer.solver) == settings(expected.solver)
    assert given["encoder"] == ("mind" if "mind" in arguments else "raw")
    assert given["window"] == (-800, 500)


@pytest.mark.parametrize("command", ["", "register", "apply", "demo", "points", "jacobian"])
def test_help(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert "usage: voxelopt" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert voxelopt_layers.__version__ in capsys.readouterr().out


def test_as_a_program(folder):
    """A process of its own: exit codes, and nothing but the sentence on standard error."""

    def program(*arguments: str) -> subprocess.CompletedProcess[str]:
        start = "import sys; from voxelopt_train.cli import main; sys.exit(main())"
        return subprocess.run(
            [sys.executable, "-c", start, *arguments], capture_output=True, text=True, check=False
        )

    register = ["register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/", *QUICK]
    done = program(*register)
    assert (done.returncode, done.stderr) == (0, "")
    assert names("out") == ALWAYS
    Path("out/Report.json").unlink()
    Path("out/Report.json").mkdir()  # found only in the end, after the progress bar
    before = contents(folder)
    failed = program(*register)
    assert failed.returncode == 2 and failed.stdout == ""
    assert "Report.json" in sentence(failed.stderr)
    assert contents(folder) == before


def test_a_config_of_ours_wins_over_a_file_of_its_name():
    Path("ct").write_text("spacing: 7\n")
    assert find_config("ct").name == "ct.yaml" and find_config("./ct") == Path("ct")


def test_an_option_wins_over_a_config_wherever_it_stands(run, no_picture):
    Path("a.yaml").write_text("spacing: 12\njacobian: true\n")
    Path("b.yaml").write_text("spacing: 14\n")
    files = ["fixed.nii.gz", "moving.nii.gz", *QUICK[2:]]
    for arguments, spacing in (
        (["--spacing", "10", "-c", "a.yaml"], 10),
        (["-c", "a.yaml", "--spacing", "10"], 10),
        (["--config=a.yaml", "--config", "b.yaml"], 14),
        (["--config", "b.yaml", "-o", "out/", "--config=a.yaml"], 12),
    ):
        assert run("register", *files, *arguments, "-o", "out/")[0] == 0
        assert strict_json("out/Report.json")["working_grid"]["spacing_mm"] == [spacing] * 3
        assert Path("out/Jacobian.nii.gz").is_file()


def test_a_new_registration_leaves_nothing_of_an_older_one(run, no_picture):
    files = ["fixed.nii.gz", "moving.nii.gz", "-o", "out/", *QUICK]
    assert run("register", *files, "--inverse", "--initial", "center-of-mass")[0] == 0
    Path("out/notes.txt").touch()
    assert {"1InverseWarp.nii.gz", "0GenericAffine.mat"} < names("out")
    assert run("register", *files)[0] == 0
    assert names("out") == {*ALWAYS, "notes.txt"}


def test_the_report_has_no_empty_field(run, no_picture):
    assert run("register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/", *QUICK, *LABELS)[0] == 0
    for stage in strict_json("out/Report.json")["labels"].values():
        assert None not in stage.values() and stage["mean_dice"] > 0
