"""ITK transform files: both suffixes, both ways, and damage."""

import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk

from sctlab.transforms.data import AffineTransform, BSplineTransform, DisplacementField, EulerTransform, Sum, compose
from sctlab.transforms.itk_files import read_displacement, read_itk, write_displacement, write_itk
from sctlab_model.errors import InputError
from sctlab_model.volume import Geometry

KNOTS = Geometry(
    (8, 7, 6), (20, 25, 30), (-60, -70, -80), tuple(EulerTransform((0.1, 0.2, 0.3)).affine().matrix.ravel())
)
SPLINE = BSplineTransform(KNOTS, np.random.default_rng(0).normal(0, 4, (3, *KNOTS.shape_zyx)))
EULER = EulerTransform((0.1, 0.2, -0.3), (5, -4, 3), (10, 20, 30), zyx=True)
FIELD = DisplacementField(KNOTS, np.random.default_rng(1).normal(0, 4, (3, *KNOTS.shape_zyx)))
POINTS = KNOTS.to_physical(np.random.default_rng(1).uniform(1, 4, (100, 3)))


@pytest.mark.parametrize("suffix", [".h5", ".tfm"])
@pytest.mark.parametrize(
    "transform", [EULER, compose(EULER, SPLINE), compose(SPLINE, AffineTransform(1.1 * np.eye(3)), FIELD)]
)
def test_round_trip_and_simpleitk_agree(tmp_path, transform, suffix):
    path = write_itk(transform, tmp_path / f"t{suffix}")
    np.testing.assert_allclose(read_itk(path)(POINTS), transform(POINTS), atol=1e-9)
    theirs = sitk.ReadTransform(str(path))
    np.testing.assert_allclose([theirs.TransformPoint(p) for p in POINTS.tolist()], transform(POINTS), atol=1e-9)


def test_types_of_others_are_read(tmp_path):
    versor = sitk.VersorRigid3DTransform((0, 0, 1), 0.2, (1, 2, 3), (4, 5, 6))
    shift = sitk.TranslationTransform(3, (1.0, 2.0, 3.0))
    for transform in (versor, shift, sitk.Transform(3, sitk.sitkIdentity)):
        sitk.WriteTransform(transform, str(tmp_path / "t.tfm"))
        expected = [transform.TransformPoint(p) for p in POINTS.tolist()]
        np.testing.assert_allclose(read_itk(tmp_path / "t.tfm")(POINTS), expected, atol=1e-6)


def test_sum_is_written_as_vectors(tmp_path):
    total = Sum(EULER, SPLINE)
    with pytest.raises(InputError, match="grid"):
        write_itk(total, tmp_path / "t.h5")
    assert not list(tmp_path.iterdir())
    grid = KNOTS.resized((8, 8, 8))
    found = read_itk(write_itk(total, tmp_path / "t.h5", grid=grid))
    nodes = grid.to_physical(np.random.default_rng(0).integers(0, 10, (50, 3)))
    np.testing.assert_allclose(found(nodes), total(nodes), atol=1e-9)


def test_displacement_image_round_trip(tmp_path):
    found = read_displacement(write_displacement(FIELD, tmp_path / "d.nii.gz"))
    np.testing.assert_allclose(found(POINTS), FIELD(POINTS), atol=1e-4)


@pytest.mark.parametrize("after", [(), (EULER,)], ids=["field", "composite"])
def test_not_a_number_in_a_field_is_refused(tmp_path, after):
    vectors = FIELD.vectors.copy()
    vectors[1, 2, 3, 4] = np.nan
    path = write_itk(compose(DisplacementField(KNOTS, vectors), *after), tmp_path / "t.h5")
    with pytest.raises(InputError, match="NaN or infinite"):
        read_itk(path)


def test_a_field_is_read_without_a_python_object_for_every_number(tmp_path):
    grid = Geometry((60, 60, 60))
    path = write_itk(compose(DisplacementField(grid, np.zeros((3, 60, 60, 60))), EULER), tmp_path / "t.h5")
    tracemalloc.start()
    try:
        read_itk(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 8 * 3 * 60**3  # a tuple of floats would be 4 times the array, on top of it


@pytest.mark.parametrize("suffix", [".h5", ".tfm"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.995])
def test_cut_file_is_refused_in_one_line(tmp_path, suffix, share):
    path = write_itk(compose(EULER, SPLINE), tmp_path / f"t{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError) as caught:
        read_itk(path)
    assert "\n" not in str(caught.value)


def test_unknown_and_two_dimensional_types_are_refused(tmp_path):
    path = tmp_path / "t.tfm"
    sitk.WriteTransform(sitk.Euler2DTransform(), str(path))
    with pytest.raises(InputError, match="2D"):
        read_itk(path)
    path.write_text(
        "#Insight Transform File V1.0\nTransform: MagicTransform_double_3_3\nParameters: 1\nFixedParameters: 0\n"
    )
    with pytest.raises(InputError, match="MagicTransform"):
        read_itk(path)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (" 5 ", " nan ", "NaN"),
        (" 5 ", " ", "5 parameters"),
        (" 5 ", " five ", "numbers"),
        ("Parameters: 0.1", "P 0.1", "line"),
    ],
)
def test_damaged_text_is_refused_before_itk_reads_it(tmp_path, before, after, message):
    path = write_itk(EULER, tmp_path / "t.tfm")
    path.write_text(path.read_text().replace(before, after, 1))
    with pytest.raises(InputError, match=message):
        read_itk(path)


def test_scalar_image_is_no_displacement_field(tmp_path):
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkFloat32), str(tmp_path / "d.mha"))
    with pytest.raises(InputError, match="components"):
        read_displacement(tmp_path / "d.mha")
