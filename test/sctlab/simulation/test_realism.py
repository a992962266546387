"""Real MR does not contradict the simulator: tissue contrasts of four real images lie where simulated ones do."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared" / "data"

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="no real images beside the checkout")


@pytest.fixture(scope="module")
def realism():
    spec = importlib.util.spec_from_file_location("simulation_realism", ROOT / "benchmarks" / "simulation_realism.py")
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_ratios_to_muscle_lie_inside_the_simulated_range(realism):
    inside, within = [], []
    for path in sorted(realism.ROIS.glob("*.json")):
        real = realism.read_real(path, SHARED)
        for tissue, ratio, simulated in realism.compare(real, 120):
            p1, p5, p95, p99 = np.percentile(simulated, (1, 5, 95, 99))
            inside.append(p5 <= ratio <= p95)
            within.append((p1 <= ratio <= p99, f"{real.name} {tissue}"))
    assert np.mean(inside) >= 0.85
    assert [name for good, name in within if not good] == []
