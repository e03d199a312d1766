"""All linear types of ITK in 3-D, as SimpleITK maps points by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from voxelopt_train.errors import InputError
from voxelopt_train.transforms import Transform, from_simpleitk, read_transform
from voxelopt_train.transforms.itk_linear import PARAMETERS

sitk = pytest.importorskip("SimpleITK")

LPS = np.array([-1.0, -1.0, 1.0])
HEADER = "#Insight Transform File V1.0\n#Transform 0\n"


def transforms_of_all_types():
    """Parameters and fixed parameters."""
    rng = np.random.default_rng(3)
    angles, versor, skew = rng.normal(size=3), rng.uniform(-0.4, 0.4, 3), rng.normal(size=6) * 0.1
    scale, shift, center = rng.uniform(0.6, 1.5, 3), *rng.normal(size=(2, 3)) * 20
    matrix = (np.eye(3) + rng.normal(size=(3, 3)) * 0.2).ravel()
    return {
        "AffineTransform": ([*matrix, *shift], center),
        "CenteredAffineTransform": ([*matrix, *center, *shift], [1, 2, 3]),
        "CenteredEuler3DTransform": ([*angles, *center, *shift], [1, 2, 3]),
        "CenteredEuler3DTransform ZYX": ([*angles, *center, *shift], [1, 2, 3, 1]),
        "ComposeScaleSkewVersor3DTransform": ([*versor, *shift, *scale, *skew[:3]], center),
        "Euler3DTransform": ([*angles, *shift], [*center, 0]),
        "Euler3DTransform ZYX": ([*angles, *shift], [*center, 1]),
        "FixedCenterOfRotationAffineTransform": ([*matrix, *shift], center),
        "IdentityTransform": ([], []),
        "MatrixOffsetTransformBase": ([*matrix, *shift], center),
        "QuaternionRigidTransform": ([*versor, 0.8, *shift], center),
        "ScalableAffineTransform": ([*matrix, *shift], center),
        "ScaleLogarithmicTransform": (np.log(scale), center),
        "ScaleSkewVersor3DTransform": ([*versor, *shift, *scale, *skew], center),
        "ScaleTransform": (scale, center),
        "ScaleVersor3DTransform": ([*versor, *shift, *scale], center),
        "Similarity3DTransform": ([*versor, *shift, 1.3], center),
        "TranslationTransform": (shift, []),
        "VersorRigid3DTransform": ([*versor, *shift], center),
        "VersorTransform": (versor, center),
    }


ALL = transforms_of_all_types()


def assert_same_map(ours: Transform, itk) -> None:
    points = torch.randn(1, 3, 20, dtype=torch.float64) * 40
    expected = [itk.TransformPoint((p * LPS).tolist()) for p in points[0].T.numpy()]
    np.testing.assert_allclose(ours(points)[0].T, np.array(expected) * LPS, atol=1e-9)
    assert np.abs(np.array(expected)).max() > 10


def text_of(kind: str) -> str:
    parameters, fixed = (" ".join(map(repr, map(float, numbers))) for numbers in ALL[kind])
    name = kind.split()[0]
    return f"Transform: {name}_double_3_3\nParameters: {parameters}\nFixedParameters: {fixed}\n"


@pytest.mark.parametrize("kind", ALL)
def test_files_of_all_types(tmp_path, kind):
    path = tmp_path / "a.tfm"
    # SimpleITK reads some of the types within a composite alone.
    path.write_text(f"{HEADER}Transform: CompositeTransform_double_3_3\n{text_of(kind)}")
    itk = sitk.ReadTransform(str(path))
    assert_same_map(read_transform(path), itk)
    path.write_text(HEADER + text_of(kind))
    assert_same_map(read_transform(path), itk)


@pytest.mark.parametrize("suffix", [".tfm", ".mat", ".h5"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: sitk.ScaleTransform(3),
        sitk.ScaleVersor3DTransform,
        sitk.ScaleSkewVersor3DTransform,
        sitk.VersorTransform,
    ],
)
def test_what_simpleitk_makes_and_writes(tmp_path, make, suffix):
    itk = make()
    parameters, center = ALL[itk.GetName()]
    itk.SetParameters(list(parameters))
    itk.SetCenter(list(center))
    assert_same_map(from_simpleitk(itk), itk)
    sitk.WriteTransform(itk, str(tmp_path / f"a{suffix}"))
    assert_same_map(read_transform(tmp_path / f"a{suffix}"), itk)


@pytest.mark.parametrize("kind", sorted(PARAMETERS))
def test_damaged(tmp_path, kind):
    text = HEADER + text_of(kind).replace("Parameters:", "Parameters: 1", 1)
    (tmp_path / "a.tfm").write_text(text)
    with pytest.raises(InputError, match=rf"damaged, {kind}.* {PARAMETERS[kind]} finite param"):
        read_transform(tmp_path / "a.tfm")


def test_a_quaternion_of_length_0_is_singular(tmp_path):
    text = "Transform: QuaternionRigidTransform_double_3_3\nParameters: 0 0 0 0 1 2 3\n"
    (tmp_path / "a.tfm").write_text(HEADER + text)
    with pytest.raises(InputError, match="singular"):
        read_transform(tmp_path / "a.tfm")


def test_every_type_has_a_test():
    assert {kind.split()[0] for kind in ALL} == set(PARAMETERS)
