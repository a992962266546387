"""Records of registration: what older releases wrote is read, what isn't a record is refused with file and key."""

from __future__ import annotations

import json

import pytest

from sctlab.registration.records import PAIR, ExclusionsRecord, PairRecord, QualityRecord
from sctlab_model.errors import InputError


def test_files_of_older_releases_are_read(tmp_path):
    (tmp_path / PAIR).write_text(json.dumps({"method": "elastix", "convention": "ct_to_source", "extra": 1}))
    record = PairRecord.of(tmp_path)
    assert record is not None
    assert (record.method, record.convention, record.patient) == ("elastix", "ct_to_source", "")
    record.write(tmp_path / PAIR)
    again = json.loads((tmp_path / PAIR).read_text())
    assert again["version"] == PairRecord.current_version
    assert again["extra"] == 1


def test_a_folder_without_a_record_has_none(tmp_path):
    assert PairRecord.of(tmp_path) is None
    assert QualityRecord.of(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "a JSON list"),
        ("{", "not JSON"),
        ('{"version": 99}', "version 99"),
        ('{"seconds": "long"}', "seconds: .*number"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, text, message):
    (tmp_path / PAIR).write_text(text)
    with pytest.raises(InputError, match=message):
        PairRecord.of(tmp_path)


def test_exclusions_keep_doubtful_cases_apart(tmp_path):
    ExclusionsRecord(exclude={"A": "failed"}, doubtful={"B": "look"}, cases=2).write(tmp_path / "exclusions.json")
    from sctlab.cohort.exclusions import read_exclusions

    assert set(read_exclusions(tmp_path / "exclusions.json")) == {"A"}
