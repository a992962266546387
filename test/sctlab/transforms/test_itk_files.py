"""ITK transform files: both suffixes, both ways, and damage."""

import os
import tracemalloc

import h5py
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


@pytest.mark.parametrize("suffix", [".h5", ".tfm"])
@pytest.mark.parametrize(
    "transform",
    [
        sitk.VersorTransform((0, 1, 0), 0.3, (1, 2, 3)),
        sitk.VersorRigid3DTransform((0, 0, 1), 0.2, (1, 2, 3), (4, 5, 6)),
        sitk.Similarity3DTransform(1.1, (1, 0, 0), 0.2, (1, 2, 3), (4, 5, 6)),
        sitk.ScaleVersor3DTransform((1.1, 0.9, 1.2), (1, 0, 0), 0.1, (1, 2, 3), (4, 5, 6)),
        sitk.ScaleSkewVersor3DTransform((1.1, 0.9, 1.2), (0.1, 0, 0, 0, 0.05, 0), (1, 0, 0), 0.1, (1, 2, 3), (4, 5, 6)),
        sitk.ScaleTransform(3, (1.1, 0.9, 1.2)),
        sitk.TranslationTransform(3, (1.0, 2.0, 3.0)),
        sitk.AffineTransform((1, 0.1, 0, 0, 1, 0.2, 0, 0, 0.9), (1, 2, 3), (4, 5, 6)),
        sitk.Euler3DTransform((1, 2, 3), 0.1, 0.2, 0.3, (4, 5, 6)),
        sitk.BSplineTransform(3, 2),
        sitk.Transform(3, sitk.sitkIdentity),
    ],
    ids=lambda t: t.GetName(),
)
def test_every_type_of_itk_is_read_as_itk_has_it(tmp_path, transform, suffix):
    for alone in (True, False):
        whole = transform if alone else sitk.CompositeTransform([EULER.to_sitk(), transform])
        sitk.WriteTransform(whole, str(tmp_path / f"t{suffix}"))
        expected = [whole.TransformPoint(p) for p in POINTS.tolist()]
        np.testing.assert_allclose(read_itk(tmp_path / f"t{suffix}")(POINTS), expected, atol=1e-6)


def test_the_same_transform_gives_the_same_bytes(tmp_path):
    for name in ("a.h5", "b.h5"):
        write_itk(compose(EULER, SPLINE, FIELD), tmp_path / name, compress=True)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    np.testing.assert_allclose(sitk.ReadTransform(str(tmp_path / "a.h5")).TransformPoint(POINTS[0].tolist()),
                               compose(EULER, SPLINE, FIELD)(POINTS[0]), atol=1e-9)  # fmt: skip


def test_names_that_are_no_utf8(tmp_path):
    for suffix in (".h5", ".tfm"):
        path = tmp_path / os.fsdecode(b"\xff" + suffix.encode())
        np.testing.assert_array_equal(read_itk(write_itk(EULER, path))(POINTS), EULER(POINTS))


def hdf5(path, **datasets):
    """A file with one transform whose datasets are made by functions of group and name."""
    with h5py.File(path, "w") as file:
        group = file.create_group("TransformGroup/0")
        values = {
            "TransformType": [b"AffineTransform_double_3_3"],
            "TransformParameters": np.r_[np.eye(3).ravel(), 0, 0, 0],
            "TransformFixedParameters": np.zeros(3),
        }
        for name, value in values.items():
            if name in datasets:
                datasets[name](group, name)
            else:
                group[name] = value
    return path


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("TransformParameters", lambda g, n: g.__setitem__(n, h5py.ExternalLink("secret.h5", "/x"))),
        ("TransformParameters", lambda g, n: g.__setitem__(n, h5py.SoftLink("/elsewhere"))),
        ("TransformParameters", lambda g, n: g.create_dataset(n, (12,), "f8", external=[("secret.raw", 0, 96)])),
        ("TransformParameters", lambda g, n: g.create_dataset(n, (1 << 40,), "f8", chunks=(1 << 10,), compression="gzip")),
        ("TransformParameters", lambda g, n: g.create_dataset(n, data=["a"] * 12, dtype=h5py.string_dtype())),
        ("TransformParameters", lambda g, n: g.create_dataset(n, data=np.zeros((3, 4)))),
        ("TransformParameters", lambda g, n: g.create_dataset(n, data=np.zeros(12))),
        ("TransformParameters", lambda g, n: g.create_dataset(n, data=np.full(12, np.nan))),
        ("TransformParameters", lambda g, n: g.create_dataset(n, data=np.zeros(11))),
        ("TransformParameters", lambda g, n: g.create_dataset(n, data=np.zeros(3000), compression="lzf")),
        ("TransformParameters", lambda g, n: g.create_group(n)),
        ("TransformParameters", lambda g, n: None),
        ("TransformType", lambda g, n: g.create_dataset(n, data=[b"A" * 10_000])),
        ("TransformType", lambda g, n: g.create_dataset(n, data=[1.0])),
        ("TransformType", lambda g, n: None),
        ("TransformFixedParameters", lambda g, n: g.create_dataset(n, data=np.zeros(1))),
    ],
)  # fmt: skip
def test_hostile_hdf5_is_refused(tmp_path, name, make, capfd):
    (tmp_path / "secret.raw").write_bytes(np.r_[np.eye(3).ravel(), 0, 0, 0].tobytes())
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.r_[np.eye(3).ravel(), 0, 0, 0]
    read_itk(hdf5(tmp_path / "good.h5"))
    path = hdf5(tmp_path / "t.h5", **{name: make})
    with pytest.raises(InputError) as caught:
        read_itk(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".nii.gz"])
def test_damaged_displacement_images_are_refused(tmp_path, suffix):
    path = write_displacement(FIELD, tmp_path / f"d{suffix}")
    np.testing.assert_allclose(read_displacement(path)(POINTS), FIELD(POINTS), atol=1e-4)
    theirs = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    np.testing.assert_allclose(theirs.TransformPoint(POINTS[0].tolist()), FIELD(POINTS[0]), atol=1e-3)
    raw = path.read_bytes()
    for damaged in (raw[:-5], raw + b"x", raw[: len(raw) // 2], raw[:60], b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError):
            read_displacement(path)


def test_displacements_that_nifti_states_in_its_own_frame(tmp_path):
    """Intent 1006: ITK and this reader turn the vectors to LPS; 1007 are plain vectors, which both leave alone."""
    import nibabel

    path = write_displacement(FIELD, tmp_path / "d.nii.gz")
    image = nibabel.load(path)
    image.header["intent_code"] = 1006
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), tmp_path / "e.nii.gz")
    theirs = sitk.ReadImage(str(tmp_path / "e.nii.gz"), sitk.sitkVectorFloat64)
    expected = np.moveaxis(sitk.GetArrayFromImage(theirs), -1, 0)
    np.testing.assert_allclose(read_displacement(tmp_path / "e.nii.gz").vectors, expected, atol=1e-5)
    np.testing.assert_allclose(expected[0], -FIELD.vectors[0], atol=1e-4)


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
    assert peak < 3 * 8 * 3 * 60**3  # a tuple of floats would be 4 times the array, on top of it


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
    with pytest.raises(InputError, match="3 channels"):
        read_displacement(tmp_path / "d.mha")
