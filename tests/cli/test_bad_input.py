"""Bad input gives one sentence and code 2, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from command_line import (
    LABELS,
)
from voxelopt_train import commands
from voxelopt_train.transforms import AffineTransform, transform_file, write_affine

ROLES = {
    "fixed image": "register BAD moving.nii.gz -o out/",
    "moving image": "register fixed.nii.gz BAD -o out/new/a_",
    "fixed labels": "register fixed.nii.gz moving.nii.gz -o out/ --fixed-labels BAD "
    "--moving-labels moving_labels.nii.gz",
    "moving mask": "register fixed.nii.gz moving.nii.gz -o out/ --moving-mask BAD",
    "image": "apply BAD -r fixed.nii.gz -o out/a.nii.gz",
    "reference": "apply moving.nii.gz -r BAD -o out/a.nii.gz",
}


@pytest.mark.parametrize("role", ROLES)
def test_a_message_names_the_role_of_a_file(refused, role):
    """What can be wrong with files is in test_broken_files."""
    message = refused(*ROLES[role].replace("BAD", "missing.nii.gz").split())
    assert message == f"{role} missing.nii.gz: there is no such file"


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ("missing.mat", "missing.mat"),
        ("missing.nii.gz", "no such file"),
        ("text.mat", "not an ITK transform file"),
        ("text.tfm", "not an ITK transform file"),
        ("moving.nii.gz", "an image, not a transform; expected an ITK displacement field"),
        ("[moving.nii.gz,1]", "expected an ITK displacement field"),
    ],
)
def test_bad_transform(refused, transform, expected):
    for name in ("text.mat", "text.tfm"):
        Path(name).write_text("no transform\n")
    apply = ["apply", "moving.nii.gz", "-r", "fixed.nii.gz", "-o", "out/a.nii.gz"]
    assert expected in refused(*apply, "-t", transform)
    register = ["register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/"]
    message = refused(*register, "--initial", transform)
    assert transform_file(transform).name in message
    if "moving" in transform:
        assert "linear transform (.mat, .tfm, .txt, .h5), this is an image" in message


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("", "register,apply,convert"),
        ("registr a b -o out/", "invalid choice: 'registr', choose from fit, validate, test,"),
        ("fitt", "predict, register, apply, convert"),
        ("register", "arguments are required: -o/--output"),
        ("apply", "arguments are required: image, -r/--reference, -o/--output"),
        ("register --config empty.yaml", "--config empty.yaml: there are no settings in this file"),
        ("apply moving.nii.gz", "arguments are required: -r/--reference, -o/--output"),
        ("demo -o", "-o/--output: expected one argument"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --smooth 3", "--smooth"),
        ("register fixed.nii.gz moving.nii.gz third.nii.gz -o out/", "third.nii.gz"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --spacing two", "--spacing: expected a num"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --spacing 0", "above 0 mm"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --spacing -2", "above 0 mm"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --spacing 0.01", "would fit (--spacing "),
        ("register fixed.nii.gz moving.nii.gz -o out/ --spacing 300", "leaves 2 x 1 x 1 voxels"),
        (
            "register fixed.nii.gz moving.nii.gz -o out/ --window 5000 8000",
            "all voxels are equal wi",
        ),
        ("register fixed.nii.gz moving.nii.gz -o out.nii.gz", "not the name of an image"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --window 5", "--window: expected 2"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --window 5 x", "--window: expected a num"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --window 5 -5", "from low to high, got 5 -5"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --features sift", "invalid choice: 'sift'"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --protocol mine", "invalid choice: 'mine'"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --initial centre", "center-of-mass, affine"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --fixed-labels a.nii", "both the fixed and"),
        (
            "register fixed.nii.gz moving.nii.gz -o out/ --device warp9",
            "device warp9: no such device",
        ),
        (
            "register fixed.nii.gz moving.nii.gz -o out/ --device meta",
            "device meta: no such device",
        ),
        ("demo --device cuda:99", "device cuda:99: no such device"),
        ("demo --seed one", "--seed: expected a whole number, got one"),
        ("demo --preset best", "invalid choice: 'best' (choose from"),
        ("demo --layer.speed 3", "--layer: the layer has no speed, it has levels, search_radius,"),
        ("demo --layer.levels", "expected one argument"),
        ("demo --layer.levels few", "--layer.levels: expected a whole number, got few"),
        ("demo --layer.levels 2.5", "--layer.levels: expected a whole number, got 2.5"),
        ("demo --layer.levels 0", "levels must be a whole number of at least 1, got 0"),
        ("demo --layer.search_radius 9", "search_radius must be from 1 to 5 voxels, got 9"),
        ("demo --layer.alpha nan", "--layer.alpha: expected a number, got nan"),
        ("demo --layer.theta 5", "--layer.theta: expected a list, got 5"),
        ("demo --layer.ties odd", "--layer.ties: expected one of 'mean', 'sum', got odd"),
        ("demo --layer.dissimilarity far", "--layer.dissimilarity: expected one of 'l1', "),
        ("demo --layer.sigma_range [1,2,3]", "--layer.sigma_range cannot be [1, 2, 3]"),
        ("apply moving.nii.gz -r fixed.nii.gz -o out/a.mha", "name ending in .nii or .nii.gz"),
        ("apply moving.nii.gz -r fixed.nii.gz -o out/", "name ending in .nii or .nii.gz"),
        ("apply moving.nii.gz --labels -r fixed.nii.gz -o out/a.nii", "must be whole numbers"),
    ],
)
def test_bad_command(refused, monkeypatch, pair, command, expected):
    monkeypatch.setattr(commands, "phantom_pair", lambda seed: pair)
    Path("empty.yaml").write_text("# nothing yet\n")
    assert expected in refused(*command.split())


def test_images_that_do_not_overlap(refused, pair):
    affine = pair.moving.grid.affine.copy()
    affine[2, 3] += 400
    Nifti1Image(pair.moving.data.numpy(), affine).to_filename("far.nii.gz")
    message = refused("register", "fixed.nii.gz", "far.nii.gz", "-o", "out/")
    assert "fixed.nii.gz and far.nii.gz do not overlap in world space" in message


@pytest.mark.parametrize("which", ["fixed", "moving"])
def test_labels_on_another_grid(refused, pair, which):
    affine = pair.fixed.grid.affine @ np.diag([1.0, 1.0, 1.5, 1.0])
    labels = getattr(pair, f"{which}_labels").data.numpy()
    Nifti1Image(labels, affine).to_filename(f"{which}_labels.nii.gz")
    message = refused("register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/", *LABELS)
    assert f"{which}_labels.nii.gz does not lie on the grid of {which}.nii.gz" in message


def test_images_with_nothing_to_match(refused, pair):
    grid = pair.fixed.grid
    Nifti1Image(np.zeros(grid.shape, np.float32), grid.affine).to_filename("flat.nii.gz")
    Nifti1Image(pair.fixed.data.numpy()[..., :1], grid.affine).to_filename("slice.nii.gz")
    for name, expected in (("flat", "all voxels are equal"), ("slice", "a single slice and")):
        for files in ([f"{name}.nii.gz", "moving.nii.gz"], ["fixed.nii.gz", f"{name}.nii.gz"]):
            message = refused("register", *files, "-o", "out/")
            assert f"{name}.nii.gz" in message and expected in message


def test_an_input_is_never_overwritten(refused):
    Path("moving.nii.gz").rename("Warped.nii.gz")
    message = refused("register", "fixed.nii.gz", "Warped.nii.gz", "-o", "./")
    assert message.startswith("Warped.nii.gz would be overwritten by a result")
    message = refused("apply", "fixed.nii.gz", "-r", "Warped.nii.gz", "-o", "fixed.nii.gz")
    assert message.startswith("fixed.nii.gz would be overwritten")


def test_labels_of_another_shape_and_of_another_affine(refused, pair):
    grid, labels = pair.moving.grid, pair.moving_labels.data.numpy()
    for array, affine, expected in (
        (labels[1:], grid.affine, "expected shape (40, 32, 36), got (39, 32, 36)"),
        (labels, grid.affine * 1.1, "their affines differ"),
    ):
        Nifti1Image(array, affine).to_filename("moving_labels.nii.gz")
        assert expected in refused(
            "register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/", *LABELS
        )


def test_an_initial_alignment_is_not_overwritten_inverted_or_not(refused):
    write_affine("0GenericAffine.mat", AffineTransform(np.eye(4)))
    for initial in ("0GenericAffine.mat", "[0GenericAffine.mat,1]"):
        arguments = ("register", "fixed.nii.gz", "moving.nii.gz", "-o", "./", "--initial", initial)
        assert "0GenericAffine.mat would be overwritten" in refused(*arguments)
