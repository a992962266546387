"""A tiny cohort of pairs on one grid, and the plan that trains on it in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from sctlab.training.plan import TrainingPlan
from sctlab_model.io.atomic import write_json
from sctlab_model.io.writing import write_volume
from sctlab_model.settings import parse_yaml
from sctlab_model.volume import Geometry, Volume

PLAN = """
recipe:
  name: tiny
  task: mri
  spacing_xyz: [4.0, 4.0, 6.0]
  canvas: {crop: body, margin: 2, multiple: 32, minimum_yx: [32, 32]}
  network: {encoder: tu-mobilenetv3_small_050, slices: 3, decoder_channels: [8, 8, 8, 4, 4]}
  views: [identity]
data: {target: ct, folds: 3, workers: 0}
patch: {size_yx: [32, 32], batch: 4}
losses:
  - {kind: l1}
  - {kind: impact_synth, weight: 0.02, extractor: mind-2d}
optimiser: {learning_rate: 2.0e-3}
schedule: {kind: cosine}
stages:
  - {name: global, iterations: 8}
validate_every: 4
checkpoint_every: 2
"""


def write_pair(folder: Path, seed: int, shape: tuple[int, int, int] = (6, 36, 44), *, source: str = "mr") -> None:
    """An ellipse of fat and muscle with a bone and gas; the source is a monotone map of the CT with noise."""
    rng = np.random.default_rng(seed)
    _, y, x = np.indices(shape)
    cy, cx = (n / 2 + rng.normal(0, 1) for n in shape[1:])
    radius = np.hypot((y - cy) / (shape[1] * 0.36), (x - cx) / (shape[2] * 0.4 * rng.uniform(0.9, 1.1)))
    hu = np.where(radius < 0.8, 50.0, -100.0)
    hu[np.hypot(y - cy - 6, x - cx) < 3] = 700
    hu[np.hypot(y - cy + 4, x - cx + 5) < 3] = -900
    hu += 15 * ndimage.gaussian_filter(rng.normal(size=shape), (0, 1, 1)) * 3
    hu[radius >= 1] = -1000
    signal = np.interp(hu, (-1000, -900, -100, 50, 700), (5, 10, 400, 220, 30)) * rng.uniform(0.5, 2)
    signal = np.abs(signal + rng.normal(0, 4, shape))
    grid = Geometry(shape[::-1], (4.0, 4.0, 6.0))
    write_volume(Volume(signal.astype(np.float32), grid), folder / f"{source}.mha")
    write_volume(Volume(np.rint(hu).astype(np.int16), grid), folder / "ct.mha")
    write_volume(Volume((radius < 1.05).astype(np.uint8), grid), folder / "mask.mha")


@pytest.fixture(scope="session")
def cohort_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six MR pairs: two of each region, registered by `bspline` onto the source."""
    root = tmp_path_factory.mktemp("cohort")
    for number in range(6):
        region = ("AB", "HN", "TH")[number % 3]
        folder = root / "Task1" / region / f"1{region}A{number:03d}"
        write_pair(folder, number)
        write_json(folder / "pair.json", {"method": "bspline", "convention": "ct_to_source"})
    return root


@pytest.fixture(scope="session")
def cbct_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six CBCT pairs, two of each region, as they are delivered."""
    root = tmp_path_factory.mktemp("cbct")
    for number in range(6):
        region = ("AB", "HN", "TH")[number % 3]
        write_pair(root / "Task2" / region / f"2{region}A{number:03d}", number, source="cbct")
    return root


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., TrainingPlan]:
    """`make_plan(**changes)`: the tiny plan with top-level settings replaced."""

    def make(**changes: object) -> TrainingPlan:
        return TrainingPlan.model_validate(parse_yaml(TrainingPlan, PLAN, "tiny").model_dump() | changes)

    return make


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    """The tiny plan as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(PLAN)
    return path
