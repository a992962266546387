"""Text files from any editor."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from sctlab_model.errors import InputError
from sctlab_model.io.text import read_text

LINES = "# ausgeschlossen: Schädel\n1ABA001\n1ABA002\n"


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
        ("utf-32-be", codecs.BOM_UTF32_BE),
        ("cp1252", b""),
    ],
)
def test_every_encoding_and_line_end(tmp_path: Path, encoding: str, mark: bytes, newline: str) -> None:
    (tmp_path / "a.txt").write_bytes(mark + LINES.replace("\n", newline).encode(encoding))
    assert read_text(tmp_path / "a.txt") == LINES


@pytest.mark.parametrize(
    "raw", [b"\0\1\2", b"a\0b", LINES.encode("utf-16-le"), codecs.BOM_UTF16_LE + b"\0", b"x" * 2000]
)
def test_what_is_no_text_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(raw)
    with pytest.raises(InputError, match=r"a\.txt"):
        read_text(tmp_path / "a.txt", max_bytes=1000)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_text(tmp_path / "a.txt")
