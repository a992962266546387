"""One file over https: resumed where it broke off, whole under its name or not at all."""

from __future__ import annotations

import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote, urlsplit

from sctlab_model.errors import InputError, ResourceError, WeightsError
from sctlab_model.io.atomic import writing_error
from sctlab_model.io.content import content_of

ENDPOINT = "https://huggingface.co"
TIMEOUT_S = 20
CHUNK = 1 << 20
TRIES = 3  # in a row that bring nothing new
LONGEST_PAUSE_S = 60
FETCH_AGAIN = "fetch it again (`git lfs pull` in a clone)"
_BUSY = {
    HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT,
}  # fmt: skip
_BREAKS = (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException)
_NO_ADDRESS = (ValueError, http.client.InvalidURL)
Progress = Callable[[int, int], None]


def hub_url(repository: str, revision: str, file: str, endpoint: str | None = None) -> str:
    """Where a file of the Hugging Face hub, or of a mirror of it, lies; `HF_ENDPOINT` names a mirror too."""
    root = (endpoint or os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
    return f"{root}/{repository}/resolve/{quote(revision, safe='')}/{quote(file)}"


def fetch_url(
    url: str,
    path: Path,
    *,
    size: int | None = None,
    progress: Progress | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Path:
    """Download into `path`, going on from what an earlier try left in `path` with `.incomplete` behind its name.

    A server that is busy or breaks off is asked again as long as more comes, and `TRIES` times where nothing does. The
    caller sees to it that nobody else fetches into `path` (`one_at_a_time`).

    Args:
        url: http or https.
        path: The file; it appears when everything is there. What it holds is the caller's to check.
        size: Bytes that the file has, where that is known: a server that has another file takes nothing that is here.
        progress: Called with the bytes that are here and the bytes of the whole (0 where the server doesn't say).
        pause: Waits so many seconds.

    Raises:
        InputError: The server can't be reached, broke off, or refused; what has come is kept for the next try.
        WeightsError: The server's file has another size.
        ResourceError: The disk is full.
    """
    part = path.with_name(path.name + ".incomplete")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _persist(url, part, size, progress, pause)
        part.replace(path)
    except urllib.error.HTTPError as error:
        raise _refusal(url, part, error) from error
    except _NO_ADDRESS as error:
        raise InputError(url, found=f"no address ({error})", expected="https://HOST/…") from error
    except _BREAKS as error:
        raise InputError(
            url,
            found=f"{_host(url)} can't be reached or broke off ({getattr(error, 'reason', None) or error}){_here(part)}",
            expected="a network connection",
            advice="run it again to go on, or copy the files and give their folder with --from",
        ) from error
    except OSError as error:
        raise writing_error(path, error) from error
    return path


def other_file(path: Path) -> str:
    """What stands in the place of a file that was fetched: the pointer of Git LFS, or a page; nothing where neither does."""
    content = content_of(path)
    return content.what if content is not None and content.what.startswith(("a pointer of", "a web page")) else ""


def _persist(url: str, part: Path, size: int | None, progress: Progress | None, pause: Callable[[float], None]) -> None:
    """Ask until everything is here, or until a try in a row of `TRIES` has brought nothing more."""
    most = first = _size(part)
    vain = 0
    while True:
        try:
            return _receive(url, part, size, progress)
        except _BREAKS as error:
            code = getattr(error, "code", None)
            vain = 0 if _size(part) > most else vain + 1
            most = max(most, _size(part))
            wait = _asked_pause(error) or 2.0**vain
            if code is not None:
                hopeless = code not in _BUSY
            else:  # no network at all is said at once
                hopeless = isinstance(error, (urllib.error.URLError, *_NO_ADDRESS)) and most == first
            if hopeless or vain >= TRIES or wait > LONGEST_PAUSE_S:
                raise
            pause(wait)


def _receive(url: str, part: Path, size: int | None, progress: Progress | None) -> None:
    start = _size(part)
    if size is not None and start > size:
        part.unlink()
        start = 0
    # A server may pack what it sends: then ranges would be of the packed bytes.
    headers = {"User-Agent": "sctlab", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        if _range_total(error.headers.get("Content-Range", "")) == start:
            return  # everything was here already
        part.unlink()
        return _receive(url, part, size, progress)
    with response:
        resumed = response.status == HTTPStatus.PARTIAL_CONTENT
        if resumed and _range_start(response.headers.get("Content-Range", "")) != start:
            part.unlink(missing_ok=True)  # other bytes than those that were asked for
            if not start:
                raise http.client.HTTPException("a part, where the whole file was asked for")
            return _receive(url, part, size, progress)
        here = start if resumed else 0
        text = response.headers.get("Content-Length") or ""
        length = int(text) if text.isdecimal() else 0
        total = here + length if length else 0
        if size is not None and total not in (0, size):
            raise _other_size(url, total, size)
        free = os.statvfs(part.parent).f_bavail * os.statvfs(part.parent).f_frsize
        if length > free:
            raise ResourceError(part, found=f"{free / 1e6:.0f} MB free", expected=f"{length / 1e6:.0f} MB")
        with part.open("ab" if resumed else "wb") as handle:
            while block := _read(response):
                handle.write(block)
                here += len(block)
                if size is not None and here > size:
                    break
                if progress is not None:
                    progress(here, total)
        if size is not None and here > size:
            part.unlink()
            raise _other_size(url, here, size)
        if here < (total or size or 0):
            raise ConnectionError(f"{here} of {total or size} bytes came")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except OSError as error:  # of the network, not of the disk
        raise ConnectionError(str(error)) from error


def _refusal(url: str, part: Path, error: urllib.error.HTTPError) -> InputError:
    if error.code in _BUSY:
        asked = _asked_pause(error)
        return InputError(
            url,
            found=f"{_host(url)} is busy ({error.code} {error.reason}){_here(part)}",
            expected="the file",
            advice=f"run it again {f'in {asked:.0f} s' if asked else 'later'} to go on",
        )
    return InputError(url, found=f"{_host(url)} refused it ({error.code} {error.reason})", expected="a public file")


def _other_size(url: str, found: int, size: int) -> WeightsError:
    return WeightsError(
        url,
        found=f"{_host(url)} sends {found} bytes",
        expected=f"{size} bytes",
        advice="it isn't the published file",
    )


def _asked_pause(error: Exception) -> float:
    """Seconds of the answer's Retry-After; 0 where there is none, or a date."""
    headers = getattr(error, "headers", None)
    text = str(headers.get("Retry-After") or "") if headers is not None else ""
    return float(text) if text.isdecimal() else 0.0


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return url


def _here(part: Path) -> str:
    return f", {_size(part) / 1e6:.0f} MB are here" if part.is_file() else ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _range_start(text: str) -> int | None:
    """The first byte in `bytes FIRST-LAST/SIZE`."""
    found = re.match(r"\s*bytes\s+(\d+)-", text)
    return int(found[1]) if found else None


def _range_total(text: str) -> int | None:
    """The size in `bytes */SIZE`."""
    size = text.rpartition("/")[2]
    return int(size) if size.isdecimal() else None
