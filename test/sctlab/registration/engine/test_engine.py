"""The engine as a whole: known warps, awkward grids, presets, determinism, bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from sctlab.registration.engine.images import Images
from sctlab.registration.engine.lattice import reach_of, sample_at
from sctlab.registration.engine.level_images import LevelImages, planned_spacing
from sctlab.registration.engine.register import register
from sctlab.registration.engine.settings import FeatureTerm, Level
from sctlab.registration.engine.terms.features import build
from sctlab.registration.presets import PRESETS, default_preset, find_presets
from sctlab.registration.truth import tissue_edges
from sctlab.transforms.data import EulerTransform
from sctlab.transforms.field import displacement_field
from sctlab_model.cases import Region, Task
from sctlab_model.device import choose_device, describe_device
from sctlab_model.errors import InputError, ProductError, RegistrationError
from sctlab_model.volume import Geometry, Volume, resample

RIGID = PRESETS["rigid"]
QUICK = PRESETS["mind"].changed(
    name="quick",
    knots_mm=16.0,
    levels=(
        Level(voxel_mm=8.0, iterations=25, rate_mm=1.0, points=6000),
        Level(voxel_mm=4.0, iterations=35, rate_mm=0.6, points=8000),
    ),
)
SHORT = QUICK.changed(name="short", levels=(Level(voxel_mm=8.0, iterations=4, rate_mm=1.0, points=500),), discrete=None)


def distance(result, sample) -> np.ndarray:
    """Errors in mm over the body."""
    grid = sample.source.geometry
    truth = displacement_field(sample.truth, grid).vectors
    return np.sqrt(((result.displacement_mm(grid) - truth) ** 2).sum(0))[sample.mask.array]


def start_of(sample) -> EulerTransform:
    """The sample's true rigid part, so that tests of the deformable stage need no rigid one."""
    return next(step for step in sample.truth.steps if isinstance(step, EulerTransform))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"features": (), "mutual_information": 1.0},
        {"features": (FeatureTerm(distance="l2"),), "mutual_information": 0.3},
    ],
    ids=["mind", "mi", "both"],
)
def test_a_known_warp_is_recovered(samples, changes) -> None:
    sample = samples[0](Task.CBCT, amplitude_mm=20.0)
    rigid = register(sample.source, sample.ct, fixed_mask=sample.mask, preset=RIGID)
    result = register(
        sample.source, sample.ct, fixed_mask=sample.mask, preset=QUICK.changed(**changes), initial=rigid.rigid
    )
    before, after = distance(rigid, sample).mean(), distance(result, sample).mean()
    assert after < 0.6 * before
    assert result.folding.smallest > 0
    assert result.folding.folded_percent == 0
    assert result.device == describe_device(choose_device("auto"))


@pytest.mark.parametrize("seed", [3, 4])
def test_the_default_preset_is_accurate_where_tissues_meet(samples, seed: int) -> None:
    """Within the phantom's tissues MR and CT share nothing, so only borders can tell."""
    sample = samples[0](Task.MRI, seed=seed, amplitude_mm=20.0)
    edges = tissue_edges(sample.ct_aligned, sample.mask.array)[sample.mask.array]
    rigid = register(sample.source, sample.ct, fixed_mask=sample.mask, preset=RIGID)
    result = register(sample.source, sample.ct, fixed_mask=sample.mask, preset=PRESETS["mri-ab"], initial=rigid.rigid)
    before, after = (distance(found, sample)[edges].mean() for found in (rigid, result))
    assert after < 0.7 * before
    assert after < 2.0  # half a voxel
    assert result.folding.smallest > 0


def test_oblique_flipped_and_anisotropic_grids(cbct_sample) -> None:
    """Both images on other grids, inside their fields of view: the truth is found as well as on the plain grids."""
    sample = cbct_sample
    axes = EulerTransform((0.1, -0.1, 0.3)).affine().matrix @ np.diag([-1.0, 1.0, -1.0])

    def turned(volume: Volume, spacing: tuple[float, float, float], share: float, outside: float) -> Volume:
        extent = share * np.array(volume.geometry.size_xyz) * np.array(volume.geometry.spacing_xyz)
        size = (extent / spacing).astype(int)
        origin = volume.geometry.centre_xyz - axes @ (np.array(spacing) * (size - 1) / 2)
        return resample(volume, Geometry(tuple(size), spacing, tuple(origin), tuple(axes.ravel())), outside=outside)

    fixed = turned(sample.source, (3.0, 4.0, 5.0), 0.7, -1024)
    moving = turned(sample.ct, (5.0, 4.0, 3.0), 0.95, -1024)
    mask = resample(sample.mask, fixed.geometry, interpolation="nearest")
    true = start_of(sample)
    off = EulerTransform(true.angles_xyz, tuple(np.add(true.translation_xyz, (5.0, -4.0, 4.0))), true.centre_xyz)
    result = register(fixed, moving, fixed_mask=mask, preset=QUICK, initial=off)  # the spline must take up the rest
    truth = displacement_field(sample.truth, fixed.geometry).vectors
    start = displacement_field(off, fixed.geometry).vectors
    error, before = (
        np.sqrt(((f - truth) ** 2).sum(0))[mask.array] for f in (result.displacement_mm(fixed.geometry), start)
    )
    assert error.mean() < 0.5 * before.mean()


def test_a_partly_overlapping_field_of_view(cbct_sample) -> None:
    """A moving image that lacks a third of the body still registers where it has data."""
    sample = cbct_sample
    size = sample.ct.geometry.size_xyz
    keep = int(0.7 * size[2])
    grid = sample.ct.geometry.cropped((0, 0, 0), (size[0], size[1], keep))
    cut = Volume(sample.ct.array[:keep], grid)
    result = register(sample.source, cut, fixed_mask=sample.mask, preset=QUICK, initial=start_of(sample))
    points = sample.source.geometry.to_physical(np.argwhere(sample.mask.array)[:, ::-1])
    z = grid.to_index(sample.truth(points))[:, 2]
    assert distance(result, sample)[z < keep - 4].mean() < 2.5


def test_masks_are_kept_away_from_what_counts(cbct_sample) -> None:
    """Garbage outside both masks changes nothing but the features' statistics at the masks' borders."""
    sample = cbct_sample
    spoiled = sample.ct.array.astype(np.float32).copy()
    spoiled[:, :, -4:] = 3000.0
    moving_mask = np.ones(spoiled.shape, bool)
    moving_mask[:, :, -8:] = False
    result = register(
        sample.source,
        sample.ct.with_array(spoiled),
        fixed_mask=sample.mask,
        moving_mask=sample.ct.with_array(moving_mask),
        preset=QUICK,
        initial=start_of(sample),
    )
    assert distance(result, sample).mean() < 2.5


def test_the_same_seed_gives_the_same_result(cbct_sample) -> None:
    arguments = dict(fixed_mask=cbct_sample.mask, preset=SHORT, initial=start_of(cbct_sample))
    first, second = (register(cbct_sample.source, cbct_sample.ct, seed=3, **arguments) for _ in range(2))
    other = register(cbct_sample.source, cbct_sample.ct, seed=4, **arguments)
    assert np.array_equal(first.spline.coefficients, second.spline.coefficients)
    assert not np.array_equal(first.spline.coefficients, other.spline.coefficients)


def test_several_presets_are_averaged_and_their_spread_measured(cbct_sample, monkeypatch) -> None:
    monkeypatch.setitem(PRESETS, "one", SHORT.changed(name="one"))
    monkeypatch.setitem(PRESETS, "two", SHORT.changed(name="two", features=(), mutual_information=1.0))
    arguments = dict(fixed_mask=cbct_sample.mask, initial=start_of(cbct_sample))
    both = register(cbct_sample.source, cbct_sample.ct, preset=find_presets("one, two"), **arguments)
    one, two = (register(cbct_sample.source, cbct_sample.ct, preset=PRESETS[p], **arguments) for p in ("one", "two"))
    np.testing.assert_allclose(
        both.spline.coefficients, (one.spline.coefficients + two.spline.coefficients) / 2, atol=1e-4
    )
    grid = cbct_sample.source.geometry
    half = (one.displacement_mm(grid) - two.displacement_mm(grid)) / 2
    # the rigid part turns both fields alike, so half their distance is the spread
    np.testing.assert_allclose(both.spread.array, np.sqrt((half**2).sum(0)), atol=1e-3)
    assert both.presets == ("one", "two")


def test_rigidity_keeps_bone_stiff(cbct_sample) -> None:
    """With a rigidity weight the deformation of bone is closer to a rotation."""
    sample = cbct_sample
    bone = sample.ct.with_array(sample.ct_labels.array == 5)
    found = {}
    for weight in (0.0, 30.0):
        preset = QUICK.changed(rigidity=weight, discrete=None)
        result = register(
            sample.source, sample.ct, fixed_mask=sample.mask, bone=bone, preset=preset, initial=start_of(sample)
        )
        field = result.displacement_mm(sample.source.geometry)
        gradient = np.stack([np.stack(np.gradient(field[c], 4.0)[::-1]) for c in range(3)])
        matrix = gradient + np.eye(3)[:, :, None, None, None]
        product = np.einsum("kizyx,kjzyx->ijzyx", matrix, matrix) - np.eye(3)[:, :, None, None, None]
        found[weight] = np.sqrt((product**2).sum((0, 1)))[sample.source_labels.array == 5].mean()
    assert found[30.0] < 0.7 * found[0.0]


def test_the_jacobian_mode_runs_in_the_engine(cbct_sample) -> None:
    term = FeatureTerm(mode="jacobian", points=60)
    preset = SHORT.changed(name="jacobian", features=(term,))
    result = register(
        cbct_sample.source, cbct_sample.ct, fixed_mask=cbct_sample.mask, preset=preset, initial=start_of(cbct_sample)
    )
    assert np.isfinite(result.spline.coefficients).all()


def test_every_region_has_a_preset() -> None:
    for task in Task:
        for region in Region:
            assert find_presets(default_preset(task, region))[0].levels
    with pytest.raises(InputError, match="unknown preset 'best'"):
        find_presets("mind,best")
    with pytest.raises(InputError, match="no name"):
        find_presets(" ,")


def test_working_voxels_grow_where_features_would_not_fit() -> None:
    extent = np.array([270.0, 366.0, 464.0])  # a full SynthRAD pair
    assert planned_spacing((extent, extent + 80), 3.0, 12) == 3.0
    coarser = planned_spacing((extent, extent + 80), 1.0, 64)
    assert 4 * 64 * (np.prod(extent / coarser + 1) + np.prod((extent + 80) / coarser + 1)) <= 800_000_000


def test_the_extent_of_the_moving_image_along_the_fixed_axes() -> None:
    """Equal to that of every voxel, for oblique grids and a turned and shifted patient."""
    fixed = Geometry((9, 8, 7), (2.0, 3.0, 4.0), (-5.0, 10.0, 3.0), (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))
    moving = Geometry((5, 6, 4), (1.5, 2.5, 3.5), (40.0, -7.0, 1.0), (0, 0, 1, 1, 0, 0, 0, 1, 0))
    rigid = EulerTransform((0.2, -0.1, 0.3), (7.0, -3.0, 12.0), (1.0, 2.0, 3.0)).affine()
    voxels = np.argwhere(np.ones(moving.shape_zyx))[:, ::-1].astype(float)
    points = (moving.to_physical(voxels) - rigid.offset) @ np.linalg.inv(rigid.matrix).T
    along = (fixed.to_index(points) * fixed.spacing_xyz)[:, ::-1]
    low, high = reach_of(moving, fixed, (rigid.matrix, rigid.offset))
    np.testing.assert_allclose((low, high), (along.min(0), along.max(0)), atol=1e-6)


@pytest.mark.parametrize("spacing", [2.0, 4.0, 7.0])
def test_points_beyond_the_moving_image_do_not_count(cbct_sample, spacing: float) -> None:
    grid = cbct_sample.ct.geometry
    ends = grid.cropped((0, 0, 6), (grid.size_xyz[0], grid.size_xyz[1], grid.size_xyz[2] - 12))
    shorter = Volume(cbct_sample.ct.array[6:-6], ends)
    images = Images.prepare(cbct_sample.source, shorter, cbct_sample.mask, None, None, torch.device("cpu"))
    level = LevelImages(images, EulerTransform((0, 0, 0)), PRESETS["mind"], spacing)
    fixed = cbct_sample.source.geometry
    last = ends.to_physical(np.array([0.0, 0.0, ends.size_xyz[2] - 1]))[2] - fixed.origin_xyz[2]
    middle = np.array(fixed.shape_zyx[1:]) * np.array(fixed.spacing_xyz[1::-1]) / 2
    beyond = torch.tensor([[last + d, *middle] for d in (-12.0, 5.0, 12.0, 60.0, 200.0)], dtype=torch.float32)
    weights = sample_at(level.valid, level.moving_lattice, beyond)[0] > 0.9
    assert weights.tolist() == [True, False, False, False, False]


@pytest.mark.parametrize("level_mm", [5.0, 6.0])
def test_a_term_with_voxels_of_its_own_compares_the_same_places(cbct_sample, level_mm: float) -> None:
    """Whatever the level's voxels, features at 3 mm are those of 3 mm at the points that are sampled."""
    images = Images.prepare(cbct_sample.ct, cbct_sample.ct, cbct_sample.mask, None, None, torch.device("cpu"))
    term = FeatureTerm(voxel_mm=3.0)
    own, other = (
        LevelImages(images, EulerTransform((0, 0, 0)), PRESETS["mind"].changed(features=(term,)), v)
        for v in (level_mm, 4.0)
    )
    metrics = [
        next(build(level, PRESETS["mind"].changed(features=(term,)), torch.Generator())) for level in (own, other)
    ]
    chosen = torch.nonzero(own.mask.flatten() > 0)[::97, 0]
    points, index = own._points((slice(None),) * 3, chosen, own.mask.shape[2:])
    found = metrics[0].fixed_samples(points, index)[0]
    expected = metrics[1].fixed_samples(points)[0]
    assert torch.allclose(found, expected, atol=1e-4)
    assert own.lattice.spacing == level_mm


@pytest.mark.parametrize("size", [(48, 48, 5), (10, 48, 48)])
def test_a_thin_stack_is_registered(size: tuple[int, int, int]) -> None:
    random = np.random.default_rng(0)
    grid = Geometry(size, (1.0, 1.0, 1.0))
    image = Volume(gaussian_filter(random.standard_normal(grid.shape_zyx), 2) * 1000, grid, "thin")
    result = register(image, image, preset=QUICK.changed(discrete=None), initial=EulerTransform((0, 0, 0)))
    assert np.abs(result.displacement_mm(grid)).mean() < 0.3


class TestBadInput:
    """One clear sentence for what can't be registered."""

    def refused(
        self, fixed: Volume, moving: Volume, match: str, error: type[ProductError] = InputError, **keywords: object
    ) -> None:
        with pytest.raises(error, match=match) as caught:
            register(fixed, moving, preset=keywords.pop("preset", RIGID), **keywords)
        assert "\n" not in str(caught.value)

    def test_constant_image(self, cbct_sample) -> None:
        flat = cbct_sample.ct.with_array(np.zeros_like(cbct_sample.ct.array))
        self.refused(cbct_sample.source, flat, "constant image")

    def test_nan(self, cbct_sample) -> None:
        broken = cbct_sample.source.array.astype(np.float32).copy()
        broken[0, 0, 0] = np.nan
        self.refused(cbct_sample.source.with_array(broken), cbct_sample.ct, "NaN")

    def test_empty_mask(self, cbct_sample) -> None:
        nothing = cbct_sample.mask.with_array(np.zeros_like(cbct_sample.mask.array))
        self.refused(cbct_sample.source, cbct_sample.ct, "empty mask", fixed_mask=nothing)

    def test_mask_of_another_frame(self, cbct_sample) -> None:
        mask = cbct_sample.mask
        origin = tuple(o + 5000 for o in mask.geometry.origin_xyz)
        elsewhere = Volume(mask.array, replace(mask.geometry, origin_xyz=origin))
        self.refused(cbct_sample.source, cbct_sample.ct, "outside its image", fixed_mask=elsewhere)

    def test_no_overlap_after_a_given_start(self, cbct_sample) -> None:
        far = EulerTransform((0.0, 0.0, 0.0), (5000.0, 0.0, 0.0))
        self.refused(
            cbct_sample.source,
            cbct_sample.ct,
            "lands inside the moving image",
            RegistrationError,
            initial=far,
            preset=SHORT,
        )

    def test_too_few_slices(self, cbct_sample) -> None:
        ct = cbct_sample.ct
        grid = ct.geometry.cropped((0, 0, 0), (*ct.geometry.size_xyz[:2], 2))
        self.refused(cbct_sample.source, Volume(ct.array[:2], grid), "at least 4")

    def test_field_of_view_beyond_the_image(self, cbct_sample) -> None:
        preset = SHORT.changed(features=(FeatureTerm(mode="jacobian", patch=99),))
        self.refused(cbct_sample.source, cbct_sample.ct, "field of view", initial=start_of(cbct_sample), preset=preset)

    def test_unknown_device(self, cbct_sample) -> None:
        with pytest.raises(InputError, match="--device"):
            register(cbct_sample.source, cbct_sample.ct, preset=SHORT, device="tpu9")
