"""Each format against the tool that it is for (`other_tools`), and what its files hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nibabel.nifti1 import Nifti1Image
from scipy.ndimage import zoom

from other_tools import TOOLS, chain_on, difference
from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid
from voxelopt_train.images import write_nifti
from voxelopt_train.transforms import (
    FORMATS,
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    as_displacement_field,
    from_ddf,
    from_simpleitk,
    read_transform,
    to_ddf,
    to_simpleitk,
    write_displacement_field,
    write_transform,
)
from worlds import PAIRS, make_grid, some_affine, some_field

LPS = np.array([-1.0, -1.0, 1.0])


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", TOOLS)
def test_the_same_warped_image(tmp_path, name, pair):
    if not TOOLS[name].installed:
        pytest.skip(f"{TOOLS[name].needs} is not installed")
    assert difference(TOOLS[name], tmp_path, pair) < 0.05


@pytest.mark.parametrize("suffix", [".h5", ".tfm"])
def test_reads_composites_of_simpleitk(tmp_path, suffix):
    sitk = pytest.importorskip("SimpleITK")
    fixed, _ = PAIRS["all together"]
    theirs = to_simpleitk([some_affine().inverse(), *chain_on(fixed)])
    path = tmp_path / f"t{suffix}"
    sitk.WriteTransform(theirs, str(path))
    ours = read_transform(path)
    points = torch.randn(1, 3, 40, dtype=torch.float64) * 10
    expected = [theirs.TransformPoint((p * LPS).tolist()) for p in points[0].T.numpy()]
    np.testing.assert_allclose(ours(points)[0].T, np.array(expected) * LPS, atol=1e-4)
    lone = from_simpleitk(theirs.GetNthTransform(1))
    assert isinstance(lone, DisplacementField) and lone.grid.matches(fixed)
    sitk.WriteTransform(sitk.Transform(3, sitk.sitkIdentity), str(path))
    assert torch.equal(read_transform(path)(points), points)


def test_composite_keeps_its_parts(tmp_path):
    fixed, _ = PAIRS["oblique moving"]
    write_transform(tmp_path / "t.h5", chain_on(fixed))
    read = read_transform(tmp_path / "t.h5")
    assert isinstance(read, CompositeTransform)
    field, affine = read.transforms
    assert isinstance(field, DisplacementField) and isinstance(affine, AffineTransform)
    torch.testing.assert_close(field.displacement_mm, some_field(fixed).displacement_mm)
    np.testing.assert_allclose(affine.matrix, some_affine().matrix, atol=1e-12)


@pytest.mark.parametrize("pair", ["oblique moving", "all together"])
def test_fields_in_ras_hold_what_their_names_say(tmp_path, pair):
    fixed, _ = PAIRS[pair]
    voxel = (5, 3, 7)
    world = torch.from_numpy(fixed.affine[:3, :3] @ voxel + fixed.affine[:3, 3])
    moved = world[None, :, None]
    for part in chain_on(fixed):
        moved = part(moved)
    position = moved[0, :, 0].numpy()
    expected = {
        "nifti": (position - world.numpy(), 1006, b"", 0),
        "niftyreg-disp": (position - world.numpy(), 1007, b"NREG_TRANS", 1),
        "niftyreg-def": (position, 1007, b"NREG_TRANS", 0),
    }
    for to, (vector, intent, name, parameter) in expected.items():
        stored = Nifti1Image.from_filename(written(tmp_path, to, fixed))
        assert stored.shape == (*fixed.shape, 1, 3)
        np.testing.assert_allclose(stored.get_fdata()[voxel][0], vector, atol=1e-4)
        header = stored.header
        assert (int(header["intent_code"]), float(header["intent_p1"])) == (intent, parameter)
        assert header["intent_name"].item() == name


def written(folder: Path, to: str, fixed: Grid, moving: Grid | None = None) -> Path:
    write_transform(folder / "t.nii.gz", chain_on(fixed), to, fixed, moving)
    return folder / "t.nii.gz"


def one_shape() -> tuple[Grid, Grid]:
    return make_grid((24, 20, 18), (2, 2, 2)), make_grid((24, 20, 18), (2, 2.2, 1.8), (20, -15, 30))


def test_learn2reg_enlarges_our_half_resolution(tmp_path):
    fixed, moving = one_shape()
    write_transform(tmp_path / "disp.npz", chain_on(fixed), "learn2reg", fixed, moving)
    half = np.load(tmp_path / "disp.npz")["arr_0"]
    assert half.shape == (3, 12, 10, 9) and half.dtype == np.float16
    enlarged = np.stack([np.asarray(zoom(c.astype(np.float32), 2, order=2)) for c in half])
    full = to_ddf(chain_on(fixed), fixed, moving)[0].numpy()
    assert np.abs(enlarged - full).mean() < 0.05 < 1 < np.abs(full).mean()  # in voxels
    read = read_transform(f"learn2reg:{tmp_path / 'disp.npz'}", fixed, moving)
    np.testing.assert_allclose(to_ddf([read], fixed, moving)[0], enlarged, atol=1e-4)


def test_ddf_there_and_back():
    fixed, moving = one_shape()
    ddf = to_ddf(chain_on(fixed), fixed, moving)
    torch.testing.assert_close(to_ddf([from_ddf(ddf, fixed, moving)], fixed, moving), ddf)
    with pytest.raises(InputError, match="expected shape"):
        from_ddf(ddf[:, :, 1:], fixed)


def test_inverse_leads_back_and_is_a_transform_like_any_other(tmp_path):
    fixed, _ = PAIRS["all together"]
    field, affine = some_field(fixed), some_affine()
    chain = CompositeTransform((field, affine))
    inner = make_grid((10, 9, 8), (1.5, 1.5, 1.5))
    points = AffineTransform(inner.affine)(torch.rand(1, 3, 300, dtype=torch.float64) * 7)
    assert (field(points) - points).norm(dim=1).mean() > 1
    torch.testing.assert_close(chain.inverse()(chain(points)), points, atol=1e-2, rtol=0)
    torch.testing.assert_close(chain(chain.inverse()(points)), points, atol=1e-2, rtol=0)
    assert field.inverse().inverse() is field
    write_displacement_field(tmp_path / "1Warp.nii.gz", field)
    read = read_transform(f"[{tmp_path / '1Warp.nii.gz'},1]")
    torch.testing.assert_close(read(field(points)), points, atol=1e-2, rtol=0)
    write_transform(tmp_path / "inverse.h5", [read, affine], fixed=inner)
    dense = read_transform(tmp_path / "inverse.h5")
    assert isinstance(dense, DisplacementField)  # ITK's files know no inverse of a field
    torch.testing.assert_close(dense(points), affine(read(points)), atol=0.2, rtol=0)


def test_inverse_of_a_field_that_folds_is_finite():
    grid = make_grid((12, 12, 12), (2, 2, 2))
    wild = DisplacementField(8 * torch.randn(1, 3, 12, 12, 12), grid)
    points = torch.randn(1, 3, 200, dtype=torch.float64) * 8
    found = wild.inverse()(points)
    assert found.isfinite().all()
    before, after = ((wild(x) - points).norm(dim=1) for x in (points, found))
    assert (after <= before).all() and after.mean() < 0.5 * before.mean()


def test_one_field_of_many():
    fixed, _ = PAIRS["oblique fixed"]
    field = some_field(fixed)
    assert as_displacement_field([field], Grid(fixed.shape, fixed.affine)) is field
    joined = as_displacement_field(chain_on(fixed), fixed)
    points = AffineTransform(fixed.affine)(torch.tensor([[[3.0, 7], [4, 2], [5, 9]]]).double())
    torch.testing.assert_close(joined(points), some_affine()(field(points)), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("to", "name", "says"),
    [
        ("itk", "t.mat", "holds no displacement, try .h5"),
        ("itk", "t.img", "expected a name ending in .nii or .nii.gz"),
        ("nifti", "t.h5", "expected a name ending in .nii or .nii.gz"),
        ("learn2reg", "t.npz", "needs even shapes"),
        ("learn2reg", "t.nii.gz", "have one shape"),
        ("elastix", "t.nii.gz", "must be one of itk, nifti"),
    ],
)
def test_what_does_not_fit_a_format(tmp_path, to, name, says):
    fixed, moving = PAIRS["anisotropic"]
    odd = make_grid((9, 8, 8), (5, 5, 5))
    grids = (odd, odd) if name.endswith("npz") else (fixed, moving)
    with pytest.raises(InputError, match=says):
        write_transform(tmp_path / name, chain_on(grids[0]), to, *grids)
    assert not list(tmp_path.iterdir())


def test_grids_that_are_missing_or_wrong(tmp_path):
    fixed, moving = one_shape()
    with pytest.raises(InputError, match="needs the grid of a --reference"):
        write_transform(tmp_path / "t.nii.gz", [some_affine()])
    for to in ("fsl", "learn2reg"):
        with pytest.raises(InputError, match="geometry of the moving image"):
            written(tmp_path, to, fixed)
    path = written(tmp_path, "fsl", fixed, moving)
    with pytest.raises(InputError, match="geometry of the moving image"):
        read_transform(path)
    written(tmp_path, "learn2reg", fixed, moving)
    with pytest.raises(InputError, match="geometry of the fixed image"):
        read_transform(f"learn2reg:{path}")
    with pytest.raises(InputError, match="made for shape"):
        read_transform(f"learn2reg:{path}", PAIRS["anisotropic"][0], moving)
    with pytest.raises(InputError, match="as fsl:FILE"):
        read_transform(_five_axes(path))
    sheared = make_grid((6, 6, 6), (2, 2, 2))
    sheared.affine[0, 1] = 1.0
    for name in ("t.h5", "sheared.nii.gz"):
        with pytest.raises(InputError, match="sheared"):
            write_transform(tmp_path / name, [some_field(sheared)])


def test_fsl_refuses_what_it_would_read_otherwise(tmp_path):
    fixed, moving = one_shape()
    path = written(tmp_path, "fsl", fixed, moving)
    stored = Nifti1Image.from_filename(path)
    spacing = np.array(fixed.spacing)
    index = np.moveaxis(np.indices(fixed.shape), 0, -1)
    index[..., 0] = fixed.shape[0] - 1 - index[..., 0]
    positions = stored.get_fdata() + index * spacing
    absolute = Nifti1Image(positions.astype(np.float32), stored.affine, stored.header)
    absolute.to_filename(tmp_path / "absolute.nii.gz")
    with pytest.raises(InputError, match="look like absolute positions"):
        read_transform(tmp_path / "absolute.nii.gz", moving=moving)


@pytest.mark.parametrize(
    ("array", "unit", "says"),
    [
        (np.full((4, 4, 4, 1, 3), 1e39), "mm", "NaN or infinite"),
        (np.zeros((4, 4, 4, 1, 3), np.complex64), "mm", "expected real numbers"),
        (np.zeros((4, 4, 4, 1, 3)), "meter", "expected millimetres"),
        (np.zeros((0, 4, 4, 1, 3)), "mm", "is empty"),
    ],
)
def test_fields_of_no_use(tmp_path, array, unit, says):
    volume = Nifti1Image(array, np.eye(4))
    volume.header.set_intent(1007)
    volume.header.set_xyzt_units(unit)
    volume.to_filename(tmp_path / "t.nii.gz")
    with pytest.raises(InputError, match=says):
        read_transform(tmp_path / "t.nii.gz")


def _five_axes(path: Path) -> Path:
    write_nifti(path, np.zeros((4, 4, 4, 1, 3)), np.eye(4))
    return path


@pytest.mark.parametrize(
    ("intent", "name", "parameter", "says"),
    [
        (2007, "", 0, "fnirtfileutils"),
        (1007, "NREG_TRANS", 5, "reg_transform -def"),
        (1007, "Mapping", 0, "SPM's deformation"),
    ],
)
def test_other_things_in_the_clothes_of_fields(tmp_path, intent, name, parameter, says):
    path = tmp_path / "t.nii.gz"
    write_nifti(path, np.zeros((4, 4, 4, 1, 3)), np.eye(4), intent, name, parameter)
    with pytest.raises(InputError, match=says):
        read_transform(path, moving=make_grid((4, 4, 4), (1, 1, 1)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        (b"not zipped", "expected a .npz file with one array"),
        (np.zeros((4, 4, 4)), "expected shape"),
        (np.full((3, 2, 2, 2), np.nan), "NaN or infinite"),
    ],
)
def test_damaged_npz(tmp_path, content, says):
    path = tmp_path / "disp.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.savez(path, content)
    with pytest.raises(InputError, match=says):
        read_transform(f"learn2reg:{path}", *[make_grid((4, 4, 4), (1, 1, 1))] * 2)


def test_every_format_has_a_test():
    tested = {name.replace(",", " ").split(" ")[0] for name in TOOLS} - {"in"}
    assert tested == set(FORMATS)
