"""The story of a case, as the report tells it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sctlab_model.cases import Case, Task
from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume
from sctlab_model.predictions import ResultRecord
from sctlab_model.resampling import describe_resampling
from sctlab_model.synthesiser import Synthesiser
from sctlab_model.volume import Volume


@pytest.fixture
def case(tmp_path: Path, cbct: Volume, outline: Volume) -> Case:
    source = write_volume(cbct.with_array(cbct.array.astype(np.int16)), tmp_path / "in/a.mha")
    return Case("a", Task.CBCT, source, write_volume(outline, tmp_path / "in/mask.mha"), output_name="deep/a.mha")


def test_report(case: Case, cbct_bundle: Path, tmp_path: Path) -> None:
    steps = []
    synthesiser = Synthesiser(cbct_bundle, "cpu", batch=3)
    report = synthesiser.synthesise(case, tmp_path / "out", progress=lambda done, total: steps.append((done, total)))
    assert (report.output, report.warnings, report.folds, report.batch, report.slices) == (
        "deep/a.mha",
        [],
        [0, 1],
        3,
        10,
    )
    assert steps == [(n, 10) for n in range(1, 11)]
    assert report.seconds["network"] <= report.seconds["predict"]
    assert set(report.statistics) == {"lower", "upper", "outside"}
    assert report.software.device.startswith("cpu")
    use = synthesiser.bundle_use(Task.CBCT)
    assert use.demonstration is True
    assert report.bundle == use.id


def test_the_same_case_twice_is_the_same(case: Case, cbct_bundle: Path, tmp_path: Path) -> None:
    synthesiser = Synthesiser(cbct_bundle, "cpu")
    for folder in ("one", "two"):
        synthesiser.synthesise(case, tmp_path / folder)
    one, two = (read_volume(tmp_path / folder / "deep/a.mha").array for folder in ("one", "two"))
    np.testing.assert_array_equal(one, two)
    assert one.std() > 1


def test_batch_sizes_agree_in_the_file(case: Case, cbct_bundle: Path, tmp_path: Path) -> None:
    arrays = []
    for batch in (1, 32):
        Synthesiser(cbct_bundle, "cpu", batch=batch).synthesise(case, tmp_path / str(batch))
        arrays.append(read_volume(tmp_path / str(batch) / "deep/a.mha").array.astype(int))
    assert np.abs(arrays[0] - arrays[1]).max() <= 1  # 0.5 HU, rounded


def test_resampling_is_told(case: Case, cbct: Volume, outline: Volume, cbct_bundle: Path, tmp_path: Path) -> None:
    """As information; as a warning where slices are far apart, or voxels far finer than the network's."""
    assert isinstance(case.source, Path)
    assert isinstance(case.mask, Path)
    grid = replace(cbct.geometry, spacing_xyz=(5, 5, 8))
    write_volume(Volume(cbct.array.astype(np.int16), grid), case.source)
    write_volume(Volume(outline.array, grid), case.mask)
    report = Synthesiser(cbct_bundle, "cpu").synthesise(case, tmp_path / "out")
    assert report.notes == ["resampled from 5x5x8 to 6x6x6 mm for the network; the sCT lies on the image's own grid"]
    assert report.warnings == []
    written = ResultRecord.read(tmp_path / "out/deep/a.record.json").result
    assert written.notes == report.notes
    for own, words in (((6, 6, 14), "slices every 14 mm (head to feet)"), ((1.5, 6, 6), "much finer")):
        note, warnings = describe_resampling(own, (6, 6, 6))
        assert note.startswith("resampled from")
        assert len(warnings) == 1
        assert words in warnings[0]


def test_a_refused_case_leaves_nothing_and_the_next_one_works(case: Case, cbct_bundle: Path, tmp_path: Path) -> None:
    synthesiser = Synthesiser(cbct_bundle, "cpu")
    with pytest.raises(InputError):
        synthesiser.synthesise(replace(case, source=tmp_path / "absent.mha"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert synthesiser.synthesise(case, tmp_path / "out").output == "deep/a.mha"
