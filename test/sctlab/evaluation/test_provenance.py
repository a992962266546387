"""Seen cases and mismatched registrations."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluation_cohort import write_provenance

from sctlab.evaluation.provenance import (
    ALIGNED,
    Registration,
    mismatches,
    read_prediction_provenance,
    reference_registration,
)
from sctlab_model.cases import Case, Region, Task
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import write_json


def _case(name: str, region: Region = Region.AB) -> Case:
    return Case(name, Task.MRI, Path("mr.mha"), region=region)


def test_without_a_file_nothing_is_known(tmp_path: Path) -> None:
    provenance = read_prediction_provenance(tmp_path)
    assert provenance.seen_by(_case("1ABA001")) == []
    assert "unknown" in mismatches([], [Registration("elastix", "ct_to_source")])[0]


def test_a_seen_case_is_one_whose_predicting_fold_was_trained_on_it(tmp_path: Path) -> None:
    training = {"AB+TH/0": ["1ABA001"], "AB+TH/1": ["1ABA002"], "HN/0": ["1ABA003"]}
    cases = [{"case": "1ABA001", "folds": [1]}, {"case": "1ABA002", "folds": [0, 1]}]
    write_provenance(tmp_path, training=training, cases=cases)
    provenance = read_prediction_provenance(tmp_path)
    assert provenance.seen_by(_case("1ABA001")) == []  # only the other fold predicted it
    assert provenance.seen_by(_case("1ABA002")) == ["AB+TH/1"]
    assert provenance.seen_by(_case("1ABA003")) == []  # a fold for another region
    write_provenance(tmp_path, training=training)  # nothing is said about folds: all count
    assert read_prediction_provenance(tmp_path).seen_by(_case("1ABA001")) == ["AB+TH/0"]
    assert read_prediction_provenance(tmp_path).seen_by(Case("1ABA001", Task.CBCT, Path("cbct.mha"))) == []


@pytest.mark.parametrize(
    "text", ["[]", '{"bundles": 3}', '{"bundles": {"xray": {}}}', "{", '{"cases": [{"folds": [1]}]}']
)
def test_another_file_of_that_name_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "predictions.json").write_text(text)
    with pytest.raises(InputError):
        read_prediction_provenance(tmp_path)


def test_mismatches_are_said_and_agreement_is_silent() -> None:
    elastix, impact = Registration("elastix", "ct_to_source"), Registration("impact", "source_to_ct")
    assert mismatches([elastix], [elastix, elastix]) == []
    (line,) = mismatches([impact], [elastix])
    assert "impact / source_to_ct" in line
    assert "elastix / ct_to_source" in line
    assert any("different ways" in line for line in mismatches([elastix], [elastix, impact]))
    assert any("isn't recorded" in line for line in mismatches([elastix], [Registration()]))


def test_the_reference_s_registration_comes_from_its_pair(tmp_path: Path) -> None:
    reference = tmp_path / "ct.mha"
    assert reference_registration(tmp_path, reference) == Registration()
    write_json(tmp_path / "pair.json", {"method": "elastix", "convention": "ct_to_source"})
    assert reference_registration(tmp_path, reference) == Registration("elastix", "ct_to_source")
    assert reference_registration(tmp_path, tmp_path / "truth" / "ct_aligned.mha") == ALIGNED


def test_pairs_that_needed_no_registration_are_one_kind() -> None:
    assert Registration.of("simulated-aligned", "ct_to_source") == ALIGNED
    assert Registration.of("anything", "aligned") == ALIGNED
    assert Registration.of("as delivered", "unknown") == Registration()
