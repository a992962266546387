"""TransformParameters files: what is written comes back, what is published is read, what is damaged is refused."""

import numpy as np
import pytest

from sctlab.transforms.data import AffineTransform, BSplineTransform, DisplacementField, EulerTransform, compose
from sctlab.transforms.elastix_reading import read_elastix
from sctlab.transforms.elastix_writing import write_elastix
from sctlab_model.errors import InputError
from sctlab_model.volume import Geometry

DIRECTION = EulerTransform((0.3, -0.2, 0.5)).affine().matrix @ np.diag([-1.0, 1.0, 1.0])
FIXED = Geometry((40, 36, 20), (2.2, 3, 5), (-50, -60, -70), tuple(DIRECTION.ravel()))
KNOTS = Geometry((8, 7, 6), (20, 25, 30), tuple(FIXED.to_physical(np.array([-12.0, -11, -8]))), FIXED.direction)
SPLINE = BSplineTransform(KNOTS, np.random.default_rng(0).normal(0, 4, (3, *KNOTS.shape_zyx)))
EULER = EulerTransform((0.1, 0.2, -0.3), (5, -4, 3), (10, 20, 30), zyx=True)
AFFINE = AffineTransform(np.eye(3) * 1.02, (1, 2, 3), (4, 5, 6))
POINTS = FIXED.to_physical(np.random.default_rng(1).uniform(0, 20, (100, 3)))

PUBLISHED = """\
// made elsewhere
(Transform "RecursiveBSplineTransform")
(NumberOfParameters 192)
(TransformParameters {coefficients})
(InitialTransformParametersFileName "/home/somebody/elastix/TransformParameters.0.txt")
(HowToCombineTransforms "{how}")

// Image specific
(FixedImageDimension 3)
(MovingImageDimension 3)
(Size 10 12 14)
(Index 0 0 0)
(Spacing 0.9765625000 0.9765625000 3.0000000000)
(Origin -249.5117187500 -400.1234436035 12.5000000000)
(Direction 1.0000000000 0.0000000000 0.0000001192 0.0000000000 1.0000000000 0.0000000000 -0.0000001192 0.0 1.0)
(UseDirectionCosines "true")
(GridSize 4 4 4)
(GridIndex 0 0 0)
(GridSpacing 12.0000001788 12.0 12.0)
(GridOrigin -270.0 -420.0 -6.0)
(GridDirection 1.0 0.0 0.0000001192 0.0 1.0 0.0 -0.0000001192 0.0 1.0)
(BSplineTransformSplineOrder 3)
(UseCyclicTransform "false")
(FinalBSplineInterpolationOrder 3)
(DefaultPixelValue -1000.000000)
(ResultImagePixelType "short")
"""
INITIAL = """\
(Transform "EulerTransform")
(NumberOfParameters 6)
(TransformParameters 0.01 0.02 -0.03 1.5 -2.5 3.5)
(InitialTransformParametersFileName "NoInitialTransform")
(HowToCombineTransforms "Compose")
(CenterOfRotationPoint -240.0 -390.0 30.0)
(ComputeZYX "false")
"""


def published(how: str = "Compose") -> str:
    return PUBLISHED.format(coefficients=" ".join(f"{0.1 * (i % 7):.6f}" for i in range(192)), how=how)


@pytest.mark.parametrize(
    "transform",
    [EULER, AFFINE, SPLINE, compose(EULER, SPLINE), compose(SPLINE, AFFINE, EULER)],
    ids=["euler", "affine", "bspline", "rigid then bspline", "three steps"],
)
def test_written_chain_comes_back_to_the_last_bit(tmp_path, transform):
    paths = write_elastix(transform, tmp_path, FIXED, default_value=-1024)
    found = read_elastix(paths[-1])
    np.testing.assert_array_equal(found.transform(POINTS), transform(POINTS))
    assert found.grid == FIXED
    assert found.default_value == -1024
    assert len(paths) == len(getattr(transform, "steps", (1,)))


def test_displacement_field_is_written_as_a_linear_bspline(tmp_path):
    field = DisplacementField(FIXED, np.random.default_rng(3).normal(0, 2, (3, *FIXED.shape_zyx)))
    found = read_elastix(write_elastix(compose(EULER, field), tmp_path, FIXED)[-1])
    index = FIXED.to_index(EULER(POINTS))
    inside = ((index >= 0) & (index <= np.array(FIXED.size_xyz) - 1)).all(1)
    assert inside.sum() > 30
    np.testing.assert_allclose(found.transform(POINTS)[inside], field(EULER(POINTS))[inside], atol=1e-9)


def test_published_chain_is_read_beside_the_file_with_its_rounded_header(tmp_path):
    (tmp_path / "1ABA001.txt").write_text(published())
    (tmp_path / "TransformParameters.0.txt").write_text(INITIAL)
    found = read_elastix(tmp_path / "1ABA001.txt")
    euler, spline = found.transform.steps
    assert (type(euler), type(spline), spline.recursive) == (EulerTransform, BSplineTransform, True)
    assert found.default_value == -1000
    assert found.grid.spacing_xyz == (0.9765625, 0.9765625, 3.0)
    # elastix lists direction columns: the third number is z of the first axis
    assert found.grid.axes[2, 0] == pytest.approx(1.192e-7)
    assert spline.coefficients[0, 0, 0, 1] == pytest.approx(0.1)


def test_add_sums_the_displacements(tmp_path):
    (tmp_path / "a.txt").write_text(published("Add"))
    (tmp_path / "TransformParameters.0.txt").write_text(INITIAL)
    added = read_elastix(tmp_path / "a.txt").transform
    x = np.array([[-245.0, -395.0, 20.0]])
    np.testing.assert_allclose(added(x), added.initial(x) + added.current(x) - x)


def test_grid_index_shifts_the_grid(tmp_path):
    text = published().replace("(GridIndex 0 0 0)", "(GridIndex 1 0 0)")
    (tmp_path / "a.txt").write_text(
        text.replace("/home/somebody/elastix/TransformParameters.0.txt", "NoInitialTransform")
    )
    steps = read_elastix(tmp_path / "a.txt").transform
    assert steps.grid.origin_xyz[0] == pytest.approx(-258.0, abs=1e-5)


DAMAGE = {
    "cut in the parameters": (lambda t: t[:300], "cut"),
    "cut before the grid": (lambda t: t[: t.index("(GridSize")], "no GridSize"),
    "empty": (lambda t: "", r"no \(Transform"),
    "not a transform": (lambda t: "hello\nworld\n", "line 1"),
    "unknown type": (lambda t: t.replace("RecursiveBSplineTransform", "SplineKernelTransform"), "SplineKernelTransform"),
    "too few parameters": (lambda t: t.replace("(TransformParameters 0.000000", "(TransformParameters"), "191"),
    "words for numbers": (lambda t: t.replace("(TransformParameters 0.000000", "(TransformParameters abc"), "numbers"),
    "nan": (lambda t: t.replace("(TransformParameters 0.000000", "(TransformParameters nan"), "NaN"),
    "huge grid": (lambda t: t.replace("(GridSize 4 4 4)", "(GridSize 99999 99999 99999)"), "GridSize"),
    "negative spacing": (lambda t: t.replace("(GridSpacing 12.0000001788", "(GridSpacing -12"), "GridSpacing"),
    "sheared direction": (lambda t: t.replace("(GridDirection 1.0 0.0", "(GridDirection 1.0 0.5"), "direction"),
    "key twice": (lambda t: t + "(GridSize 4 4 4)\n", "twice"),
    "2D": (lambda t: t.replace("(FixedImageDimension 3)", "(FixedImageDimension 2)"), "FixedImageDimension"),
    "binary parameters": (lambda t: t + '(UseBinaryFormatForTransformationParameters "true")\n', "binary"),
    "unknown combination": (lambda t: t.replace('"Compose"', '"Multiply"'), "Compose or Add"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_file_is_refused_in_one_line(tmp_path, damage, message):
    (tmp_path / "TransformParameters.0.txt").write_text(INITIAL)
    (tmp_path / "a.txt").write_text(damage(published()))
    with pytest.raises(InputError, match=message) as caught:
        read_elastix(tmp_path / "a.txt")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_missing_initial_transform_and_endless_chain_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text(published())
    with pytest.raises(InputError, match="initial transform"):
        read_elastix(tmp_path / "a.txt")
    (tmp_path / "TransformParameters.0.txt").write_text(INITIAL.replace("NoInitialTransform", "a.txt"))
    with pytest.raises(InputError, match="doesn't end"):
        read_elastix(tmp_path / "a.txt")


def test_binary_file_and_missing_file_are_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(bytes(range(256)))
    for name in ("a.txt", "none.txt"):
        with pytest.raises(InputError):
            read_elastix(tmp_path / name)


def test_an_initial_transform_is_looked_for_in_the_same_folder_only(tmp_path):
    """A path elsewhere is neither read nor quoted, nor is a link that leads there."""
    outside = write_elastix(EULER, tmp_path / "outside", FIXED)[0]
    secret = tmp_path / "outside" / "secret.txt"
    secret.write_text("the password\n")
    folder = tmp_path / "case"
    path = write_elastix(EULER, folder, FIXED)[0].rename(folder / "case.txt")
    text = path.read_text()
    (folder / "link.txt").symlink_to(outside)
    for name in (outside, secret, "../outside/TransformParameters.0.txt", "link.txt", "..", "a\x07.txt", "/etc/passwd"):
        path.write_text(text.replace("NoInitialTransform", str(name)))
        with pytest.raises(InputError, match=r"initial transform.*is not there") as caught:
            read_elastix(path)
        assert "password" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_files_written_on_windows(tmp_path, encoding):
    paths = write_elastix(compose(EULER, SPLINE), tmp_path, FIXED)
    text = paths[1].read_text().replace("TransformParameters.0.txt", r"C:\Köln\reg\TransformParameters.0.txt")
    paths[1].write_bytes(text.replace("\n", "\r\n").encode(encoding))
    np.testing.assert_allclose(read_elastix(paths[1]).transform(POINTS), compose(EULER, SPLINE)(POINTS), atol=1e-9)
