"""Downloads go on where they broke off, and a file appears whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from sctlab.weights.download import TRIES, fetch_url
from sctlab_model.errors import ProductError, WeightsError

DATA = np.random.default_rng(0).bytes(3_000_000)


class Server(ThreadingHTTPServer):
    """Serves DATA; `cut` ends an answer after so many bytes; `ranges` is what was asked for."""

    cut: int | None = None
    honours_ranges = True
    shift = 0  # of the bytes that a partial answer brings, as its header says
    busy: list[tuple[int, str | None]]  # answers before the others: code and Retry-After
    length: str | None = None  # a Content-Length that is not so

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.busy = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if self.server.busy:
            code, after = self.server.busy.pop(0)
            self.send_response(code)
            if after is not None:
                self.send_header("Retry-After", after)
            self.end_headers()
            return
        if self.path in ("/elsewhere", "/loop"):
            self.send_response(302)
            self.send_header("Location", "/loop" if self.path == "/loop" else "/file")
            self.end_headers()
            return
        if self.path != "/file":
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.honours_ranges else 0
        if start >= len(DATA):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(DATA)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            start += self.server.shift
            self.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        self.send_header("Content-Length", self.server.length or str(len(DATA) - start))
        self.end_headers()
        self.wfile.write(DATA[start : None if self.server.cut is None else start + self.server.cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def failure(url: str, path: Path, **options: object) -> ProductError:
    with pytest.raises(ProductError) as caught:
        fetch_url(url, path, **{"pause": lambda _: None} | options)
    assert "\n" not in str(caught.value)
    return caught.value


def test_it_goes_on_where_it_broke_off(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "below" / "file"
    server.cut = 1_200_000
    seen: list[tuple[int, int]] = []
    fetch_url(server.url, path, progress=lambda *pair: seen.append(pair), pause=lambda _: None)
    assert path.read_bytes() == DATA
    assert server.ranges == [None, "bytes=1200000-", "bytes=2400000-"]
    assert seen[-1] == (len(DATA), len(DATA))
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_what_has_come_is_kept_for_the_next_call(server: Server, tmp_path: Path) -> None:
    """After so many tries that bring nothing more it ends."""
    (tmp_path / "file.incomplete").write_bytes(DATA[:1_200_000])
    server.cut = 0
    assert "broke off" in str(failure(server.url, tmp_path / "file"))
    assert "1 MB are here" in str(failure(server.url, tmp_path / "file"))
    assert server.ranges == ["bytes=1200000-"] * 2 * TRIES
    assert not (tmp_path / "file").exists()
    server.cut = None
    assert fetch_url(server.url, tmp_path / "file").read_bytes() == DATA
    assert server.ranges[-1] == "bytes=1200000-"


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.incomplete").write_bytes(b"x" * 1000)
    server.honours_ranges = False
    assert fetch_url(server.url, tmp_path / "file").read_bytes() == DATA


@pytest.mark.parametrize("shift", [-500, 500])
def test_other_bytes_than_those_asked_for_are_not_taken(server: Server, tmp_path: Path, shift: int) -> None:
    (tmp_path / "file.incomplete").write_bytes(DATA[:1000])
    server.shift = shift
    assert fetch_url(server.url, tmp_path / "file").read_bytes() == DATA
    assert server.ranges == ["bytes=1000-", None]


@pytest.mark.parametrize("left", [len(DATA), len(DATA) + 5])
@pytest.mark.parametrize("size", [None, len(DATA)])
def test_what_is_here_already(server: Server, tmp_path: Path, left: int, size: int | None) -> None:
    """A try that broke off between the last byte and the renaming; and leftovers of another, longer file."""
    (tmp_path / "file.incomplete").write_bytes((DATA + b"other")[:left])
    assert fetch_url(server.url, tmp_path / "file", size=size).read_bytes() == DATA


def test_a_busy_server_is_asked_again_when_it_says(server: Server, tmp_path: Path) -> None:
    server.busy = [(429, "7"), (503, None)]
    pauses: list[float] = []
    assert fetch_url(server.url, tmp_path / "file", pause=pauses.append).read_bytes() == DATA
    assert pauses == [7.0, 4.0]


@pytest.mark.parametrize(("after", "asked", "advice"), [("3600", 1, "in 3600 s"), (None, TRIES, "later")])
def test_a_server_that_stays_busy_is_one_sentence(
    server: Server, tmp_path: Path, after: str | None, asked: int, advice: str
) -> None:
    server.busy = [(503, after)] * 9
    error = failure(server.url, tmp_path / "file")
    assert "busy (503" in str(error)
    assert f"run it again {advice}" in str(error)
    assert len(server.ranges) == asked


def test_redirects(server: Server, tmp_path: Path) -> None:
    elsewhere = server.url.replace("/file", "/elsewhere")
    (tmp_path / "file.incomplete").write_bytes(DATA[:1000])
    assert fetch_url(elsewhere, tmp_path / "file").read_bytes() == DATA
    assert server.ranges == ["bytes=1000-"] * 2
    assert "refused it (302" in str(failure(server.url.replace("/file", "/loop"), tmp_path / "other"))


@pytest.mark.parametrize("length", ["5000000", "many"])
def test_a_length_that_is_not_so(server: Server, tmp_path: Path, length: str) -> None:
    """More than comes is a break, after which the server says that this is all; what is no number is none."""
    server.length = length
    assert fetch_url(server.url, tmp_path / "file", pause=lambda _: None).read_bytes() == DATA
    assert server.ranges == [None] if length == "many" else [None, f"bytes={len(DATA)}-"]


def test_another_file_takes_nothing_that_is_here(server: Server, tmp_path: Path) -> None:
    """A page of a portal, for instance, in the place of the file: half of it has cost hours."""
    part = tmp_path / "file.incomplete"
    part.write_bytes(DATA[:1000])
    server.honours_ranges = False
    error = failure(server.url, tmp_path / "file", size=9_000_000)
    assert isinstance(error, WeightsError)
    assert "sends 3000000 bytes; expected 9000000 bytes" in str(error)
    assert part.read_bytes() == DATA[:1000]
    server.length = "many"  # no size is said: more than it has is not read on
    assert "expected 1500 bytes" in str(failure(server.url, tmp_path / "file", size=1500))
    assert not part.exists()


def test_no_file_no_network_and_no_address_are_one_sentence(server: Server, tmp_path: Path) -> None:
    pauses: list[float] = []
    for url, text in (
        (server.url + "s", "404"),
        ("http://127.0.0.1:9/file", "can't be reached"),
        ("odd://host/file", "odd"),
        ("http://host:port/file", "no address"),
        ("http://[/file", "no address"),
    ):
        assert text in str(failure(url, tmp_path / "file", pause=pauses.append))
    assert not pauses  # said at once
    assert not list(tmp_path.iterdir())
