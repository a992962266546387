"""Read thousands of injured files: none may crash, hang, print, grow or pass for something that another reader sees otherwise.

    python benchmarks/fuzz.py --files 100000 --child-files 5000 --out benchmarks/fuzz.json
    python benchmarks/fuzz.py --seconds 40                       # what the tests run
    python benchmarks/fuzz.py --only 4711 --keep /tmp/file       # one file again

File `n` follows from the number n. Accepted images are compared with an independent reader: SimpleITK for MetaImage (in a
child, because it may crash), nibabel for NIfTI, pynrrd for NRRD; transforms with SimpleITK's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from fuzz_corpus import MAKERS, Sample, injured, store, transform_sample
from fuzz_oracles import cleaned

from sctlab_model.errors import ProductError
from sctlab_model.io.child import ReadingProcess
from sctlab_model.io.reading import read_volume
from sctlab_model.volume import Volume

MAX_VOXELS = 1 << 16
HANG_S = 10
GROWTH_BYTES = 64 << 20
MEMORY_BYTES = 3 << 30  # address space of a worker: asking for more is a failure of the bounds
LONGEST_MESSAGE = 600
CHILD_KINDS = (".h5", ".dcm")


class Wrong(Exception):
    """An accepted file that another reader sees otherwise, or an answer that isn't one sentence."""


def sample(number: int, child: bool) -> tuple[str, Sample]:
    """The kind and the injured file that a number stands for."""
    random = np.random.default_rng([number, int(child)])
    if child:
        kind = CHILD_KINDS[number % len(CHILD_KINDS)]
        return kind, transform_sample(random, kind)
    kinds = [*MAKERS, ".tfm", ".txt"]
    kind = kinds[number % len(kinds)]
    if kind in MAKERS:
        return kind, injured(MAKERS[kind](random, kind), random)
    return kind, transform_sample(random, kind)


def check(path: Path, kind: str, other: ReadingProcess) -> str:
    """Read one file: `accepted`, `refused`, or the name of what the other reader did."""
    try:
        found: Any
        if kind in MAKERS:
            found = read_volume(path, max_voxels=MAX_VOXELS)
        elif kind == ".dcm":
            from sctlab.dicom import read_dicom_series

            found = read_dicom_series(path.parent)
        else:
            from sctlab.transforms.files import read_transform

            found = read_transform(path).transform
    except ProductError as error:
        message = str(error)
        if "\n" in message or len(message) > LONGEST_MESSAGE + len(str(path)) or str(path.parent) not in message:
            raise Wrong(f"message: {message[:300]}") from None
        return "refused"
    if kind in MAKERS:
        return _compare_image(found, path, kind, other)
    if kind in (".h5", ".tfm"):
        points = np.random.default_rng(0).uniform(-50, 50, (20, 3))
        return _compare_points(np.asarray(found(points)), points, path, other)
    if kind == ".dcm" and not np.isfinite(found.array).all():
        raise Wrong("voxels that are not finite")
    return "accepted"


def _compare_image(volume: Volume, path: Path, kind: str, other: ReadingProcess) -> str:
    if not np.isfinite(volume.array.astype(np.float64)).all() or volume.array.size > MAX_VOXELS:
        raise Wrong("voxels that are not finite, or too many")
    axes = volume.geometry.axes
    if np.abs(axes.T @ axes - np.eye(3)).max() > 2e-3 or not min(volume.geometry.spacing_xyz) > 0:
        raise Wrong("a grid that is none")
    reader = {".mha": "simpleitk", ".mhd": "simpleitk", ".nii": "nibabel", ".nii.gz": "nibabel"}.get(kind, "pynrrd")
    try:
        if reader == "simpleitk":
            cleaned(path)
        answer = other.read(f"fuzz_oracles:{reader}", path)
    except ProductError:
        return "accepted, the other reader refuses"
    if answer["array"].shape != volume.array.shape or not np.array_equal(answer["array"], volume.array):
        raise Wrong("other voxels")
    size = np.array(volume.geometry.size_xyz) - 1
    corners = np.array(np.meshgrid(*[(0, n) for n in size])).reshape(3, -1).T
    theirs = corners @ np.array(answer["matrix"]).reshape(3, 3).T + np.array(answer["origin"])
    apart = np.abs(volume.geometry.to_physical(corners) - theirs).max()
    # What is noted may differ by what the note says; ITK makes directions orthonormal in a way of its own.
    allowed = 1e-3 * (1 + np.abs(theirs).max()) if kind[1] != "n" else 2e-4 * (1 + np.abs(theirs).max())
    if not apart <= allowed + (0.05 * max(volume.geometry.spacing_xyz) if volume.notes else 0):
        raise Wrong(f"another place, {apart:.3g} mm apart")
    return "accepted"


def _compare_points(moved: np.ndarray, points: np.ndarray, path: Path, other: ReadingProcess) -> str:
    try:
        answer = other.read("fuzz_oracles:transform", path, points=points.tolist())
    except ProductError:
        return "accepted, the other reader refuses"
    if not np.allclose(moved, answer["points"], rtol=1e-6, atol=1e-6):
        raise Wrong("another transform")
    return "accepted"


def work(first: int, count: int, child: bool, hang_s: int) -> None:
    """Read files and write one line of JSON for each; runs in a process of its own."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    noise = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
    for descriptor in (1, 2):  # what reading prints is counted
        os.dup2(noise.fileno(), descriptor)
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    other = ReadingProcess(memory_bytes=2 << 30, timeout_s=20)
    for kind in ("sctlab.dicom", "sctlab.transforms.files", "sctlab.transforms.itk_files"):
        __import__(kind)
    resource.setrlimit(resource.RLIMIT_AS, (_size() + MEMORY_BYTES,) * 2)
    start_bytes = 0
    with tempfile.TemporaryDirectory() as folder:
        for position, number in enumerate(range(first, first + count)):
            kind, made = sample(number, child)
            place = Path(folder, str(number))
            place.mkdir()
            path = store(made, place)
            answers.write(json.dumps({"start": number, "kind": kind}) + "\n")
            before, began = os.fstat(noise.fileno()).st_size, time.monotonic()
            signal.alarm(hang_s * (6 if child else 1))
            try:
                outcome = check(path, kind, other)
            except Wrong as error:
                outcome = f"WRONG {error}"
            except Exception as error:
                outcome = f"ESCAPED {type(error).__name__}: {str(error)[:200]}"
            signal.alarm(0)
            if os.fstat(noise.fileno()).st_size > before:
                outcome = "PRINTED"
            if position == 200:
                start_bytes = _resident()
            for file in place.iterdir():
                file.unlink()
            place.rmdir()
            answers.write(json.dumps({"outcome": outcome, "seconds": time.monotonic() - began}) + "\n")
    grown = _resident() - start_bytes if start_bytes else 0
    answers.write(json.dumps({"grown": grown}) + "\n")
    other.close()


def _size() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * resource.getpagesize()


def run(files: int, child: bool, seconds: float, first: int, hang_s: int) -> dict[str, Any]:
    """Let workers read `files` files, a new worker after each crash; stops after `seconds`."""
    counts: dict[str, Counter[str]] = {}
    faults: list[dict[str, Any]] = []
    slowest = grown = 0.0
    number, end, deadline = first, first + files, time.monotonic() + seconds
    while number < end and time.monotonic() < deadline:
        numbers = (number, min(20_000, end - number), int(child), hang_s)
        command = [sys.executable, __file__, "--worker", *map(str, numbers)]
        current: dict[str, Any] = {}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8") as process:
            assert process.stdout is not None
            for line in process.stdout:
                record = json.loads(line)
                if "start" in record:
                    current, number = record, record["start"] + 1
                elif "outcome" in record:
                    word = record["outcome"].split(" ")[0]
                    is_fault = word in ("WRONG", "ESCAPED", "PRINTED")
                    counts.setdefault(current["kind"], Counter())[word if is_fault else record["outcome"]] += 1
                    slowest = max(slowest, record["seconds"])
                    if is_fault:
                        faults.append({"number": current["start"], "kind": current["kind"], "fault": record["outcome"]})
                    current = {}
                else:
                    grown = max(grown, record["grown"])
                if time.monotonic() > deadline:
                    process.kill()
                    break
        if current and process.returncode not in (0, None) and time.monotonic() < deadline:
            fault = "HANG" if process.returncode == -signal.SIGALRM else f"CRASH {process.returncode}"
            faults.append({"number": current["start"], "kind": current["kind"], "fault": fault})
    total = sum(sum(c.values()) for c in counts.values())
    return {
        "files": total,
        "outcomes": {kind: dict(sorted(c.items())) for kind, c in sorted(counts.items())},
        "faults": faults,
        "slowest_s": round(slowest, 3),
        "grown_bytes": int(grown),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=4000, help="of the formats that are parsed in Python")
    parser.add_argument("--child-files", type=int, default=120, help="of those that are read in a child process")
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this time")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    parser.add_argument("--only", type=int, help="read this file alone, and say what happens")
    parser.add_argument("--child", action="store_true", help="with --only: of those that are read in a child")
    parser.add_argument("--keep", type=Path, help="with --only: folder where it is left")
    parser.add_argument("--hang", type=int, default=HANG_S, help="seconds after which a file counts as hanging")
    parser.add_argument("--worker", type=int, nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        first, count, child, hang_s = options.worker
        work(first, count, bool(child), hang_s)
        return
    if options.only is not None:
        kind, made = sample(options.only, options.child)
        folder = options.keep or Path(tempfile.mkdtemp())
        folder.mkdir(exist_ok=True)
        os.environ["PYTHONPATH"] = str(Path(__file__).parent)
        print(check(store(made, folder), kind, ReadingProcess()))
        return
    start = time.monotonic()
    result: dict[str, Any] = {"command": " ".join(["python", "benchmarks/fuzz.py", *sys.argv[1:]])}
    result["parsed"] = run(options.files, False, options.seconds, options.first, options.hang)
    left = max(5.0, options.seconds - (time.monotonic() - start))
    result["child"] = run(options.child_files, True, left, options.first, options.hang)
    result["seconds"] = round(time.monotonic() - start)
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    text = json.dumps(result, indent=2) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)
    bad = [f for part in ("parsed", "child") for f in result[part]["faults"]]
    grown = any(result[part]["grown_bytes"] > GROWTH_BYTES for part in ("parsed", "child"))
    sys.exit(1 if bad or grown else 0)


if __name__ == "__main__":
    main()
