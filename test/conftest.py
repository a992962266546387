"""Fixtures that every part's tests share: the real images, a body, and bundles with random weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from sctlab_model.bundle import Bundle, Fold, RegionGroup, Registration, save_fold, write_bundle
from sctlab_model.cases import Region, Task
from sctlab_model.network.settings import UNetPlusPlusSettings
from sctlab_model.recipe import Canvas, RangeNormalisation, Recipe
from sctlab_model.volume import Geometry, Volume

if TYPE_CHECKING:
    from sctlab_model.network.base import SynthesisNetwork

SHARED = Path(__file__).parents[1] / "../shared"
TINY_NETWORK = UNetPlusPlusSettings(encoder="tu-mobilenetv3_small_100", slices=3, decoder_channels=(16, 16, 8, 8, 4))

# Threads that spin while they wait slow each other down on shared cores; set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores already

# Shared machines stall: a slow example says nothing about the code.
settings.register_profile(
    "quiet", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("quiet")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images; the test is skipped where there is none."""
    folder = (SHARED / "data").resolve()
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    return folder


# --- a trunk of 300 mm by 190 mm: fat around muscle, gas in front on the left, a spine at the back ------------------

GRID = Geometry((60, 48, 10), (6.0, 6.0, 6.0))


def _plane() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x and y in mm from the centre (+y is the back), and the squared radius of the trunk (1 at the skin)."""
    x, y = ((np.arange(n) - (n - 1) / 2) * s for n, s in zip(GRID.size_xyz[:2], GRID.spacing_xyz[:2], strict=True))
    x, y = np.meshgrid(x, y)
    return x, y, (x / 150) ** 2 + (y / np.where(y > 0, 80.0, 110.0)) ** 2  # round belly, flat back


def _slices(plane: np.ndarray) -> np.ndarray:
    return np.broadcast_to(plane, GRID.shape_zyx).copy()


@pytest.fixture(scope="session")
def outline() -> Volume:
    """The trunk's mask as it was drawn."""
    return Volume(_slices(_plane()[2] < 1), GRID, "outline")


@pytest.fixture(scope="session")
def cbct() -> Volume:
    """The trunk on a couch, in HU with noise."""
    x, y, radius = _plane()
    hu = np.where(radius < 0.75, 40.0, np.where(radius < 1, -100.0, -1000.0))
    hu[(x - 40) ** 2 + (y + 60) ** 2 < 20**2] = -900
    hu[x**2 + (y - 45) ** 2 < 20**2] = 400
    hu[(abs(y - 105) < 5) & (abs(x) < 170)] = 100
    return Volume(_slices(hu) + np.random.default_rng(0).normal(0, 10, GRID.shape_zyx), GRID, "cbct")


@pytest.fixture(scope="session")
def mr() -> Volume:
    """The trunk with bright fat, darker muscle, black gas and bone, and Rician noise."""
    x, y, radius = _plane()
    signal = np.where(radius < 0.75, 350.0, np.where(radius < 1, 700.0, 0.0))
    signal[(x - 40) ** 2 + (y + 60) ** 2 < 20**2] = 0
    signal[x**2 + (y - 45) ** 2 < 20**2] = 60
    noise = np.random.default_rng(1).normal(0, 15, (2, *GRID.shape_zyx))
    return Volume(np.hypot(_slices(signal) + noise[0], noise[1]), GRID, "mr")


# --- bundles ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """CBCT on its own grid, source and target by the same linear rule, a small network on a small canvas."""
    return Recipe(
        name="tiny",
        task=Task.CBCT,
        spacing_xyz=GRID.spacing_xyz,
        network=TINY_NETWORK,
        normalisation=RangeNormalisation(lower=-1024, upper=3071),
        canvas=Canvas(minimum_yx=(64, 64)),
    )


NetworkMaker = Callable[[int], "SynthesisNetwork"]


@pytest.fixture(scope="session")
def random_network() -> NetworkMaker:
    """`random_network(seed)`: the tiny network with random weights and batch norms that have seen data."""
    import torch

    from sctlab_model.network import build_network

    def make(seed: int) -> SynthesisNetwork:
        with torch.device("meta"):
            network = build_network(TINY_NETWORK)
        # NumPy's uniform stream is the same in every version; torch's initialisation is not.
        random = np.random.default_rng(seed)
        state = {}
        for name, like in sorted(network.state_dict().items()):
            values = random.random(tuple(like.shape)) * 2 - 1
            if like.dim() > 1:
                values *= np.sqrt(6 / values[0].size)  # He's uniform bound
            elif name.endswith(("running_var", "weight")):
                values = 1 + values / 2
            else:
                values *= 0.2
            state[name] = torch.tensor(values, dtype=like.dtype)
        network.load_state_dict(state, assign=True)
        return network.eval()

    return make


def soft_tissue(state: dict[str, Any]) -> dict[str, Any]:
    """Random weights whose result passes the output gate: the head's values lie around -30 HU instead of 1000 HU."""
    head = {name.rpartition(".")[2]: name for name in state if "segmentation_head" in name}
    state[head["weight"]] = state[head["weight"]] * 0.05
    state[head["bias"]] = state[head["bias"]] * 0 - 0.57  # tanh of it is -0.515: -30 HU on -1024 to 3071
    return state


BundleMaker = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_bone_is_expected(request: pytest.FixtureRequest) -> None:
    """The networks that `make_bundle` draws paint no bone, and the output gate would say so of every result."""
    if "make_bundle" in request.fixturenames:
        import sctlab_model.gates

        request.getfixturevalue("monkeypatch").setattr(sctlab_model.gates, "BONE_AT_LEAST", -1.0)


@pytest.fixture(scope="session")
def make_bundle(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Recipe, random_network: NetworkMaker
) -> BundleMaker:
    """Write a bundle with random weights; `training_cases` has one tuple of case ids for every fold."""

    def make(
        folder: Path | None = None,
        *,
        task: Task = Task.CBCT,
        groups: tuple[tuple[Region, ...], ...] = (tuple(Region),),
        folds: int = 2,
        training_cases: tuple[tuple[str, ...], ...] | None = None,
        recipe: Recipe | None = None,
    ) -> Path:
        folder = folder or tmp_path_factory.mktemp("bundle") / f"tiny-{task.value}"
        recipe = (recipe or tiny_recipe).model_copy(update={"task": task})
        seen = training_cases or ((),) * folds
        entries = []
        for number, regions in enumerate(groups):
            members = []
            for k in range(folds):
                state = soft_tissue(random_network(10 * number + k).state_dict())
                weights = save_fold(state, folder, f"group_{number}_fold_{k}.safetensors", "float32")
                members.append(Fold(weights=weights, storage="float32", training_cases=seen[k]))
            entries.append(RegionGroup(regions=regions, folds=tuple(members)))
        write_bundle(
            Bundle(
                name=folder.name,
                recipe=recipe,
                groups=tuple(entries),
                intended_use="tests",
                demonstration=True,
                registration=Registration(method="none", convention="aligned"),
            ),
            folder,
        )
        return folder

    return make


@pytest.fixture(scope="session")
def cbct_bundle(make_bundle: BundleMaker) -> Path:
    """Two folds for CBCT, one group for every region."""
    return make_bundle()


@pytest.fixture(scope="session")
def mr_bundle(make_bundle: BundleMaker, tiny_recipe: Recipe) -> Path:
    """Two folds for MR, normalised by percentiles."""
    from sctlab_model.recipe import PercentileNormalisation

    recipe = tiny_recipe.model_copy(update={"normalisation": PercentileNormalisation()})
    return make_bundle(task=Task.MRI, recipe=recipe)
