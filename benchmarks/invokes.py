"""A thousand invokes of one server, every second one hostile: all are answered, and the server does not grow.

    python benchmarks/invokes.py --invokes 1000 --out benchmarks/invokes.json

The server is `process.py --serve` in a process of its own, with a tiny bundle. Good cases must give the same voxels every
time; hostile ones must be refused (422) or, where the platform's rule is to warn, be answered with a warning; a refusal
leaves no file. Memory, threads and open files of the server are read after every tenth.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from tiny import tiny_bundle, trunk

from sctlab_model.io.writing import write_volume

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 100  # caches and allocators fill
GROWTH_MB = 30
Maker = Callable[[Path], None]


def good(folder: Path) -> None:
    """A case of Grand Challenge's layout."""
    image, mask = trunk()
    write_volume(image, folder / "images/cbct/one.mha")
    write_volume(mask, folder / "images/body/one.mha")
    (folder / "region.json").write_text('"Abdomen"')


def instead(name: str, content: bytes) -> Maker:
    """A case whose image is another file."""

    def make(folder: Path) -> None:
        good(folder)
        (folder / "images/cbct/one.mha").unlink()
        (folder / "images/cbct" / name).write_bytes(content)

    return make


def values(change: Callable[[np.ndarray], np.ndarray]) -> Maker:
    """A case with other voxels."""

    def make(folder: Path) -> None:
        good(folder)
        image = trunk()[0]
        write_volume(image.with_array(change(image.array)), folder / "images/cbct/one.mha")

    return make


def _hole(array: np.ndarray) -> np.ndarray:
    array = array.astype(np.float32)
    array[4, 20, 30] = np.nan
    return array


def _link(folder: Path) -> None:
    good(folder)
    (folder / "images/cbct/one.mha").unlink()
    (folder / "images/cbct/one.mha").symlink_to("/etc/passwd")


def _two(folder: Path) -> None:
    good(folder)
    shutil.copy(folder / "images/cbct/one.mha", folder / "images/cbct/two.mha")


def _not_utf8(folder: Path) -> None:
    good(folder)
    os.rename(folder / "images/cbct/one.mha", os.fsencode(folder / "images/cbct") + b"/\xff\xfe.mha")  # noqa: PTH104


def _no_region(folder: Path) -> None:
    good(folder)
    (folder / "region.json").write_text("{" * 5000)


def _flipped(folder: Path) -> bytes:
    good(folder)
    path = folder / "flip.nii.gz"
    write_volume(trunk()[0], path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    return bytes(data)


def hostile(folder: Path) -> dict[str, Maker]:
    """Cases by what is wrong with them."""
    header = b"NRRD0005\ntype: short\ndimension: 3\nsizes: 4 4 4\nencoding: raw\n"
    bomb = bytearray(352)
    struct.pack_into("<i8h", bomb, 0, 348, *(0,) * 8)
    struct.pack_into("<8h", bomb, 40, 3, 2000, 2000, 2000, 1, 1, 1, 1)
    struct.pack_into("<2h", bomb, 70, 4, 16)
    struct.pack_into("<8f", bomb, 76, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<f2h", bomb, 108, 352, 1, 1)
    bomb[344:348] = b"n+1\0"
    return {
        "NRRD with a long line": instead("one.nrrd", header + b"kinds: " + b"A" * 5000 + b"\n\n" + b"\0" * 128),
        "NRRD with a hidden data file": instead("one.nrrd", header + b"content: x\rdata file: /etc/passwd\n\n"),
        "HDF5 as NRRD": instead("one.nrrd", b"\x89HDF\r\n\x1a\n" + b"\0" * 4000),
        "a flipped bit in gzip": instead("one.nii.gz", _flipped(folder)),
        "a header of 16 GB": instead("one.nii.gz", gzip.compress(bytes(bomb) + b"\0" * 10000)),
        "MetaImage that is cut": instead("one.mha", b"ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\n"),
        "no image at all": instead("one.mha", os.urandom(3000)),
        "DICOM": instead("one.dcm", b"\0" * 128 + b"DICM" + b"\0" * 500),
        "a link out of the input": _link,
        "two images": _two,
        "a name that is no UTF-8": _not_utf8,
        "JSON without an end": _no_region,
        "NaN": values(_hole),
        "one value everywhere": values(np.zeros_like),
        "HU + 1024": values(lambda a: a + 1024),
        "noise": values(lambda a: np.random.default_rng(0).integers(-1000, 1500, a.shape).astype(np.int16)),
    }


WARNED = ("HU + 1024", "noise")


def post(port: int) -> tuple[int, dict]:
    """Status and answer of an invoke."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/invoke", method="POST", data=b"")
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def state(pid: int) -> tuple[float, int, int]:
    """Resident memory in MB, threads and open files of a process."""
    words = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines())
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return int(words["VmRSS"].split()[0]) / 1024, int(words["Threads"]), files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--invokes", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = run(Path(name), options.invokes)
    result = {"command": " ".join(["python", "benchmarks/invokes.py", *sys.argv[1:]]), **result}
    text = json.dumps(result, indent=2) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)
    sys.exit(bool(result["faults"]) or result["growth_mb"] > GROWTH_MB)


def run(folder: Path, invokes: int) -> dict:
    """Start the server, invoke it and stop it."""
    given, out = folder / "input", folder / "output"
    given.mkdir()
    scratch = folder / "scratch"
    kinds = list(hostile(scratch).items())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "process.py"), "--serve", "--port", str(port), "--device", "cpu",
               "--input", str(given), "--output", str(out), "--weights", str(tiny_bundle(folder / "bundle"))]  # fmt: skip
    log = (folder / "log").open("w")
    server = subprocess.Popen(command, stdout=log, stderr=log)
    statuses: dict[str, Counter[int]] = {}
    faults: list[str] = []
    states: list[tuple[int, tuple[float, int, int]]] = []
    results: set[str] = set()
    start = time.monotonic()
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
                if server.poll() is not None or time.monotonic() - start > 120:
                    raise SystemExit((folder / "log").read_text()) from None
        start = time.monotonic()
        for n in range(invokes):
            kind, make = ("good", good) if n % 2 == 0 else kinds[n // 2 % len(kinds)]
            for old in (given, out):
                shutil.rmtree(old, ignore_errors=True)
            given.mkdir()
            make(given)
            status, answer = post(port)
            statuses.setdefault(kind, Counter())[status] += 1
            files = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
            if status == 201:
                expected = ["images/synthetic-ct/one.mha", "results.json"]
                if kind == "good":
                    results.add(hashlib.sha256((out / expected[0]).read_bytes()).hexdigest())
                elif kind not in WARNED or not answer["warnings"]:
                    faults.append(f"{n}: {kind} was taken without a word")
            else:
                expected = []
                if kind == "good" or kind in WARNED or status != 422 or not answer.get("error"):
                    faults.append(f"{n}: {kind}: {status} {answer}")
            if files != expected:
                faults.append(f"{n}: {kind}: {status} left {files}")
            if n % 10 == 9:
                states.append((n + 1, state(server.pid)))
    finally:
        server.terminate()
        code = server.wait(30)
    if len(results) != 1:
        faults.append(f"{len(results)} different results of one case")
    warm = [s for n, s in states if n > min(WARM_UP, invokes // 2)]
    tenth = max(1, len(warm) // 10)
    growth = max(s[0] for s in warm[-tenth:]) - max(s[0] for s in warm[:tenth])
    return {
        "invokes": invokes,
        "answers": {kind: dict(count) for kind, count in statuses.items()},
        "faults": faults,
        "growth_mb": round(growth, 1),
        "memory_mb": [round(states[i][1][0]) for i in (0, len(states) // 2, -1)],
        "threads": sorted({s[1] for s in warm}),
        "open_files": sorted({s[2] for s in warm}),
        "exit_code_after_sigterm": code,
        "seconds": round(time.monotonic() - start),
    }


if __name__ == "__main__":
    main()
