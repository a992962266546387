"""Images, labels and fields of view through a transform, against transformix where it is the judge."""

import re

import numpy as np
import pytest

from sctlab.transforms.apply import apply_to_image, apply_to_labels, field_of_view
from sctlab.transforms.data import AffineTransform, EulerTransform, Sum, compose
from sctlab.transforms.elastix_reading import read_elastix
from sctlab.transforms.elastix_writing import write_elastix
from sctlab.transforms.field import displacement_field
from sctlab.transforms.files import read_transform
from sctlab.transforms.itk_files import write_displacement, write_itk
from sctlab_model.errors import InputError
from sctlab_model.volume import AIR_HU, Geometry, Volume

SHIFT = AffineTransform(np.eye(3), (8.0, 0.0, 0.0))
# An oblique, flipped fixed grid and an anisotropic, permuted moving one.
FIXED = Geometry(
    (36, 30, 22),
    (3.1, 3.4, 4.3),
    (60, -40, -50),
    tuple((EulerTransform((0.25, -0.15, 0.4)).affine().matrix @ np.diag([-1.0, 1.0, 1.0])).ravel()),
)
MOVING = Geometry(
    (40, 26, 44),
    (2.0, 5.0, 2.5),
    (-85, 60, 75),
    tuple(
        (EulerTransform((-0.1, 0.2, 0.05)).affine().matrix @ np.array([[1.0, 0, 0], [0, 0, -1], [0, -1, 0]])).ravel()
    ),
)


def moving_image() -> Volume:
    """Body-like values with a metal implant and air, int16."""
    rng = np.random.default_rng(0)
    array = rng.normal(0, 60, MOVING.shape_zyx)
    array[:, :, :8] = -1000
    array[18:22, 10:13, 18:22] = 3000
    return Volume(np.rint(array).astype(np.int16), MOVING)


@pytest.fixture(scope="module")
def chain(samples):
    motion = samples[2](FIXED, 12.0)
    centre = tuple(FIXED.centre_xyz)
    to_moving = tuple(MOVING.centre_xyz - FIXED.centre_xyz)
    return compose(
        EulerTransform((0.1, -0.05, 0.15), to_moving, centre),
        samples[2](MOVING, 9.0, 5),
        AffineTransform(np.eye(3) * 1.03, (1, 2, 3), tuple(MOVING.centre_xyz)),
    ), motion


def test_shift_moves_the_image_and_fills_with_air():
    grid = Geometry((10, 4, 4), (4, 4, 4))
    image = Volume(np.tile(np.arange(10, dtype=np.int16) * 100, (4, 4, 1)), grid)
    for interpolation in ("safe", "cubic", "linear", "nearest"):
        moved = apply_to_image(image, SHIFT, grid, interpolation=interpolation, outside=AIR_HU)
        assert moved.array.dtype == np.int16
        assert moved.array[0, 0].tolist() == [200, 300, 400, 500, 600, 700, 800, 900, -1024, -1024]


def test_safe_interpolation_has_no_value_that_the_neighbourhood_lacks():
    grid = Geometry((24, 24, 24))
    array = np.full(grid.shape_zyx, 40, dtype=np.int16)
    array[10:13, 10:13, 10:13] = 3000
    half = AffineTransform(np.eye(3), (0.5, 0.5, 0.5))
    cubic = apply_to_image(Volume(array, grid), half, grid, interpolation="cubic").array[2:-2, 2:-2, 2:-2]
    safe = apply_to_image(Volume(array, grid), half, grid, interpolation="safe").array[2:-2, 2:-2, 2:-2]
    assert cubic.min() < -150  # the undershoot of a cubic B-spline beside metal
    assert (safe.min(), safe.max() <= 3000) == (40, True)
    assert safe.max() > 2000


def test_safe_and_cubic_agree_in_smooth_tissue(cbct_sample):
    image = cbct_sample.ct
    smooth = image.with_array(
        np.add.outer(np.add.outer(np.arange(34), np.arange(44)), np.arange(56)).astype(np.float32)
    )
    inner = image.geometry.cropped((4, 4, 4), (46, 34, 24))
    results = [apply_to_image(smooth, cbct_sample.truth, inner, interpolation=i).array for i in ("safe", "cubic")]
    np.testing.assert_allclose(*results, atol=1e-2)


def test_labels_keep_their_values_and_type(cbct_sample):
    moved = apply_to_labels(cbct_sample.ct_labels, cbct_sample.truth, cbct_sample.source.geometry)
    assert moved.array.dtype == np.uint8
    assert set(np.unique(moved.array)) <= set(np.unique(cbct_sample.ct_labels.array))


def test_field_of_view_ends_at_the_faces_of_the_moving_image():
    grid = Geometry((12, 3, 3), (2, 2, 2))
    view = field_of_view(Geometry((5, 3, 3), (2, 2, 2)), AffineTransform(np.eye(3), (-3.0, 0, 0)), grid).array
    assert view.dtype == bool
    assert view[0, 0].tolist() == [False, True, True, True, True, True, *[False] * 6]


def test_every_file_type_gives_the_same_image(tmp_path, chain):
    transform = chain[0]
    image = moving_image()
    expected = apply_to_image(image, transform, FIXED, interpolation="cubic").array.astype(float)
    paths = [
        write_elastix(transform, tmp_path, FIXED)[-1],
        write_itk(transform, tmp_path / "t.h5"),
        write_itk(transform, tmp_path / "t.tfm"),
        write_displacement(displacement_field(transform, FIXED), tmp_path / "d.nrrd"),
    ]
    for path in paths:
        found = apply_to_image(image, read_transform(path).transform, FIXED, interpolation="cubic").array
        assert np.abs(found - expected).max() <= 1


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="safe or cubic"):
        apply_to_image(moving_image(), SHIFT, FIXED, interpolation="lanczos")
    with pytest.raises(InputError, match="unknown suffix"):
        read_transform(tmp_path / "t.mat")


def transformix(itk, paths, moving: Volume, folder, points=None):
    """transformix's image, and its points."""
    from sctlab.registration.elastix.worker import to_itk

    parameters = itk.ParameterObject.New()
    for path in paths:
        parameters.AddParameterFile(str(path))
    image_type = itk.Image[itk.F, 3]
    method = itk.TransformixFilter[image_type].New()
    method.SetMovingImage(to_itk(moving))
    method.SetTransformParameterObject(parameters)
    method.SetLogToConsole(False)
    method.SetOutputDirectory(str(folder))
    if points is not None:
        lines = [" ".join(repr(float(v)) for v in p) for p in points]
        (folder / "points.txt").write_text("\n".join(["point", str(len(points)), *lines]))
        method.SetFixedPointSetFileName(str(folder / "points.txt"))
    method.Update()
    image = itk.array_from_image(method.GetOutput())
    if points is None:
        return image, None
    found = re.findall(r"OutputPoint = \[ ([^\]]*)\]", (folder / "outputpoints.txt").read_text())
    return image, np.array([[float(v) for v in line.split()] for line in found])


@pytest.mark.heavy
def test_agreement_with_transformix_both_ways(tmp_path, chain):
    """Our files through transformix, and elastix's own (as rewritten by it) through ours: 0.01 mm and 1 HU."""
    itk = pytest.importorskip("itk")
    transform, motion = chain
    image = moving_image()
    points = FIXED.to_physical(np.random.default_rng(2).uniform(0, 1, (300, 3)) * (np.array(FIXED.size_xyz) - 1))
    for number, candidate in enumerate(
        (
            transform,
            compose(
                motion,
                EulerTransform((0, 0, 0.1), tuple(MOVING.centre_xyz - FIXED.centre_xyz), tuple(FIXED.centre_xyz)),
            ),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths = write_elastix(candidate, folder, FIXED, default_value=AIR_HU)
        theirs, their_points = transformix(itk, paths, image, folder, points)
        assert np.abs(their_points - candidate(points)).max() < 1e-4  # mm

        ours = apply_to_image(image, candidate, FIXED, interpolation="cubic", outside=AIR_HU).array
        assert (ours != AIR_HU).mean() > 0.3
        difference = np.abs(ours - theirs)
        inside = field_of_view(MOVING, candidate, FIXED).array == (theirs != AIR_HU)
        assert inside.mean() > 0.999
        assert difference[inside].max() <= 1.0

        # elastix writes its parameters itself (rounded as it pleases) and we read them
        parameters = itk.ParameterObject.New()
        for path in paths:
            parameters.AddParameterFile(str(path))
        for index in range(parameters.GetNumberOfParameterMaps()):
            itk.ParameterObject.WriteParameterFile(
                parameters.GetParameterMap(index), str(folder / f"TransformParameters.{index}.txt")
            )
        again = read_elastix(paths[-1])
        assert np.abs(again.transform(points) - their_points).max() < 0.01

    # Add instead of Compose
    folder = tmp_path / "add"
    folder.mkdir()
    rigid = EulerTransform((0, 0, 0.1), tuple(MOVING.centre_xyz - FIXED.centre_xyz), tuple(FIXED.centre_xyz))
    paths = write_elastix(compose(rigid, motion), folder, FIXED, default_value=AIR_HU)
    paths[1].write_text(paths[1].read_text().replace('"Compose"', '"Add"'))
    found = read_elastix(paths[1])
    assert isinstance(found.transform, Sum)
    theirs, their_points = transformix(itk, paths, image, folder, points)
    assert np.abs(found.transform(points) - their_points).max() < 0.01
    ours = apply_to_image(image, found.transform, FIXED, interpolation="cubic", outside=AIR_HU).array
    same = (ours == AIR_HU) == (theirs == AIR_HU)
    assert same.mean() > 0.999
    assert np.abs(ours - theirs)[same].max() <= 1.0
