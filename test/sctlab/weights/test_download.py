"""Downloads go on where they broke off, and a file appears whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from sctlab.weights.download import fetch_url
from sctlab_model.errors import InputError

DATA = np.random.default_rng(0).bytes(3_000_000)


class Server(ThreadingHTTPServer):
    """Serves DATA; `cut` ends an answer after so many bytes; `ranges` is what was asked for."""

    cut: int | None = None
    honours_ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
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
        self.send_header("Content-Length", str(len(DATA) - start))
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


def test_it_goes_on_where_it_broke_off(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "below" / "file"
    server.cut = 1_200_000
    for _ in range(2):
        with pytest.raises(InputError, match="broke off") as caught:
            fetch_url(server.url, path)
        assert "\n" not in str(caught.value)
        assert not path.exists()
    server.cut = None
    seen: list[tuple[int, int]] = []
    assert fetch_url(server.url, path, progress=lambda *pair: seen.append(pair)).read_bytes() == DATA
    assert server.ranges == [None, "bytes=1200000-", "bytes=2400000-"]
    assert seen[-1] == (len(DATA), len(DATA))
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.incomplete").write_bytes(b"x" * 1000)
    server.honours_ranges = False
    assert fetch_url(server.url, tmp_path / "file").read_bytes() == DATA


@pytest.mark.parametrize("left", [len(DATA), len(DATA) + 5])
def test_what_is_here_already(server: Server, tmp_path: Path, left: int) -> None:
    """A try that broke off between the last byte and the renaming; and leftovers of another, longer file."""
    (tmp_path / "file.incomplete").write_bytes((DATA + b"other")[:left])
    assert fetch_url(server.url, tmp_path / "file").read_bytes() == DATA


def test_no_file_and_no_network_are_one_sentence(server: Server, tmp_path: Path) -> None:
    for url, text in ((server.url + "s", "404"), ("http://127.0.0.1:9/file", "can't be reached")):
        with pytest.raises(InputError, match=text) as caught:
            fetch_url(url, tmp_path / "file")
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
