"""Text files that people write: with a byte order mark, in UTF-16, with the line ends of any system."""

from __future__ import annotations

import codecs
from pathlib import Path

from sctlab_model.errors import InputError
from sctlab_model.io.paths import not_a_file

MAX_TEXT_BYTES = 1 << 24
# The longer marks first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_text(path: str | Path, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    r"""Read a text file; its lines end with `\n`, whatever they end with in the file.

    The encoding follows the byte order mark. Without one it is UTF-8, or Windows-1252 where that fails: older
    editors write it, and only umlauts in comments differ.

    Raises:
        InputError: Missing, larger than `max_bytes`, or not text.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, found=not_a_file(path), expected="a text file")
    try:
        with path.open("rb") as handle:
            raw = handle.read(max_bytes + 1)
    except OSError as error:
        raise InputError(
            path, found=f"can't be read ({error.strerror or error})", expected="a readable file"
        ) from error
    if len(raw) > max_bytes:
        raise InputError(path, found=f"more than {max_bytes} bytes", expected="a text file of ordinary size")
    return decode_text(raw, path).replace("\r\n", "\n").replace("\r", "\n")


def decode_text(raw: bytes, where: str | Path) -> str:
    """Text of unknown encoding, see `read_text`.

    Raises:
        InputError: Bytes that are no text.
    """
    mark, encoding = next(((m, e) for m, e in _MARKS if raw.startswith(m)), (b"", ""))
    candidates = (encoding,) if encoding else ("utf-8", "cp1252")
    for candidate in candidates:
        try:
            text = raw[len(mark) :].decode(candidate)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise InputError(
        where, found="bytes that are no text", expected="a text file", advice="save it as plain text in UTF-8"
    )
