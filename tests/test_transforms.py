"""Affine transforms and displacement fields, and their ITK files."""

import numpy as np
import pytest
import torch
from nibabel.nifti1 import Nifti1Image
from scipy.io import loadmat, savemat
from scipy.spatial.transform import Rotation

from voxelopt_layers import warp
from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid
from voxelopt_train.images import write_nifti
from voxelopt_train.transforms import (
    AffineTransform,
    DisplacementField,
    Transform,
    read_transform,
    voxels_to_mm,
    write_affine,
    write_displacement_field,
)

HEADER = "#Insight Transform File V1.0\n#Transform 0\n"
LPS = np.array([-1.0, -1.0, 1.0])


def oblique_affine(spacing=(1.0, 1.5, 3.0), origin=(-12.0, 7.0, 30.0)) -> np.ndarray:
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", [12, -25, 35], degrees=True).as_matrix()
    affine[:3, :3] = rotation[:, [1, 2, 0]] * spacing
    affine[:3, 3] = origin
    return affine


def some_affine() -> AffineTransform:
    rng = np.random.default_rng(0)
    matrix = np.eye(4)
    matrix[:3] += np.c_[rng.normal(size=(3, 3)) * 0.1, rng.normal(size=3) * 10]
    return AffineTransform(matrix)


def some_points(n: int = 50) -> torch.Tensor:
    return (
        torch.randn(1, 3, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 40
    )


def some_field() -> DisplacementField:
    grid = Grid((6, 5, 4), oblique_affine())
    displacement = torch.randn(1, 3, 6, 5, 4, generator=torch.Generator().manual_seed(1))
    return DisplacementField(voxels_to_mm(displacement, grid), grid)


def voxel_points(grid: Grid, *voxels: list[float]) -> torch.Tensor:
    indices = np.array(voxels, dtype=float)
    world = indices @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return torch.from_numpy(world.T.copy())[None]


def affine_of(transform: Transform) -> np.ndarray:
    assert isinstance(transform, AffineTransform)
    return transform.matrix


def test_affine_maps_points_and_inverts():
    affine, points = some_affine(), some_points()
    expected = affine.matrix[:3, :3] @ points[0].numpy() + affine.matrix[:3, 3:]
    np.testing.assert_allclose(affine(points)[0], expected)
    torch.testing.assert_close(affine.inverse()(affine(points)), points)
    assert affine(points.float()).dtype == torch.float32


def test_voxels_to_mm_agrees_with_warp_by_voxels():
    # The voxel x + u(x) and the point p(x) + u_mm(p(x)) are one place: read the coordinates there.
    grid = Grid((6, 5, 4), oblique_affine())
    displacement = torch.rand(1, 3, 6, 5, 4, generator=torch.Generator().manual_seed(0)) - 0.5
    displacement[:, :, [0, -1]] = 0
    displacement[:, :, :, [0, -1]] = 0
    displacement[:, :, :, :, [0, -1]] = 0
    indices = torch.stack(torch.meshgrid(*map(torch.arange, grid.shape), indexing="ij"))[None]
    world = AffineTransform(grid.affine)(indices.double())
    field = DisplacementField(voxels_to_mm(displacement, grid), grid)
    by_voxels = warp(world.float(), displacement)
    torch.testing.assert_close(field(world).float(), by_voxels, atol=1e-4, rtol=0)


def test_displacement_field_interpolates_clamps_and_ends():
    field = some_field()
    u = field.displacement_mm[0].double()
    middle, last, edge, beyond = range(4)
    points = voxel_points(field.grid, [1.5, 2, 3], [5, 4, 3], [5.4, 4, 3], [5.6, 4, 3])
    moved = (field(points) - points)[0]
    torch.testing.assert_close(
        moved[:, middle], (u[:, 1, 2, 3] + u[:, 2, 2, 3]) / 2, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(moved[:, last], u[:, 5, 4, 3], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[:, edge], u[:, 5, 4, 3], atol=1e-5, rtol=0)
    assert (moved[:, beyond] == 0).all()


@pytest.mark.parametrize("suffix", [".mat", ".tfm", ".txt"])
def test_affine_file_round_trip(tmp_path, suffix):
    affine = some_affine()
    write_affine(tmp_path / f"a{suffix}", affine)
    read = affine_of(read_transform(tmp_path / f"a{suffix}"))
    np.testing.assert_allclose(read, affine.matrix, atol=1e-12)
    inverse = affine_of(read_transform(f"[{tmp_path / 'a'}{suffix},1]"))
    np.testing.assert_allclose(inverse @ affine.matrix, np.eye(4), atol=1e-9)
    kept = affine_of(read_transform(f"[{tmp_path / 'a'}{suffix}, 0]"))
    np.testing.assert_array_equal(kept, read)


def test_mat_file_has_the_layout_of_ants(tmp_path):
    write_affine(tmp_path / "a0GenericAffine.mat", some_affine())
    arrays = loadmat(tmp_path / "a0GenericAffine.mat")
    assert arrays["AffineTransform_double_3_3"].shape == (12, 1)
    assert arrays["fixed"].shape == (3, 1)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_displacement_field_round_trip(tmp_path, suffix):
    field = some_field()
    path = tmp_path / f"a1Warp{suffix}"
    write_displacement_field(path, field)
    stored = Nifti1Image.from_filename(path)
    assert stored.shape == (6, 5, 4, 1, 3) and int(stored.header["intent_code"]) == 1007
    lps_mm = field.displacement_mm[0].permute(1, 2, 3, 0).numpy() * LPS
    np.testing.assert_allclose(stored.get_fdata()[:, :, :, 0], lps_mm, rtol=1e-6)
    read = read_transform(path)
    assert isinstance(read, DisplacementField)
    assert read.grid.matches(field.grid)
    torch.testing.assert_close(read.displacement_mm, field.displacement_mm)


def _itk_transforms():
    sitk = pytest.importorskip("SimpleITK")
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((1.1, 0.1, 0, -0.2, 0.9, 0.05, 0, 0.03, 1.2))
    affine.SetTranslation((4, -5, 6))
    euler = sitk.Euler3DTransform((10, 20, -30), 0.3, -0.2, 0.5, (1, 2, 3))
    zyx = sitk.Euler3DTransform(euler)
    zyx.SetComputeZYX(True)
    versor = sitk.VersorRigid3DTransform((0.6, 0.0, 0.8), 0.7, (1, 2, 3), (10, 20, -30))
    similarity = sitk.Similarity3DTransform(1.3, (0, 0.6, 0.8), -0.7, (1, 2, 3), (10, 20, -30))
    affine.SetCenter((-7, 8, 9))
    return {
        "AffineTransform": affine,
        "Euler3DTransform": euler,
        "Euler3DTransform ZYX": zyx,
        "VersorRigid3DTransform": versor,
        "Similarity3DTransform": similarity,
        "TranslationTransform": sitk.TranslationTransform(3, (1, -2, 3)),
        "IdentityTransform": sitk.Transform(3, sitk.sitkIdentity),
        "CompositeTransform": sitk.CompositeTransform([affine, euler, versor]),
    }


def assert_same_map(ours: Transform, itk, tolerance=1e-6):
    points = some_points()
    mapped = ours(points)[0].T.numpy()
    expected = [itk.TransformPoint((p * LPS).tolist()) for p in points[0].T.numpy()]
    np.testing.assert_allclose(mapped, np.array(expected) * LPS, atol=tolerance)


@pytest.mark.parametrize("suffix", [".tfm", ".txt", ".mat"])
@pytest.mark.parametrize(
    "kind",
    [
        "AffineTransform",
        "Euler3DTransform",
        "Euler3DTransform ZYX",
        "VersorRigid3DTransform",
        "Similarity3DTransform",
        "TranslationTransform",
        "IdentityTransform",
        "CompositeTransform",
    ],
)
def test_reads_what_simpleitk_writes(tmp_path, kind, suffix):
    sitk = pytest.importorskip("SimpleITK")
    path = tmp_path / f"a{suffix}"
    itk = _itk_transforms()[kind]
    sitk.WriteTransform(itk, str(path))
    if kind == "CompositeTransform" and suffix == ".mat":  # ITK's MATLAB files hold one of them
        with pytest.raises(InputError, match="cannot use CompositeTransform_double_3_3"):
            read_transform(path)
    else:
        assert_same_map(read_transform(path), itk)


@pytest.mark.parametrize("suffix", [".tfm", ".txt", ".mat"])
def test_simpleitk_reads_what_we_write(tmp_path, suffix):
    sitk = pytest.importorskip("SimpleITK")
    affine = some_affine()
    write_affine(tmp_path / f"a{suffix}", affine)
    assert_same_map(affine, sitk.ReadTransform(str(tmp_path / f"a{suffix}")))


def test_float_matrix_offset_with_a_centre(tmp_path):
    # As antsRegistration --float writes it: y = M (x - c) + c + t.
    parameters = np.array([2, 0, 0, 0, 2, 0, 0, 0, 2, 1, 2, 3], dtype=np.float32)[:, None]
    arrays = {
        "MatrixOffsetTransformBase_float_3_3": parameters,
        "fixed": np.array([[10.0], [20], [30]], dtype=np.float32),
    }
    savemat(tmp_path / "a.mat", arrays, format="4")
    lps = np.array([[2.0, 0, 0, -9], [0, 2, 0, -18], [0, 0, 2, -27], [0, 0, 0, 1]])
    ras = np.diag([*LPS, 1]) @ lps @ np.diag([*LPS, 1])
    np.testing.assert_allclose(affine_of(read_transform(tmp_path / "a.mat")), ras)


SPLINE = f"{HEADER}Transform: BSplineTransform_double_3_3\nParameters: 1\nFixedParameters: 1\n"
FLAT = f"{HEADER}Transform: Euler2DTransform_double_2_2\nParameters: 0 1 2\nFixedParameters: 0 0\n"
SHORT = (
    f"{HEADER}Transform: AffineTransform_double_3_3\nParameters: 1 0 0\nFixedParameters: 0 0 0\n"
)
ZERO = SHORT.replace("1 0 0", " ".join(["0"] * 12))
TWICE = SHORT + SHORT.removeprefix(HEADER)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.mat", None, "no such file"),
        ("a.nii.gz", None, "no such file"),
        ("a.tfm", SPLINE, "cannot use BSplineTransform_double_3_3"),
        ("a.txt", FLAT, "cannot use Euler2DTransform_double_2_2"),
        ("a.tfm", SHORT, "damaged.*12 finite parameters"),
        ("a.tfm", SHORT.replace("1 0 0", "1 x 0"), "damaged"),
        ("a.tfm", ZERO, "singular"),
        ("a.tfm", TWICE, "expected one transform, found 2"),
        ("a.tfm", HEADER, "expected one transform, found 0"),
        ("a.txt", "not a transform", "not an ITK transform file"),
        ("a.mat", "not a transform" * 100, "not an ITK transform file"),
        ("a.h5", "\x89HDF", "not an ITK transform file"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "no ITK transform, or a damaged one"),
        ("a.nii", "not a field", "not a NIfTI image"),
    ],
)
def test_unusable_file(tmp_path, name, content, says):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=says) as raised:
        read_transform(path)
    assert str(path) in str(raised.value)


def test_truncated_mat(tmp_path):
    write_affine(tmp_path / "a.mat", some_affine())
    content = (tmp_path / "a.mat").read_bytes()
    (tmp_path / "a.mat").write_bytes(content[:70])
    with pytest.raises(InputError, match="not an ITK transform file"):
        read_transform(tmp_path / "a.mat")


@pytest.mark.parametrize(
    ("shape", "intent", "says"),
    [
        ((4, 4, 4), None, "this is an image, not a transform"),
        ((4, 4, 4, 3), 1007, r"got shape \(4, 4, 4, 3\)"),
        ((4, 4, 4, 1, 3), None, "intent 1007.*got intent 0.*fsl:FILE"),
        ((4, 4, 1, 1, 2), 1007, r"got shape \(4, 4, 1, 1, 2\)"),
    ],
)
def test_nifti_that_is_no_displacement_field(tmp_path, shape, intent, says):
    write_nifti(tmp_path / "a.nii.gz", np.zeros(shape), np.eye(4), intent=intent)
    with pytest.raises(InputError, match=says):
        read_transform(tmp_path / "a.nii.gz")


def test_displacement_field_with_nan(tmp_path):
    array = np.zeros((4, 4, 4, 1, 3))
    array[1, 1, 1] = np.nan
    write_nifti(tmp_path / "a.nii.gz", array, np.eye(4), intent=1007)
    with pytest.raises(InputError, match="NaN"):
        read_transform(tmp_path / "a.nii.gz")


def test_write_affine_needs_a_known_suffix(tmp_path):
    with pytest.raises(InputError, match=r"\.mat, \.tfm, \.txt, \.h5"):
        write_affine(tmp_path / "a.json", some_affine())
    with pytest.raises(InputError, match="cannot be written"):
        write_affine(tmp_path / "absent" / "a.mat", some_affine())
    assert not list(tmp_path.iterdir())
