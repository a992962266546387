"""Lists of cases to leave out, as people and programs write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sctlab.cohort.exclusions import excluded_keys, read_exclusions
from sctlab_model.errors import InputError


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "a.txt",
            "1ABA000 misregistered\n# comment\n1ABA001\n",
            {"1ABA000": "excluded: misregistered", "1ABA001": "excluded"},
        ),
        ("a.csv", "1ABA000;folded\n", {"1ABA000": "excluded: folded"}),
        ("a.txt", "Task1/AB/1ABA000 folded", {"Task1/AB/1ABA000": "excluded: folded"}),
        ("a.json", '{"exclude": [{"key": "Task1/AB/1ABA000"}]}', {"Task1/AB/1ABA000": "excluded"}),
        ("a.json", '["1ABA000"]', {"1ABA000": "excluded"}),
        ("a.json", '{"1ABA000": "folded"}', {"1ABA000": "excluded: folded"}),
        ("a.json", '{"exclude": [{"id": "1ABA000", "reason": "folded"}]}', {"1ABA000": "excluded: folded"}),
    ],
)
def test_exclusion_lists(tmp_path: Path, name: str, text: str, expected: dict[str, str]) -> None:
    (tmp_path / name).write_text(text)
    assert read_exclusions(tmp_path / name) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-mark", "utf-32"])
@pytest.mark.parametrize("suffix", [".txt", ".json"])
def test_lists_of_every_editor_are_read(tmp_path: Path, encoding: str, suffix: str) -> None:
    text = '["1ABA000"]' if suffix == ".json" else "1ABA000\r\n"
    data = b"\xfe\xff" + text.encode("utf-16-be") if encoding == "utf-16-be-mark" else text.encode(encoding)
    (tmp_path / f"list{suffix}").write_bytes(data)
    assert read_exclusions(tmp_path / f"list{suffix}") == {"1ABA000": "excluded"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("1ABA000".encode("utf-16-le"), "no text"),
        (b"1ABA000\0", "no text"),
        (b"\xff\xfe1", "no text"),
    ],
)
def test_other_encodings_are_refused(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "list.txt").write_bytes(data)
    with pytest.raises(InputError, match=words):
        read_exclusions(tmp_path / "list.txt")


@pytest.mark.parametrize("text", ["3", '"1ABA000"', "[[1]]", '{"exclude": 3}', "["])
def test_json_that_is_no_list_of_ids_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(InputError, match=r"list\.json"):
        read_exclusions(tmp_path / "list.json")


KEYS = ("Task1/AB/1ABA000", "Task1/HN/1HNA001", "Task2/HN/1HNA001")


def test_entries_are_ids_or_keys() -> None:
    assert excluded_keys({"1ABA000": "a", "Task2/HN/1HNA001": "b"}, KEYS, "list") == {
        "Task1/AB/1ABA000": "a",
        "Task2/HN/1HNA001": "b",
    }


def test_an_entry_that_fits_no_case_is_an_error() -> None:
    """A typo, or the mark of an editor: the case that was meant would be trained on."""
    with pytest.raises(InputError, match=r"1 of 2 entries fit no case .'1ABA00O'.*is '1ABA000' meant"):
        excluded_keys({"1ABA00O": "a", "Task1/HN/1HNA001": ""}, KEYS, "list")
    with pytest.raises(InputError, match="fits Task1/HN/1HNA001, Task2/HN/1HNA001"):
        excluded_keys({"1HNA001": "a"}, KEYS, "list")
