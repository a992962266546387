"""FDK gives water 0 HU; scatter cups; noise and field of view are there."""

from dataclasses import replace

import numpy as np
import pytest

from sctlab.simulation.cbct import Scan, field_of_view, fov_radius_mm, simulate_cbct
from sctlab_model.cases import Region
from sctlab_model.volume import AIR_HU, Geometry

GRID = Geometry((72, 60, 8), (4.0, 4.0, 4.0), (11.0, -20.0, 30.0))


def cylinder(radius_mm: float = 90.0, hu: float = 0.0) -> np.ndarray:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in GRID.size_xyz], indexing="ij"), -1)
    p = GRID.to_physical(index).transpose(2, 1, 0, 3) - GRID.centre_xyz
    inside = np.clip(0.5 - (np.hypot(p[..., 0], p[..., 1]) - radius_mm) / 4, 0, 1)
    return (-1000 + (1000 + hu) * inside).astype(np.float32)


def centre(image: np.ndarray) -> float:
    return float(image[3:5, 27:33, 33:39].mean())


@pytest.mark.parametrize("half_fan", [False, True])
@pytest.mark.parametrize("monochrome", [True, False])
def test_water_is_zero_hu(half_fan, monochrome):
    scan = Scan.ideal(half_fan, views=120, pixel_mm=4.0)
    image = simulate_cbct(cylinder(), GRID, GRID, scan, np.random.default_rng(0), monochrome=monochrome)
    assert abs(centre(image)) < 10
    assert image[4, 30, 36 - 30] < -850  # air beside it


def test_a_short_scan_also_gives_water():
    scan = replace(Scan.ideal(views=110, pixel_mm=4.0), arc_degrees=215.0)
    image = simulate_cbct(cylinder(), GRID, GRID, scan, np.random.default_rng(0))
    assert abs(centre(image)) < 15


@pytest.mark.parametrize(("arc", "off"), [(193.0, 5), (185.0, 15), (166.0, 120)])
def test_an_arc_that_leaves_rays_out_still_shows_the_patient(arc: float, off: float) -> None:
    """Half a turn and the fan is needed to see all; Parker's weights made air of what less of it sees."""
    scan = replace(Scan.ideal(views=110, pixel_mm=4.0), arc_degrees=arc)
    image = simulate_cbct(cylinder(60.0), GRID, GRID, scan, np.random.default_rng(0), monochrome=True)
    assert abs(centre(image)) < off
    assert image[3:5, 26:34, 32:40].std() < 100
    assert image[4, 30, 36 - 30] < -700


def test_uncorrected_scatter_cups():
    clean = Scan.ideal(views=90, pixel_mm=5.0)
    scan = replace(clean, scatter=0.7, scatter_left=0.5)
    image = simulate_cbct(cylinder(), GRID, GRID, scan, np.random.default_rng(0))
    assert centre(image) < -30
    assert image[4, 30, 36 + 19] > centre(image) + 10


def test_fewer_photons_are_noisier():
    base = replace(Scan.ideal(views=90, pixel_mm=5.0), photons=1e6)
    noise = [
        simulate_cbct(cylinder(), GRID, GRID, replace(base, photons=n), np.random.default_rng(0))[4, 26:34, 32:40].std()
        for n in (1e6, 1e3)
    ]
    assert noise[1] > 3 * noise[0]


def test_calibration_error_is_a_gain_and_an_offset():
    clean = Scan.ideal(views=90, pixel_mm=5.0)
    plain = simulate_cbct(cylinder(), GRID, GRID, clean, np.random.default_rng(0))
    wrong = simulate_cbct(cylinder(), GRID, GRID, replace(clean, gain=1.05, offset_hu=20), np.random.default_rng(0))
    assert np.isclose(centre(wrong), 1.05 * (centre(plain) + 1000) - 1000 + 20, atol=0.5)


def test_outside_the_field_of_view_is_air():
    full = Scan.ideal(views=60, pixel_mm=6.0)
    image = simulate_cbct(cylinder(), GRID, GRID, full, np.random.default_rng(0))
    seen = field_of_view(GRID, full)
    assert not seen.all()
    assert (image[~seen] == AIR_HU).all()
    assert 120 < fov_radius_mm(full) < 140
    assert 210 < fov_radius_mm(Scan.ideal(half_fan=True)) < 240


def test_breathing_blurs_what_moves():
    hu = cylinder()
    hu[4:] = -800  # lung above, diaphragm at the edge
    still = Scan.ideal(half_fan=True, views=90, pixel_mm=5.0)
    sharp = simulate_cbct(hu, GRID, GRID, still, np.random.default_rng(1))
    blurred = simulate_cbct(hu, GRID, GRID, replace(still, breath_mm=10.0), np.random.default_rng(1))
    edge = [np.abs(np.diff(i[2:6, 28:32, 34:38].mean((1, 2)))).max() for i in (sharp, blurred)]
    assert edge[1] < 0.95 * edge[0]


def test_protocols_suit_the_region():
    rng = np.random.default_rng(0)
    trunk = [Scan.sample(Region.TH, rng) for _ in range(10)]
    head = [Scan.sample(Region.HN, rng) for _ in range(30)]
    assert all(s.half_fan and s.arc_degrees == 360 and s.breath_mm > 0 for s in trunk)
    assert any(not s.half_fan for s in head)
    assert any(s.arc_degrees <= 200 for s in head)
    assert all(s.source_detector_mm in (1500, 1536) for s in trunk + head)


def test_the_field_of_view_follows_the_isocentre():
    scan = replace(Scan.ideal(), centre_mm=(40.0, -20.0))
    seen = field_of_view(GRID, scan)
    _ys, xs = np.nonzero(seen[0])
    assert xs.mean() > 36  # the grid's middle is at 35.5
    image = simulate_cbct(cylinder(70), GRID, GRID, replace(scan, views=90, pixel_mm=5.0), np.random.default_rng(0))
    assert abs(centre(image)) < 12


def test_uncorrected_pixels_make_rings():
    clean = Scan.ideal(views=90, pixel_mm=5.0)
    images = [
        simulate_cbct(cylinder(), GRID, GRID, replace(clean, ring=r), np.random.default_rng(0)) for r in (0.0, 0.01)
    ]
    rings = (images[1] - images[0])[4]
    y, x = np.mgrid[:60, :72]
    radius = np.rint(np.hypot(x - 35.5, y - 29.5)).astype(int)
    inside = radius < 18
    mean = np.bincount(radius[inside], rings[inside]) / np.maximum(np.bincount(radius[inside]), 1)
    assert rings[inside].std() > 5
    assert mean[radius[inside]].std() > 0.6 * rings[inside].std()  # it varies with the radius, not around it


def test_gas_that_moves_streaks_and_stays_where_the_truth_has_it():
    hu = cylinder()
    y, x = np.mgrid[:60, :72]
    hu[:, np.hypot(x - 30, y - 25) < 4] = -1000
    still = Scan.ideal(half_fan=True, views=120, pixel_mm=4.0)
    sharp = simulate_cbct(hu, GRID, GRID, still, np.random.default_rng(1))
    moved = simulate_cbct(hu, GRID, GRID, replace(still, gas_mm=16.0), np.random.default_rng(1))
    around = (np.hypot(x - 30, y - 25) > 8) & (np.hypot(x - 35.5, y - 29.5) < 18)
    assert moved[4][around].std() > 1.3 * sharp[4][around].std()
    assert moved[4, 25, 30] < -500


def test_scatter_grows_with_the_region():
    rng = np.random.default_rng(0)
    means = [np.mean([Scan.sample(r, rng).scatter for _ in range(40)]) for r in (Region.HN, Region.TH, Region.AB)]
    assert means == sorted(means)
