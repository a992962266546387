"""A plug that slides in a tube: two splines against one, the surface between them, folds, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from sctlab.measures.jacobian import jacobian_determinant
from sctlab.registration.engine import register as module
from sctlab.registration.engine.bspline import ControlGrid
from sctlab.registration.engine.images import Images
from sctlab.registration.engine.lattice import extent_zyx
from sctlab.registration.engine.register import EngineResult, register
from sctlab.registration.engine.settings import Level, Preset, Sliding
from sctlab.registration.engine.sliding import Surface, domains
from sctlab.registration.engine.sliding_result import SlidingReport, compose_field
from sctlab.registration.engine.terms import features
from sctlab.registration.presets import find_presets
from sctlab.transforms.data import EulerTransform
from sctlab.transforms.elastix_reading import read_elastix
from sctlab.transforms.elastix_writing import write_elastix
from sctlab.transforms.field import displacement_field
from sctlab.transforms.invert import invert_points
from sctlab.transforms.itk_files import read_itk, write_itk
from sctlab_model.errors import InputError, RegistrationError
from sctlab_model.volume import Geometry, Volume

GRID = Geometry((36, 36, 40), (4.0, 4.0, 4.0), (-70.0, -70.0, 0.0))
RADIUS_MM, SLIP_MM = 36.0, 8.0
SMOOTH = Preset(
    name="smooth",
    knots_mm=16.0,
    discrete=None,
    levels=(
        Level(voxel_mm=8.0, iterations=30, rate_mm=1.0, points=5000),
        Level(voxel_mm=4.0, iterations=40, rate_mm=0.6, points=6000),
    ),
)
SLIDING = SMOOTH.changed(name="sliding", sliding=Sliding())
STILL = EulerTransform((0.0, 0.0, 0.0))


def radius() -> np.ndarray:
    """Distance of the voxels from the tube's axis, mm [z, y, x]."""
    y, x = (np.arange(36) * 4.0 - 70.0 for _ in range(2))
    return np.broadcast_to(np.hypot(*np.meshgrid(y, x, indexing="ij")), GRID.shape_zyx)


@pytest.fixture(scope="module")
def tube() -> tuple[Volume, Volume, Volume]:
    """Fixed image, moving image and cavity: what lies inside the tube is 8 mm further up in the moving image."""
    texture = gaussian_filter(np.random.default_rng(0).standard_normal((60, 36, 36)), 1.2)
    texture = 300 * texture / texture.std()
    z, y, x = np.indices(GRID.shape_zyx).astype(float)
    moving = map_coordinates(texture, [z + 10, y, x], order=1)
    slid = map_coordinates(texture, [z + 10 + np.where(radius() < RADIUS_MM, SLIP_MM / 4, 0.0), y, x], order=1)
    return Volume(slid, GRID), Volume(moving, GRID), Volume(radius() < RADIUS_MM, GRID)


@pytest.fixture(scope="module")
def slid(tube: tuple[Volume, Volume, Volume]) -> EngineResult:
    fixed, moving, cavity = tube
    return register(fixed, moving, preset=SLIDING, initial=STILL, cavity=cavity)


def errors(result: EngineResult) -> np.ndarray:
    """mm within 10 mm of the surface, where the moving image has data."""
    truth = np.zeros((3, *GRID.shape_zyx))
    truth[2] = np.where(radius() < RADIUS_MM, SLIP_MM, 0.0)
    distance = np.sqrt(((result.displacement_mm(GRID) - truth) ** 2).sum(0))
    near = np.abs(radius() - RADIUS_MM) < 10
    return distance[3:-5][near[3:-5]]


def test_two_splines_hold_what_one_smears(tube, slid: EngineResult) -> None:
    fixed, moving, _ = tube
    smooth = register(fixed, moving, preset=SMOOTH, initial=STILL)
    assert errors(slid).mean() < 0.5 * errors(smooth).mean()


def test_organs_slide_without_folds_and_without_leaving_the_wall(slid: EngineResult) -> None:
    assert slid.folding.smallest > 0
    assert slid.sliding.folded_percent == 0
    assert 0.7 * SLIP_MM < slid.sliding.slip_mm < 1.1 * SLIP_MM
    assert slid.sliding.gap_mm < 0.5
    assert slid.record()["sliding"]["voxels"] > 500


def test_a_ball_that_slides_far_does_not_fold_what_lies_before_it() -> None:
    """Neither side's spline folds, one is at rest and the other moves as a whole: what folds is the sheet between them."""
    grid = Geometry((30, 30, 30), (4.0, 4.0, 4.0))
    ball = (((np.indices(grid.shape_zyx) * 4.0 - 58) ** 2).sum(0) < 30**2).astype(np.float32)
    image = Volume(np.random.default_rng(0).standard_normal(grid.shape_zyx), grid)
    surface = Surface.of(Images.prepare(image, image, None, None, None, torch.device("cpu"), Volume(ball, grid)), STILL)
    control = ControlGrid.covering(tuple(extent_zyx(grid)), 16.0, margin=4.0)
    splines = torch.zeros(6, *control.size_zyx)
    parts = domains(surface, splines[:3], control, surface.lattice, None, Sliding())
    splines[3] = 20.0
    own, body = (np.arange(30) * 4.0,) * 3, torch.ones(grid.shape_zyx, dtype=torch.bool)
    whole, told = compose_field(splines, control, surface, parts, own, body, grid)
    found = jacobian_determinant(whole)
    assert found.min() > 0.19
    assert (told.smallest, told.folded_percent) == (pytest.approx(found.min()), 0.0)
    assert told.slip_mm > 10


def test_a_whole_field_that_still_folds_is_refused(tube, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, moving, cavity = tube
    folded = SlidingReport(slip_mm=5.0, gap_mm=0.1, voxels=900, folded_percent=0.4, smallest=-0.2)
    monkeypatch.setattr(module, "compose_field", lambda *_, **__: (None, folded))
    few = SLIDING.changed(levels=(Level(voxel_mm=8.0, iterations=2, rate_mm=0.1, points=500),))
    with pytest.raises(RegistrationError, match=r"folds in 0\.40 % of the body"):
        register(fixed, moving, preset=few, initial=STILL, cavity=cavity)


def test_the_ct_may_be_the_fixed_image(tube, slid: EngineResult) -> None:
    fixed, moving, cavity = tube
    other = register(fixed, moving, preset=SLIDING, initial=STILL, cavity=cavity, cavity_is_fixed=True)
    assert errors(other).mean() < 1.3 * errors(slid).mean()


def test_without_a_cavity_the_field_is_smooth(tube) -> None:
    fixed, moving, _ = tube
    few = SMOOTH.changed(levels=(Level(voxel_mm=8.0, iterations=3, rate_mm=1.0, points=500),))
    one = register(fixed, moving, preset=few, initial=STILL)
    two = register(fixed, moving, preset=few.changed(sliding=Sliding()), initial=STILL)
    assert two.sliding is None
    assert np.array_equal(one.spline.coefficients, two.spline.coefficients)


def test_every_level_describes_each_side_by_itself(tube, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, moving, cavity = tube
    seen = []

    def own_features(extractor, image, lattice, depth, layers):
        seen.append((lattice.spacing, depth.shape == image.shape, float((depth > 0).float().mean())))
        return features.volume_features(extractor, image, layers)

    monkeypatch.setattr(features, "own_features", own_features)
    few = [level.changed(iterations=1, points=500) for level in SLIDING.levels]
    register(fixed, moving, preset=SLIDING.changed(levels=tuple(few)), initial=STILL, cavity=cavity)
    assert [spacing for spacing, *_ in seen] == [8.0, 4.0]
    assert all(whole and abs(share - cavity.array.mean()) < 0.05 for _, whole, share in seen)


def test_files_carry_the_field(slid: EngineResult, tmp_path: Path) -> None:
    wanted = slid.displacement_mm(GRID)
    itk = read_itk(write_itk(slid.transform, tmp_path / "transform.h5", grid=GRID))
    assert np.abs(displacement_field(itk, GRID).vectors - wanted).max() < 1e-3
    elastix = read_elastix(write_elastix(slid.transform, tmp_path, GRID)[-1]).transform
    inner = (slice(None), *(slice(1, -1),) * 3)
    assert np.abs(displacement_field(elastix, GRID).vectors - wanted)[inner].max() < 1e-3


def test_either_side_can_be_inverted(slid: EngineResult) -> None:
    where = np.argwhere(np.abs(np.abs(radius() - RADIUS_MM) - 8) < 4)
    index = where[(where[:, 0] > 5) & (where[:, 0] < 33)][::7, ::-1]
    points = GRID.to_physical(index.astype(float))
    back, missed = invert_points(slid.transform, slid.transform(points))
    assert np.percentile(missed, 99) < 0.05
    assert np.percentile(np.linalg.norm(back - points, axis=1), 95) < 0.2


def test_the_surface_is_known_within_a_voxel(tube) -> None:
    fixed, moving, cavity = tube
    images = Images.prepare(fixed, moving, None, None, None, torch.device("cpu"), cavity)
    surface = Surface.of(images, STILL)
    z, y, x = (np.arange(n) * 4.0 for n in GRID.shape_zyx)
    points = torch.tensor(np.stack(np.meshgrid(z, y, x, indexing="ij"), -1)).float().reshape(-1, 3)
    found = surface.at(points, points).numpy().reshape(GRID.shape_zyx)
    near = np.abs(radius() - RADIUS_MM) < 12
    assert np.abs(found - (RADIUS_MM - radius()))[near].mean() < 1.0


def test_sliding_presets_are_not_averaged() -> None:
    with pytest.raises(InputError, match="it alone"):
        find_presets("mri-ab-sliding,mind")


def test_a_cavity_beside_its_image_is_refused(tube) -> None:
    fixed, moving, cavity = tube
    far = Volume(cavity.array, Geometry(GRID.size_xyz, GRID.spacing_xyz, (900.0, 0.0, 0.0)), "lungs")
    with pytest.raises(InputError, match=r"lungs: .* lies outside its image"):
        register(fixed, moving, preset=SLIDING, initial=STILL, cavity=far)


@pytest.mark.parametrize("fixed_is_ct", [False, True])
def test_a_surface_midway_between_voxels_is_reported(fixed_is_ct: bool) -> None:
    grid = Geometry((20, 20, 4), (4.0, 4.0, 4.0))  # a thin stack
    texture = gaussian_filter(np.random.default_rng(0).standard_normal(grid.shape_zyx), 1.0)
    image, half = Volume(300 * texture, grid), Volume(np.indices(grid.shape_zyx)[2] > 9, grid)
    few = SLIDING.changed(levels=(Level(voxel_mm=8.0, iterations=2, rate_mm=0.1, points=500),))
    result = register(image, image, preset=few, initial=STILL, cavity=half, cavity_is_fixed=fixed_is_ct)
    assert result.sliding.voxels >= 80
