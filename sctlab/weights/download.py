"""One file over https: resumed where it broke off, whole under its name or not at all."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlsplit

from sctlab_model.errors import InputError, ResourceError
from sctlab_model.io.atomic import writing_error

ENDPOINT = "https://huggingface.co"
TIMEOUT_S = 20
CHUNK = 1 << 20
_NOT_SATISFIABLE = 416


def hub_url(repository: str, revision: str, file: str, endpoint: str | None = None) -> str:
    """Where a file of the Hugging Face hub, or of a mirror of it, lies; `HF_ENDPOINT` names a mirror too."""
    root = (endpoint or os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
    return f"{root}/{repository}/resolve/{quote(revision, safe='')}/{quote(file)}"


def fetch_url(url: str, path: Path, *, progress: Callable[[int, int], None] | None = None) -> Path:
    """Download into `path`, going on from what an earlier try left in `path` with `.incomplete` behind its name.

    Args:
        url: http or https.
        path: The file; it appears when everything is there. What it holds is the caller's to check.
        progress: Called with the bytes that are here and the bytes of the whole (0 where the server doesn't say).

    Raises:
        InputError: The server can't be reached, broke off, or refused; what has come is kept for the next try.
        ResourceError: The disk is full.
    """
    host = urlsplit(url).netloc
    part = path.with_name(path.name + ".incomplete")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_error(path, error) from error
    try:
        _receive(url, part, progress)
    except urllib.error.HTTPError as error:
        raise InputError(
            url, found=f"{host} refused it ({error.code} {error.reason})", expected="a public file"
        ) from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        here = f", {part.stat().st_size / 1e6:.0f} MB are here" if part.is_file() else ""
        raise InputError(
            url,
            found=f"{host} can't be reached or broke off ({getattr(error, 'reason', None) or error}){here}",
            expected="a network connection",
            advice="run it again to go on, or copy the files and give their folder with --from",
        ) from error
    except OSError as error:
        raise writing_error(path, error) from error
    part.replace(path)
    return path


def _receive(url: str, part: Path, progress: Callable[[int, int], None] | None) -> None:
    start = part.stat().st_size if part.is_file() else 0
    # A server may pack what it sends: then ranges would be of the packed bytes.
    headers = {"User-Agent": "sctlab", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != _NOT_SATISFIABLE or not start:
            raise
        if _range_total(error.headers.get("Content-Range", "")) == start:
            return  # everything was here already
        part.unlink()
        return _receive(url, part, progress)
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        here = start if resumed else 0
        length = int(response.headers.get("Content-Length") or 0)
        total = here + length if length else 0
        free = os.statvfs(part.parent).f_bavail * os.statvfs(part.parent).f_frsize
        if length > free:
            raise ResourceError(part, found=f"{free / 1e6:.0f} MB free", expected=f"{length / 1e6:.0f} MB")
        with part.open("ab" if resumed else "wb") as handle:
            while block := response.read(CHUNK):
                handle.write(block)
                here += len(block)
                if progress is not None:
                    progress(here, total)
        if total and here < total:
            raise ConnectionError(f"{here} of {total} bytes came")


def _range_total(text: str) -> int | None:
    """The size in `bytes */SIZE`."""
    size = text.rpartition("/")[2]
    return int(size) if size.isdigit() else None
