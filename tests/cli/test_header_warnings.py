"""What is odd about an image, in one line of standard error for each file."""

from __future__ import annotations

import numpy as np
from nibabel.nifti1 import Nifti1Image

import cohorts
from cohorts import COHORT, pairs, write_table
from voxelopt_train.cohort import registration

SAYS = (
    "voxelopt: warning: {}: its sform and qform disagree by up to {} mm; the sform is used here, "
    "ITK and ANTs may use the qform\n"
)


def move_qform(path: str, mm: float, to: str) -> None:
    """Write an image again, with a qform so far from its sform."""
    old = Nifti1Image.from_filename(path)
    moved = np.array(old.affine)
    volume = Nifti1Image(np.asarray(old.dataobj), moved)
    moved[1, 3] += mm
    volume.set_qform(moved, "scanner", update_affine=False)
    volume.to_filename(to)


def test_a_command(run):
    move_qform("moving.nii.gz", 3.2, "odd.nii.gz")
    code, out, err = run("apply", "odd.nii.gz", "--reference", "odd.nii.gz", "-o", "warped.nii.gz")
    assert (code, out) == (0, "wrote warped.nii.gz\n")
    assert err == SAYS.format("odd.nii.gz", "3.2")


def test_apply_of_what_is_no_label_map_and_of_a_slice(run):
    values = np.asarray(Nifti1Image.from_filename("moving.nii.gz").dataobj).round()
    affine = Nifti1Image.from_filename("moving.nii.gz").affine
    for name, array in (("image", values), ("slice", values[:, :, :1] * 0)):
        Nifti1Image(array.astype(np.int16), affine).to_filename(f"{name}.nii.gz")
    onto = ("--labels", "--reference", "fixed.nii.gz", "-o", "warped.nii.gz")
    code, _, err = run("apply", "image.nii.gz", *onto)
    many = f"{len(np.unique(values)) - 1} different values, and most voxels differ from the next"
    assert code == 2 and err.startswith(f"voxelopt: error: image.nii.gz: {many}: this is an image")
    code, _, err = run("apply", "slice.nii.gz", *onto)
    says = "slice.nii.gz is a single slice and fixed.nii.gz a volume: most of the result"
    assert code == 0 and err.startswith(f"voxelopt: warning: {says}") and err.count("\n") == 1
    assert run("apply", "moving.nii.gz", *onto[1:2], "slice.nii.gz", *onto[3:])[2] == ""


def test_a_cohort_says_it_of_an_atlas_once(run, folder, monkeypatch):
    """Two processes, each of which reads the atlas."""
    monkeypatch.setattr(registration, "register_case", cohorts.register_case)
    move_qform("fixed.nii.gz", 12, "atlas.nii.gz")
    rows = [row | {"fixed": "atlas.nii.gz"} for row in pairs("a", "b")]
    code, _, err = run(*COHORT, "--pairs", write_table("pairs.csv", rows), "--workers", "2")
    assert code == 0
    assert err == SAYS.format("atlas.nii.gz", "12")
