"""The organisers' settings as elastix parameters, and a short real run both ways."""

import json
from pathlib import Path

import numpy as np
import pytest

from sctlab.measures.jacobian import jacobian_determinant
from sctlab.registration.elastix import register as elastix
from sctlab.registration.elastix.parameters import Sampling, baseline_settings, bspline_parameters, rigid_parameters
from sctlab.registration.elastix.register import register_elastix
from sctlab.transforms.field import displacement_field
from sctlab_model.cases import Region, Task
from sctlab_model.errors import InputError, RegistrationError
from sctlab_model.volume import AIR_HU, Geometry, Volume

NOMINAL = Sampling()


@pytest.mark.parametrize(
    ("task", "region", "grid", "bins", "weights", "pyramid", "iterations", "sampler"),
    [
        ("mri", "AB", 15, 60, (1, 50), (8, 4, 1), (2000, 2000, 1000), "RandomCoordinate"),
        ("mri", "HN", 15, 100, (1, 50, 2), (4, 2, 1), (500, 300, 200), (4, 2, 1)),
        ("mri", "TH", 10, 100, (1, 50, 2), (4, 2, 1), (500, 300, 200), (4, 2, 1)),
        ("cbct", "AB", 10, 100, (1, 10, 0.5), (4, 2, 1), (500, 200, 100), (4, 2, 2)),
        ("cbct", "TH", 10, 100, (1, 10, 0.5), (4, 2, 1), (500, 200, 100), (4, 2, 2)),
        ("cbct", "HN", 15, 100, (1, 10, 0.5), (4, 2, 1), (500, 200, 100), (4, 2, 2)),
    ],
)
def test_the_table_of_the_organisers(tmp_path, task, region, grid, bins, weights, pyramid, iterations, sampler):
    settings = baseline_settings(Task(task), Region(region))
    rigidity = tmp_path / "rigidity.mha" if settings.rigidity else None
    found = bspline_parameters(settings, 7, NOMINAL, rigidity)
    assert [float(v) for v in found["FinalGridSpacingInPhysicalUnits"]] == [grid] * 3
    assert found["NumberOfHistogramBins"] == [str(bins)]
    assert [float(found[f"Metric{i}Weight"][0]) for i in range(len(found["Metric"]))] == list(weights)
    assert found["ImagePyramidSchedule"] == [str(p) for p in pyramid for _ in range(3)]
    assert found["MaximumNumberOfIterations"] == [str(n) for n in iterations]
    assert found["RandomSeed"] == ["7"]
    assert found["HowToCombineTransforms"] == ["Compose"]
    assert found["ErodeMask"] == [str(task == "cbct").lower()]
    assert found["GridSpacingSchedule"] == ["4", "4", "4", "2", "2", "2", "1", "1", "1"]
    if isinstance(sampler, str):
        assert found["ImageSampler"] == [sampler]
        assert found["SampleRegionSize"] == ["100"] * 9
    else:
        assert found["SampleGridSpacing"] == [str(s) for s in sampler for _ in range(3)]
    assert found["FixedImagePyramid"] == [
        "FixedSmoothingImagePyramid" if (task, region) == ("mri", "AB") else "FixedRecursiveImagePyramid"
    ]


def test_rigid_stage_of_the_organisers():
    found = rigid_parameters(0, NOMINAL)
    assert found["Transform"] == ["EulerTransform"]
    assert found["NumberOfHistogramBins"] == ["32"]
    assert found["MaximumNumberOfIterations"] == ["1000", "1000", "500", "500"]
    assert found["SampleGridSpacing"] == ["4"] * 9 + ["2"] * 3
    assert found["ImagePyramidSchedule"] == ["8"] * 3 + ["4"] * 3 + ["2"] * 3 + ["1"] * 3
    assert float(found["MaximumStepLength"][0]) == pytest.approx(5 / 3, abs=1e-4)


def test_the_rigidity_image_follows_the_ct():
    settings = baseline_settings(Task.CBCT, Region.TH)
    moving = bspline_parameters(settings, 0, NOMINAL, "r.mha", rigidity_on_fixed=False)
    fixed = bspline_parameters(settings, 0, NOMINAL, "r.mha", rigidity_on_fixed=True)
    assert moving["UseMovingRigidityImage"] == fixed["UseFixedRigidityImage"] == ["true"]
    assert moving["UseFixedRigidityImage"] == fixed["UseMovingRigidityImage"] == ["false"]


def test_coarse_voxels_keep_as_many_samples_as_a_full_image():
    coarse, full = Sampling((3, 3, 3), (110, 89, 92), 0.8), Sampling()
    for pyramid, levels in (((8, 4, 2, 1), (4, 4, 4, 2)), ((4, 2, 1), (4, 2, 2))):
        assert full.steps(levels, pyramid) == list(levels)
        for step, factors, level, literal in zip(
            coarse.steps(levels, pyramid), coarse.pyramid(pyramid), pyramid, levels, strict=True
        ):
            samples = 0.8 * 110 * 89 * 92 / np.prod(factors) / step**3
            wanted = 0.5 * 465 * 367 * 91 / level**3 / literal**3
            assert step == 1 or samples >= min(3000, wanted)
    assert coarse.steps((4, 4, 4, 2), (8, 4, 2, 1))[0] < 4


@pytest.fixture
def short(monkeypatch):
    """A tenth of the iterations: enough for a small phantom."""
    whole = elastix._run

    def fewer(fixed, moving, mask, stages, folder):
        for stage in stages:
            stage["MaximumNumberOfIterations"] = [
                str(max(60, int(n) // 10)) for n in stage["MaximumNumberOfIterations"]
            ]
        whole(fixed, moving, mask, stages, folder)

    monkeypatch.setattr(elastix, "_run", fewer)


@pytest.mark.heavy
@pytest.mark.parametrize(("task", "region", "tuned"), [("mri", "AB", True), ("cbct", "TH", False)])
def test_a_real_run_finds_what_a_rigid_motion_cannot_and_repeats_itself(
    samples, short, monkeypatch, task, region, tuned
):
    """Several metrics on two threads: elastix's own way of limiting threads crashes there (see the worker)."""
    monkeypatch.setenv("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "2")
    sample = samples[0](Task(task), size_xyz=(48, 40, 30), amplitude_mm=25.0)
    mask = sample.mask
    truth = displacement_field(sample.truth, mask.geometry)

    def error_mm(transform):
        difference = displacement_field(transform, mask.geometry).vectors - truth.vectors
        return float(np.sqrt((difference**2).sum(0))[mask.array].mean())

    def run(**options):
        return register_elastix(
            sample.source, sample.ct, mask, task=Task(task), region=Region(region), tuned=tuned, **options
        )

    start_mm = float(np.sqrt((truth.vectors**2).sum(0))[mask.array].mean())
    rigid, full = run(rigid_only=True), run(seed=3)
    assert error_mm(rigid.transform) < 0.8 * start_mm
    assert error_mm(full.transform) < 0.8 * error_mm(rigid.transform)
    assert jacobian_determinant(displacement_field(full.transform, mask.geometry))[mask.array].min() > 0
    assert any("without a rigidity penalty" in note for note in full.notes) == tuned
    if not tuned:
        return  # the grid sampler has nothing to repeat
    again = run(seed=3)
    points = mask.geometry.to_physical(np.random.default_rng(0).uniform(5, 20, (100, 3)))
    np.testing.assert_allclose(full.transform(points), again.transform(points), atol=0.05)


def test_a_sample_region_fits_the_mask_on_every_level():
    """elastix reads three sizes a level and takes the first one for what is missing: 100 mm in 96 mm was refused."""
    flat = Sampling((4, 4, 4), (42, 36, 24), 0.6, (150.0, 130.0, 92.0))
    found = [float(v) for v in bspline_parameters(baseline_settings(Task.MRI, Region.AB), 0, flat)["SampleRegionSize"]]
    assert found == [100, 100, pytest.approx(82.8)] * 3


def test_an_error_of_elastix_is_one_line_without_addresses(tmp_path):
    log = tmp_path / "elastix.log"
    log.write_text(
        "x\nDescription: ITK ERROR: Sampler(0x563d8e51a330): ERROR: you selected\n  SampleRegionSize = 9 mm,\n\nmore"
    )
    assert elastix._reason(log) == "Sampler: you selected SampleRegionSize = 9 mm,"


@pytest.mark.parametrize(("code", "message"), [(-11, "crashed .signal 11"), (1, "gave up .out of luck")])
def test_a_crash_of_elastix_is_one_line_and_a_ct_without_bone_has_no_rigidity(samples, monkeypatch, code, message):
    """elastix runs in a process of its own; here another program stands in for it."""
    seen = []

    class Ended:
        returncode = code
        stderr = b"Traceback\nout of luck"

    def stand_in(command, **options):
        seen.append(json.loads((Path(command[-1]) / "stages.json").read_text()))
        return Ended

    monkeypatch.setattr(elastix.subprocess, "run", stand_in)
    sample = samples[0](Task.CBCT, size_xyz=(40, 32, 24))
    for ct in (sample.ct, sample.ct.with_array(np.minimum(sample.ct.array, 100))):
        with pytest.raises(RegistrationError, match=message):
            register_elastix(sample.source, ct, sample.mask, task=Task.CBCT, region=Region.TH)
    with_bone, without = seen
    assert "TransformRigidityPenalty" in with_bone[1]["Metric"]
    assert "TransformRigidityPenalty" not in without[1]["Metric"]


def test_padding_below_air_weighs_nothing_in_the_centre_of_gravity():
    """A scanner's round field of view is padded with -3024; elastix starts from the first moments of the values."""
    grid = Geometry((32, 32, 4), (16, 16, 20), (-256, -256, 0))
    x, y = np.meshgrid(*[np.linspace(-256, 240, 32)] * 2)
    body = (x / 170) ** 2 + ((y - 60) / 110) ** 2 < 1
    air = np.broadcast_to(np.where(body, 20, -1024), grid.shape_zyx).astype(np.int16)
    padded = np.where(x**2 + y**2 > 250**2, -3024, air).astype(np.int16)
    seen = [elastix._above(Volume(a, grid), AIR_HU, np.inf).array for a in (air, padded)]
    np.testing.assert_array_equal(*seen)
    assert seen[1].min() == 0
    assert seen[1].max() == 20 - AIR_HU


@pytest.mark.heavy
def test_elastix_that_gives_up_says_why(samples):
    from dataclasses import replace

    sample = samples[0](Task.CBCT, size_xyz=(40, 32, 24))
    tiny = np.zeros_like(sample.mask.array)
    tiny[0, 0, 0] = True
    with pytest.raises(RegistrationError, match="elastix gave up") as caught:
        register_elastix(
            replace(sample.source),
            sample.ct,
            sample.mask.with_array(tiny),
            task=Task.CBCT,
            region=Region.TH,
            rigid_only=True,
        )
    assert "\n" not in str(caught.value)


def test_the_organisers_numbers_hold_at_synthrad_s_sizes_and_follow_small_images() -> None:
    for slices in (48, 60, 91, 120):
        full = Sampling(size_xyz=(465, 367, slices))
        assert full.pyramid((8, 4, 2, 1)) == [(n, n, n) for n in (8, 4, 2, 1)]
    small = Sampling(spacing_xyz=(3.0, 3.0, 3.0), size_xyz=(120, 96, 20))
    for factors in small.pyramid((8, 4, 2, 1)):
        assert all(n // f >= 6 for n, f in zip(small.size_xyz, factors, strict=True))


def test_too_few_slices_are_refused_with_the_reason(samples) -> None:
    sample = samples[0](Task.CBCT, size_xyz=(40, 32, 24))
    grid = sample.source.geometry.cropped((0, 0, 0), (*sample.source.geometry.size_xyz[:2], 5))
    thin, mask = (Volume(v.array[:5], grid) for v in (sample.source, sample.mask))
    with pytest.raises(InputError, match="5 voxels; expected at least 8 along each axis"):
        register_elastix(thin, sample.ct, mask, task=Task.CBCT, region=Region.TH)
