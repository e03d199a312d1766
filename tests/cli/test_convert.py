"""``voxelopt convert``, and ``apply`` with files of other tools."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from command_line import volume
from voxelopt_train.grids import Grid
from voxelopt_train.images import write_nifti
from voxelopt_train.transforms import FORMATS, write_affine, write_displacement_field
from worlds import PLAIN, make_grid, some_affine, some_field, some_image

MOVING = make_grid((24, 20, 18), (2, 2.2, 1.8), (20, -15, 30))
CHAIN = ("-t", "1Warp.nii.gz", "-t", "0GenericAffine.mat")
GRIDS = ("--reference", "reference.nii.gz", "--moving", "image.nii.gz")


@pytest.fixture(autouse=True)
def files(folder):
    """A reference, an image and two transforms."""
    write_nifti(folder / "reference.nii.gz", np.zeros(PLAIN.shape, np.float32), PLAIN.affine)
    write_nifti(folder / "image.nii.gz", some_image(MOVING).data, MOVING.affine)
    write_displacement_field(folder / "1Warp.nii.gz", some_field(PLAIN))
    write_affine(folder / "0GenericAffine.mat", some_affine())


def applied(run, *transforms: str) -> np.ndarray:
    arguments = ("-r", "reference.nii.gz", "-o", "warped.nii.gz")
    assert run("apply", "image.nii.gz", *transforms, *arguments)[0] == 0
    return volume("warped.nii.gz")


@pytest.mark.parametrize("to", FORMATS)
def test_a_converted_file_warps_as_the_chain_did(run, to):
    expected = applied(run, *CHAIN)
    code, out, err = run("convert", *CHAIN, *GRIDS, "--to", to, "-o", "t.nii.gz")
    assert (code, err) == (0, "") and "wrote t.nii.gz" in out
    spec = "learn2reg:t.nii.gz" if to == "learn2reg" else "t.nii.gz"
    assert np.abs(applied(run, "-t", spec) - expected).mean() < 0.1
    assert np.abs(expected).mean() > 30


def test_files_that_speak_of_voxels_are_of_the_moving_image(run):
    """Another image of the moving subject may lie on another grid."""
    assert run("convert", *CHAIN, *GRIDS, "--to", "fsl", "-o", "t.nii.gz")[0] == 0
    affine = MOVING.affine.copy()
    affine[:3, 3] = (affine @ [2, 2, 2, 1])[:3]
    write_nifti(Path("image.nii.gz"), some_image(MOVING).data[2:, 2:, 2:], affine)
    write_nifti(Path("moving.nii.gz"), some_image(MOVING).data, MOVING.affine)
    expected = applied(run, *CHAIN)
    assert np.abs(applied(run, "-t", "t.nii.gz", "-m", "moving.nii.gz") - expected).mean() < 0.1
    assert np.abs(applied(run, "-t", "t.nii.gz") - expected).mean() > 5


def test_composite_and_back_needs_no_grid(run):
    expected = applied(run, *CHAIN)
    assert run("convert", *CHAIN, "-o", "t.h5")[0] == 0
    assert (
        run("convert", "-t", "t.h5", "--to", "fsl", "-m", "image.nii.gz", "-o", "w.nii.gz")[0] == 0
    )
    assert np.abs(applied(run, "-t", "w.nii.gz") - expected).mean() < 0.1


def test_flirt_there_and_back(run):
    expected = applied(run, "-t", "0GenericAffine.mat")
    arguments = ("-t", "0GenericAffine.mat", *GRIDS, "--to", "fsl", "-o", "flirt.mat")
    assert run("convert", *arguments) == (0, "wrote flirt.mat\n", "")
    assert len(Path("flirt.mat").read_text().splitlines()) == 4
    assert np.abs(applied(run, "-t", "flirt.mat") - expected).max() < 1e-2
    other_way = ("--reference", "image.nii.gz", "--moving", "reference.nii.gz")
    assert run("convert", "-t", "[flirt.mat,1]", *other_way, "-o", "inverse.mat")[0] == 0
    there_and_back = applied(run, "-t", "flirt.mat", "-t", "inverse.mat")
    assert np.abs(there_and_back - applied(run)).max() < 1e-2


def test_points_and_jacobian_through_flirt(run):
    assert run("convert", "-t", "0GenericAffine.mat", *GRIDS, "--to", "fsl", "-o", "f.mat")[0] == 0
    Path("points.csv").write_text("x,y,z\n1,2,3\n-4,5,6\n")
    mapped = []
    for transform, name in (("0GenericAffine.mat", "itk.csv"), ("fsl:f.mat", "fsl.csv")):
        assert run("points", "points.csv", "-t", transform, *GRIDS, "-o", name)[0] == 0
        mapped.append(np.loadtxt(name, delimiter=",", skiprows=1))
    np.testing.assert_allclose(*mapped, atol=1e-4)
    _, out, _ = run("jacobian", "-t", "f.mat", *GRIDS, "-o", "j.nii.gz")
    assert "J from 1.158 to 1.158" in out  # 1.05 along three axes


@pytest.fixture
def torn(folder):
    """An image with another size of voxels in its header than in its affine."""
    torn = Nifti1Image(some_image(MOVING).data.numpy(), MOVING.affine)
    torn.header.set_zooms((3, 3, 3))
    torn.header["sform_code"] = 2
    torn.to_filename("torn.nii.gz")
    return folder


TORN = "torn.nii.gz: pixdim says voxels of 3 x 3 x 3 mm, the sform "


def test_pixdim_of_every_image_is_checked_where_fsl_goes_by_it(run, refused, torn):
    for to, name in (("fsl", "w.nii.gz"), ("fsl", "w.mat")):
        chain = CHAIN[2:] if name == "w.mat" else CHAIN
        assert run("convert", *chain, *GRIDS, "--to", to, "-o", name)[0] == 0
        writing = ("convert", *chain, "--to", "fsl", "-o", f"other_{name}")
        both = ("-m", "torn.nii.gz", "-r", "torn.nii.gz")
        assert TORN in refused(*writing, *GRIDS[:2], *both[:2])
        assert TORN in refused(*writing, *both[2:], *GRIDS[2:])
        reading = ("apply", "torn.nii.gz", "-r", "reference.nii.gz", "-o", "o.nii.gz")
        assert TORN in refused(*reading, "-t", name)
        jacobian = ("jacobian", "-t", name, *GRIDS[:2], "-o", "j.nii.gz")
        assert TORN in refused(*jacobian, *both[:2])
    assert run(*reading, "-t", "0GenericAffine.mat")[0] == 0


def test_inverse_says_how_far_it_is_off(run):
    code, out, _ = run(
        "convert", "-t", "[1Warp.nii.gz,1]", "-r", "reference.nii.gz", "-o", "i.nii.gz"
    )
    assert code == 0 and "inverse off by 0.00" in out
    there_and_back = applied(run, "-t", "1Warp.nii.gz", "-t", "i.nii.gz")
    assert np.abs(there_and_back - applied(run))[5:-5, 5:-5, 5:-5].mean() < 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*CHAIN, "-o", "1Warp.nii.gz"), "would be overwritten"),
        (("-t", "absent.nii.gz", "-o", "t.h5"), "absent.nii.gz: there is no such file"),
        (("-t", "0GenericAffine.mat", "-o", "t.nii.gz"), "a --reference image: give the fixed"),
        ((*CHAIN, "-o", "t.mat"), "holds no displacement"),
        ((*CHAIN, "-o", "t.xfm"), "expected a name ending in .nii or .nii.gz"),
        ((*CHAIN, "--to", "elastix", "-o", "t.nii.gz"), "elastix"),
        (
            ("-t", "fsl:1Warp.nii.gz", "-o", "t.h5"),
            "geometry of the moving image, as voxelopt convert --moving FILE",
        ),
        (("-t", "learn2reg:1Warp.nii.gz", *GRIDS, "-o", "t.h5"), "of shape (x, y, z, 3)"),
        (("-o", "t.h5"), "transform"),
        ((*CHAIN, *GRIDS, "--to", "fsl", "-o", "t.mat"), "a matrix of FLIRT holds no displacement"),
        (
            (*CHAIN[2:], *GRIDS[2:], "--to", "fsl", "-o", "t.mat"),
            "geometry of the fixed image, as voxelopt convert --reference FILE",
        ),
        ((*CHAIN, "-o", "t.Nii.gz"), "expected a name ending in .nii or .nii.gz"),
        ((*CHAIN, "-r", "0GenericAffine.mat", "-o", "t.nii.gz"), "not a NIfTI image"),
        ((*CHAIN, "-o", "1Warp.nii.gz/t.h5"), "cannot be made"),
    ],
)
def test_refused(refused, arguments, says):
    assert says in refused("convert", *arguments)


def test_odd_half_resolution_is_refused(refused):
    odd = Grid((9, 8, 8), np.diag([2.0, 2, 2, 1]))
    write_nifti(Path("odd.nii.gz"), np.zeros(odd.shape, np.float32), odd.affine)
    arguments = ("-r", "odd.nii.gz", "-m", "odd.nii.gz", "--to", "learn2reg", "-o", "t.npz")
    assert "even shapes" in refused("convert", *CHAIN, *arguments)
