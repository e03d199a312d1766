"""FSL's matrices and warps: held against fslpy, and what FSL would take otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nibabel.nifti1 import Nifti1Image

from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid
from voxelopt_train.images import read_grid, read_image
from voxelopt_train.transforms import AffineTransform, Transform, read_transform, write_transform
from worlds import PAIRS, make_grid, some_affine, some_field

FIXED, MOVING = PAIRS["all together"]
# As FLIRT prints it: ten decimals, two spaces, one more at the end of each line.
FLIRT = (
    "0.9983000000  0.0523000000  -0.0262000000  1.2500000000  \n"
    "-0.0517000000  0.9984000000  0.0243000000  -3.5000000000  \n"
    "0.0274000000  -0.0229000000  0.9994000000  7.7500000000  \n"
    "0.0000000000  0.0000000000  0.0000000000  1.0000000000  \n"
)


def matrix_of(transform: Transform) -> np.ndarray:
    assert isinstance(transform, AffineTransform)
    return transform.matrix


def fsl_image(grid: Grid):
    """What fslpy makes of an image with this grid."""
    image = pytest.importorskip("fsl.data.image")
    volume = Nifti1Image(np.zeros(grid.shape, np.float32), grid.affine)
    return image.Image(volume)


@pytest.mark.parametrize("pair", PAIRS)
def test_matrices_as_fslpy_makes_them(tmp_path, pair):
    flirt = pytest.importorskip("fsl.transform.flirt")
    fixed, moving = PAIRS[pair]
    source, reference = fsl_image(moving), fsl_image(fixed)
    to_moving = some_affine()
    theirs = flirt.toFlirt(
        np.linalg.inv(to_moving.matrix), source, reference, from_="world", to="world"
    )
    flirt.writeFlirt(theirs, tmp_path / "theirs.mat")
    read = matrix_of(read_transform(tmp_path / "theirs.mat", fixed, moving))
    np.testing.assert_allclose(read, to_moving.matrix, atol=1e-4)  # pixdim is in float32
    write_transform(tmp_path / "ours.mat", [to_moving], "fsl", fixed, moving)
    ours = flirt.readFlirt(tmp_path / "ours.mat")
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    back = flirt.fromFlirt(ours, source, reference, from_="world", to="world")
    np.testing.assert_allclose(np.linalg.inv(back), to_moving.matrix, atol=1e-4)
    again = matrix_of(read_transform(tmp_path / "ours.mat", fixed, moving))
    np.testing.assert_allclose(again, to_moving.matrix, atol=1e-9)


def test_what_flirt_prints_maps_voxels_of_the_moving_image_to_those_of_the_fixed(tmp_path):
    """On grids whose first axis FSL does not turn round, by hand."""
    fixed = make_grid((10, 12, 14), (2, 2, 2), flips=(-1, 1, 1))
    moving = make_grid((12, 10, 8), (1, 2, 3), flips=(-1, 1, 1))
    (tmp_path / "a.mat").write_text(FLIRT)
    to_moving = read_transform(tmp_path / "a.mat", fixed, moving)
    voxel = np.array([3.0, 4, 5])  # of the moving image
    matrix = np.array([line.split() for line in FLIRT.splitlines()], dtype=float)
    in_fixed = (matrix[:3, :3] @ (voxel * [1, 2, 3]) + matrix[:3, 3]) / 2
    worlds = [
        torch.from_numpy(grid.affine[:3, :3] @ at + grid.affine[:3, 3])[None, :, None]
        for grid, at in ((fixed, in_fixed), (moving, voxel))
    ]
    torch.testing.assert_close(to_moving(worlds[0]), worlds[1])


def test_text_or_not_tells_whose_mat_it_is(tmp_path):
    path = tmp_path / "a.mat"
    write_transform(path, [some_affine()])  # ITK's
    np.testing.assert_allclose(matrix_of(read_transform(path)), some_affine().matrix, atol=1e-9)
    write_transform(path, [some_affine()], "fsl", FIXED, MOVING)
    inverse = matrix_of(read_transform(f"[{path},1]", fixed=MOVING, moving=FIXED))
    np.testing.assert_allclose(inverse @ some_affine().matrix, np.eye(4), atol=1e-9)
    other = path.rename(tmp_path / "MAT_0000")  # as of MCFLIRT
    named = matrix_of(read_transform(f"fsl:{other}", FIXED, MOVING))
    np.testing.assert_allclose(named, some_affine().matrix, atol=1e-9)
    with pytest.raises(InputError, match=r"does not tell its format; .* as fsl:FILE"):
        read_transform(other, FIXED, MOVING)


@pytest.mark.parametrize("name", ["t.mat", "t.nii.gz"])
def test_the_inverse_of_a_file_has_its_images_the_other_way_round(tmp_path, name):
    path = tmp_path / name
    chain: list[Transform] = [some_affine()] if name == "t.mat" else [some_field(FIXED)]
    write_transform(path, chain, "fsl", FIXED, MOVING)
    back = read_transform(f"[{path},1]", fixed=MOVING, moving=FIXED)
    points = torch.randn(1, 3, 30, dtype=torch.float64) * 3
    torch.testing.assert_close(back(chain[0](points)), points, atol=2e-2, rtol=0)
    with pytest.raises(InputError, match=r"geometry of the fixed image, as .* --reference"):
        read_transform(f"[{path},1]", moving=FIXED)


def test_linear_parts_are_one_matrix(tmp_path):
    chain = [some_affine(), some_affine().inverse(), some_affine()]
    write_transform(tmp_path / "a.mat", chain, "fsl", FIXED, MOVING)
    read = matrix_of(read_transform(tmp_path / "a.mat", FIXED, MOVING))
    np.testing.assert_allclose(read, some_affine().matrix, atol=1e-9)
    write_transform(tmp_path / "none.mat", [], "fsl", FIXED, MOVING)
    none = matrix_of(read_transform(tmp_path / "none.mat", FIXED, MOVING))
    np.testing.assert_allclose(none, np.eye(4), atol=1e-9)


ROWS = FLIRT.splitlines(keepends=True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("".join(ROWS[:3]), "a matrix of FLIRT, 4 lines of 4 numbers"),
        (FLIRT + ROWS[3], "4 lines of 4 numbers"),
        (FLIRT.replace("  7.7500000000", ""), "4 lines of 4 numbers"),
        (FLIRT.replace("7.7500000000", "far"), "4 lines of 4 numbers"),
        (FLIRT.replace("7.7500000000", "nan"), "NaN or infinite"),
        (FLIRT.replace("7.7500000000", "inf"), "NaN or infinite"),
        (ROWS[0] + ROWS[0] + ROWS[2] + ROWS[3], "singular"),
        ("".join(ROWS[:3]) + "0 0 0.5 1\n", "last row of the matrix is 0 0 0.5 1, expected 0 0 0"),
        ("0 0 0 1\n" + "".join(ROWS[:3]), "last row of the matrix is 0.0274 -0.0229 .*, expected"),
    ],
)
def test_unusable_matrix(tmp_path, content, says):
    path = tmp_path / "a.mat"
    path.write_text(content)
    with pytest.raises(InputError, match=says) as raised:
        read_transform(path, FIXED, MOVING)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_matrix_that_is_none_or_has_no_images(tmp_path):
    path = tmp_path / "a.mat"
    with pytest.raises(InputError, match="there is no such file"):
        read_transform(f"fsl:{path}", FIXED, MOVING)
    write_transform(path, [some_affine()])
    with pytest.raises(InputError, match="expected a matrix of FLIRT"):
        read_transform(f"fsl:{path}", FIXED, MOVING)
    path.write_text(FLIRT)
    for grids, role in (((None, MOVING), "fixed"), ((FIXED, None), "moving")):
        with pytest.raises(InputError, match=f"geometry of the {role} image"):
            read_transform(path, *grids)
        with pytest.raises(InputError, match=f"geometry of the {role} image"):
            write_transform(tmp_path / "b.mat", [some_affine()], "fsl", *grids)
    with pytest.raises(InputError, match=r"holds no displacement, try \.nii\.gz"):
        write_transform(tmp_path / "b.mat", [some_field(FIXED)], "fsl", FIXED, MOVING)
    assert not (tmp_path / "b.mat").exists()


def torn(grid: Grid, path) -> Grid:
    """The grid of an image whose header has voxels of other sizes than its affine."""
    volume = Nifti1Image(np.ones(grid.shape, np.float32), grid.affine)
    volume.header.set_zooms([1.1 * mm for mm in grid.spacing])
    volume.header["sform_code"] = 1
    volume.to_filename(path)
    read = read_grid(path, "image")
    np.testing.assert_allclose(read.affine, grid.affine, atol=1e-4)
    assert read_image(path, "image").grid.misfit == read.misfit
    return read


@pytest.mark.parametrize("name", ["t.mat", "t.nii.gz"])
@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_both_images_have_one_size_of_voxels(tmp_path, role, name):
    path = tmp_path / name
    chain: list[Transform] = [some_affine()] if name == "t.mat" else [some_field(FIXED)]
    write_transform(path, chain, "fsl", FIXED, MOVING)
    grids = {"fixed": FIXED, "moving": MOVING}
    grids[role] = torn(grids[role], tmp_path / "torn.nii.gz")
    says = r"torn\.nii\.gz: pixdim says voxels of .* mm, the sform .* mm"
    with pytest.raises(InputError, match=says):
        write_transform(tmp_path / f"again_{name}", chain, "fsl", **grids)
    if (role, name) != ("fixed", "t.nii.gz"):  # a warp has the grid of the fixed image itself
        with pytest.raises(InputError, match=says):
            read_transform(path, **grids)
    write_transform(tmp_path / "t.h5", chain, fixed=grids["fixed"])  # ITK knows no pixdim


def test_sizes_of_voxels_in_a_warp_itself(tmp_path):
    write_transform(tmp_path / "t.nii.gz", [some_field(FIXED)], "fsl", FIXED, MOVING)
    volume = Nifti1Image.from_filename(tmp_path / "t.nii.gz")
    volume.header.set_zooms((9, 9, 9, 1))
    volume.header["qform_code"] = 0
    torn = Nifti1Image(np.asarray(volume.dataobj), None, volume.header)
    torn.to_filename(tmp_path / "torn.nii.gz")
    with pytest.raises(InputError, match=r"torn\.nii\.gz: pixdim says voxels of 9 x 9 x 9 mm"):
        read_transform(tmp_path / "torn.nii.gz", moving=MOVING)
