"""A cohort and a single case can be simulated without the command line."""

import numpy as np
import pytest

from sctlab.simulation.case import simulate
from sctlab.simulation.cohort import simulate_cohort
from sctlab.simulation.settings import CaseSettings, SimulationSettings
from sctlab.simulation.truth import SimulationTruth
from sctlab_model.cases import Region, Task
from sctlab_model.errors import ExitCode, InputError
from sctlab_model.io.reading import read_volume
from sctlab_model.monitor import Monitor
from sctlab_model.settings import validate
from sctlab_model.volume import Volume

TINY = CaseSettings(spacing_xyz=(8, 8, 10), size_xyz=(52, 40, 14), amplitude_mm=4)


class Lines(Monitor):
    def __init__(self):
        self.lines = []

    def info(self, text):
        self.lines.append(text)


def test_a_cohort_is_simulated_once_and_kept(tmp_path):
    settings = SimulationSettings(regions=(Region.AB,), case=TINY)
    monitor = Lines()
    result = simulate_cohort(tmp_path, settings, monitor=monitor)
    assert (result.exit_code, result.kept, len(result.folders)) == (ExitCode.OK, 0, 1)
    assert simulate_cohort(tmp_path, settings, monitor=monitor).kept == 1
    assert monitor.lines == ["1 cases are there already"]
    with pytest.raises(InputError, match="a case made with"):
        simulate_cohort(tmp_path, settings.model_copy(update={"case": TINY.model_copy(update={"seed": 9})}))
    truth = SimulationTruth.read(result.folders[0] / "truth/truth.json")
    assert truth.options["amplitude_mm"] == 4
    assert truth.version == 1
    case = simulate(Task.MRI, Region.AB, TINY)  # the same without files
    assert np.array_equal(case.source.array, read_volume(result.folders[0] / "mr.mha").array)
    assert case.truth.motion == truth.motion


def test_a_case_that_fails_is_reported_not_raised(tmp_path):
    bad = SimulationSettings(regions=(Region.AB,), case=TINY, cts=(str(tmp_path / "no.nii.gz"),))
    result = simulate_cohort(tmp_path / "out", bad)
    assert result.exit_code == ExitCode.BAD_INPUT
    assert not result.folders
    assert "no.nii.gz" in result.outcomes[0].error


def test_a_ct_in_memory_becomes_a_case(abdomen):
    settings = CaseSettings(spacing_xyz=abdomen.geometry.spacing_xyz, amplitude_mm=0)
    ct, labels = Volume(abdomen.hu, abdomen.geometry), Volume(abdomen.label, abdomen.geometry)
    case = simulate(Task.MRI, Region.AB, settings, ct=ct, labels=labels)
    assert case.source.geometry.same_grid(case.ct_aligned.geometry)
    assert np.mean(case.labels_source.array == abdomen.label) > 0.98
    assert np.abs(case.motion.field).max() == 0


def test_a_truth_without_version_is_read(tmp_path):
    path = tmp_path / "truth.json"
    path.write_text('{"options": {"ct": "/data/CT1.nii.gz"}, "motion": {"amplitude_mm": 8.0}}')
    assert SimulationTruth.read(path).options["ct"] == "/data/CT1.nii.gz"


@pytest.mark.parametrize(
    ("key", "value"),
    [("centre", "ab"), ("cases", 0), ("regions", []), ("labels", ["a"]), ("case", {"size_xyz": [1, 1, 1]})],
)
def test_settings_that_mean_nothing_are_refused(key, value):
    with pytest.raises(InputError, match=key):
        validate(SimulationSettings, {key: value}, "settings of the simulation: centre, labels")


def test_a_place_that_cannot_be_written_to_is_told_before_a_case_is_made(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="a file where a folder belongs"):
        simulate_cohort(tmp_path / "out", SimulationSettings(regions=(Region.AB,), case=TINY))
