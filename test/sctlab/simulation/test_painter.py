import numpy as np

from sctlab.simulation.painter import Painter, capsule, ellipsoid, smooth_noise
from sctlab.simulation.tissues import Tissue
from sctlab_model.volume import Geometry

GRID = Geometry((40, 36, 20), (2.0, 2.0, 3.0), (-39.0, -35.0, -28.5))


def painter(warp_mm: float = 0.0) -> Painter:
    return Painter(GRID, np.random.default_rng(0), warp_mm)


def test_a_painted_sphere_has_the_volume_of_a_sphere():
    p = painter()
    p.ellipsoid((0, 0, 0), (20, 20, 20), Tissue.LIVER, 5)
    liver, air = p.hu_of[Tissue.LIVER], p.hu_of[Tissue.AIR]
    volume = ((p.hu - air) / (liver - air)).sum() * GRID.voxel_volume_mm3
    assert abs(volume / (4 / 3 * np.pi * 20**3) - 1) < 0.02
    assert set(np.unique(p.label)) == {0, 5}


def test_a_bone_is_dense_outside_and_spongy_inside():
    p = painter()
    p.bone(p.everywhere, ellipsoid(p.points, (0, 0, 0), (18, 18, 18)), 27, cortex_mm=3)
    centre, rim = p.hu[9:11, 17:19, 19:21].mean(), p.hu.max()
    assert centre < 400 < 800 < rim


def test_capsule_distance_is_exact_on_its_axis_and_beyond_its_end():
    points = tuple(np.array(v, dtype=float) for v in ([0, 0, 15], [0, 5, 0], [0, 0, 0]))
    found = capsule(points, np.array([0.0, 0, 0]), np.array([10.0, 0, 0]), 2, 2)
    assert np.allclose(found, [-2, 3, 3])


def test_noise_does_not_depend_on_the_box_it_is_asked_for():
    p = painter()
    for scale in (3.0, 18.0):
        whole = p.noise(p.everywhere, scale)
        part = (slice(4, 9), slice(10, 20), slice(3, 30))
        assert np.array_equal(whole[part], p.noise(part, scale))
        assert 0.5 < whole.std() < 2


def test_smooth_noise_is_smooth():
    field = smooth_noise((30, 30, 30), (2, 2, 2), 30.0, np.random.default_rng(1))
    assert np.abs(np.diff(field, axis=2)).max() < 0.5
    assert 0.4 < field.std() < 1.8
