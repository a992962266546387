"""Every command on small inputs, kept; and two such records compared file by file.

    python benchmarks/golden.py record DIR [--checkout FOLDER]   # run the commands of a checkout, results into DIR
    python benchmarks/golden.py compare BEFORE AFTER             # same bytes, same numbers (1e-6), or different

Made for changes that must not change results: record before, record after, compare. One thread a process, fixed seeds.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-6
# What differs between two runs of the same code: times, versions, places.
VOLATILE = re.compile(
    r"second|time|date|revision|version|created|path|filename|folder|machine|host|platform|memory|cpu|duration|elapsed|sha256"
    r"|^predictions$|^cohort$|^code$|^source$|^pairs$|speed|throughput|it_s|samples_s|per_s$|^waiting"
)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")

RECIPE = """
recipe:
  name: tiny
  task: mri
  spacing_xyz: [4.0, 4.0, 6.0]
  canvas: {crop: body, margin: 2, multiple: 32, minimum_yx: [64, 64]}
  network: {encoder: tu-mobilenetv3_small_050, slices: 3, decoder_channels: [8, 8, 8, 4, 4]}
  views: [identity, flip_x]
data: {target: ct, folds: 2, workers: 0}
patch: {size_yx: [64, 64], batch: 4}
losses:
  - {kind: l1}
  - {kind: impact_synth, weight: 0.02, extractor: mind-2d}
optimiser: {learning_rate: 2.0e-3}
schedule: {kind: cosine}
stages:
  - {name: global, iterations: 8}
validate_every: 4
checkpoint_every: 4
"""


@dataclass(frozen=True)
class Step:
    """One command: its name and its words."""

    name: str
    words: tuple[str, ...]


@dataclass
class Comparison:
    """What became of the files of two records."""

    same: list[str] = field(default_factory=list)
    close: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)


def steps(checkout: Path) -> list[Step]:
    """The commands, in the order that makes one's results the next one's input."""
    cases = checkout / "test" / "cases"
    process, lab = str(checkout / "process.py"), "-m sctlab.cli"
    small = ("--regions", "AB", "--cases", "2", "--size", "96,80,16", "--spacing", "4,4,6", "--amplitude", "6")
    sctlab = tuple(lab.split())
    made = [
        Step(f"process {case}", (process, "--input", str(cases / case), "--output", f"process/{case}"))
        for case in ("mri", "cbct")
    ]
    for task in ("mri", "cbct"):
        made.append(Step(f"simulate {task}", (*sctlab, "simulate", f"cohort/{task}", "--task", task, *small)))
    for method in ("rigid", "mi", "impact"):
        made.append(
            Step(
                f"register {method}",
                (*sctlab, "register", "cohort/mri", "registered", "--method", method, "--device", "cpu"),
            )
        )
    made += [
        Step("register cbct", (*sctlab, "register", "cohort/cbct", "registered-cbct", "--method", "mi")),
        Step("train", (*sctlab, "train", "tiny.yaml", "--pairs", "registered/mi", "--out", "run", "--device", "cpu")),
        Step("pack", (*sctlab, "pack", "run", "bundle")),
        Step("predict", (*sctlab, "predict", "cohort/mri", "--out", "predictions", "--weights", "bundle")),
        Step(
            "predict registered",
            (*sctlab, "predict", "registered/mi", "--out", "predictions-mi", "--weights", "bundle", "--zip"),
        ),
        Step("process cohort", (process, "--input", "cohort/cbct", "--output", "process/cohort")),
        Step(
            "evaluate",
            (*sctlab, "evaluate", "predictions-mi", "--cohort", "registered/mi", "--out", "evaluation/mi"),
        ),
        Step(
            "evaluate truth",
            (
                *(*sctlab, "evaluate", "predictions", "--cohort", "cohort/mri", "--out", "evaluation/truth"),
                *("--reference", "truth/ct_aligned", "--truth", "cohort/mri"),
            ),
        ),
        Step("compare", (*sctlab, "compare", "evaluation/mi", "evaluation/mi", "--out", "comparison")),
        Step("features list", (*sctlab, "features", "list")),
        Step("info", (*sctlab, "info")),
    ]
    return made


def record(folder: Path, checkout: Path, only: list[str], inputs: Path | None = None) -> int:
    """Run the commands of `checkout` in `folder`; `steps.json` keeps exit codes, seconds and the outputs' ends.

    With `inputs`, an earlier record, its cohorts are taken: later steps then show their own changes alone."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    if inputs is not None:
        shutil.copytree(inputs / "cohort", folder / "cohort", dirs_exist_ok=True)
    # `.ci/typing` holds `sctlab_model`, a link to the checkout's `model/`: an installed one would run in its place.
    places = os.pathsep.join(map(str, (checkout, checkout / ".ci" / "typing")))
    environment = os.environ | dict.fromkeys(THREADS, "1") | {"PYTHONPATH": places, "COLUMNS": "200"}
    path = folder / "steps.json"
    done = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for step in steps(checkout):
        if (only and step.name not in only) or (inputs is not None and step.name.startswith("simulate")):
            continue
        started = time.monotonic()
        ended = subprocess.run(
            [sys.executable, *step.words], cwd=folder, env=environment, capture_output=True, encoding="utf-8"
        )
        seconds = time.monotonic() - started
        done[step.name] = {
            "exit_code": ended.returncode,
            "seconds": round(seconds, 1),
            "stdout": ended.stdout[-3000:],
            "stderr": ended.stderr[-3000:],
        }
        path.write_text(json.dumps(done, indent=1), encoding="utf-8")
        print(f"{step.name}: exit code {ended.returncode} after {seconds:.0f} s", flush=True)
    return 0


def compare(before: Path, after: Path) -> int:
    """Print what became of every file; 1 when anything differs."""
    found = Comparison()
    steps_before, steps_after = (json.loads((p / "steps.json").read_text(encoding="utf-8")) for p in (before, after))
    for name in sorted({*steps_before, *steps_after}):
        if name.startswith("simulate") and not (name in steps_before and name in steps_after):
            continue  # `--inputs` took the cohorts of the other record
        codes = [s.get(name, {}).get("exit_code", "not run") for s in (steps_before, steps_after)]
        (found.same if codes[0] == codes[1] else found.different).append(
            f"exit code of {name}: {codes[0]}" + ("" if codes[0] == codes[1] else f" -> {codes[1]}")
        )
    names = sorted({p.relative_to(root) for root in (before, after) for p in root.rglob("*") if p.is_file()})
    for name in names:
        if name.name in ("steps.json", "tiny.yaml") or name.suffix in (".part", ".lock"):
            continue
        if ".tfevents." in name.name or "cache" in name.parts:  # named by time, process and content key
            continue
        here, there = before / name, after / name
        if not here.is_file() or not there.is_file():
            found.different.append(f"{name}: only {'after' if there.is_file() else 'before'}")
        elif _digest(here) == _digest(there):
            found.same.append(str(name))
        else:
            differences = list(_differences(here, there))
            if differences:
                found.different.append(f"{name}: " + "; ".join(differences[:6]))
            else:
                found.close.append(str(name))
    print(f"{len(found.same)} the same, {len(found.close)} with the same numbers, {len(found.different)} different")
    for line in found.different:
        print("different:", line)
    return 1 if found.different else 0


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _differences(here: Path, there: Path) -> Iterator[str]:
    """What differs beyond the tolerance between two files of one kind."""
    suffix = here.suffix.lower()
    if suffix in (".mha", ".nii", ".gz", ".nrrd"):
        yield from _image_differences(here, there)
    elif suffix == ".json":
        yield from _json_differences(*(json.loads(p.read_text(encoding="utf-8")) for p in (here, there)), "")
    elif suffix == ".jsonl":
        rows = [[json.loads(line) for line in p.read_text(encoding="utf-8").splitlines()] for p in (here, there)]
        yield from _json_differences(*rows, "")
    elif suffix == ".csv":
        rows = [list(csv.DictReader(io.StringIO(p.read_text(encoding="utf-8")))) for p in (here, there)]
        yield from _json_differences(*rows, "")
    elif suffix == ".safetensors":
        from safetensors.numpy import load_file

        yield from _array_differences(load_file(here), load_file(there))
    elif suffix in (".npz", ".npy"):
        first, second = np.load(here), np.load(there)
        yield from _array_differences(*(dict(a) if suffix == ".npz" else {"array": a} for a in (first, second)))
    elif suffix in (".h5", ".hdf5"):
        yield from _array_differences(_hdf5(here), _hdf5(there))
    elif suffix in (".txt", ".tfm", ".yaml", ".md"):
        yield from _text_differences(here.read_text(encoding="utf-8"), there.read_text(encoding="utf-8"))
    elif suffix in (".html", ".png", ".zip") or ".tfevents." in here.name:
        yield f"other bytes ({here.stat().st_size} -> {there.stat().st_size})"
    else:
        yield "other bytes"


def _image_differences(here: Path, there: Path) -> Iterator[str]:
    import SimpleITK as sitk

    first, second = (sitk.ReadImage(str(p)) for p in (here, there))
    if first.GetPixelID() != second.GetPixelID():
        yield f"{first.GetPixelIDTypeAsString()} -> {second.GetPixelIDTypeAsString()}"
    if first.GetSize() != second.GetSize():
        yield f"size {first.GetSize()} -> {second.GetSize()}"
        return
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        if not np.allclose(getattr(first, name)(), getattr(second, name)(), atol=TOLERANCE):
            yield f"{name[3:].lower()} {getattr(first, name)()} -> {getattr(second, name)()}"
    a, b = (sitk.GetArrayFromImage(i).astype(np.float64) for i in (first, second))
    yield from _array_differences({"voxels": a}, {"voxels": b})


def _array_differences(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> Iterator[str]:
    for name in sorted({*first, *second}):
        if name not in first or name not in second:
            yield f"{name} only {'after' if name in second else 'before'}"
            continue
        a, b = np.asarray(first[name]), np.asarray(second[name])
        if a.shape != b.shape:
            yield f"{name} {a.shape} -> {b.shape}"
        elif a.dtype.kind in "OSU" or b.dtype.kind in "OSU":
            if not np.array_equal(a, b):
                yield f"{name}: other text"
        elif not np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
            d = np.abs(a.astype(np.float64) - b.astype(np.float64))
            yield f"{name} differs in {np.mean(d > TOLERANCE):.2%}, mean {np.nanmean(d):.3g}, at most {np.nanmax(d):.3g}"


def _hdf5(path: Path) -> dict[str, np.ndarray]:
    import h5py

    arrays = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None,
        )
    return {name: np.asarray(value) for name, value in arrays.items() if "Version" not in name}


def _text_differences(first: str, second: str) -> Iterator[str]:
    a, b = (re.split(r"\s+|(?<=[\[\](),])|(?=[\[\](),])", text.strip()) for text in (first, second))
    if len(a) != len(b):
        yield f"{len(a)} -> {len(b)} words"
        return
    for x, y in zip(a, b, strict=True):
        if x != y and not _close(x, y):
            yield f"'{x[:60]}' -> '{y[:60]}'"


def _close(x: object, y: object) -> bool:
    try:
        return math.isclose(float(x), float(y), rel_tol=TOLERANCE, abs_tol=TOLERANCE)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _json_differences(first: object, second: object, where: str) -> Iterator[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted({*first, *second}):
            place = f"{where}.{key}".strip(".")
            if VOLATILE.search(str(key).lower()):
                continue
            if key not in first or key not in second:
                yield f"{place} only {'after' if key in second else 'before'}"
            else:
                yield from _json_differences(first[key], second[key], place)
    elif isinstance(first, list) and isinstance(second, list):
        if len(first) != len(second):
            yield f"{where}: {len(first)} -> {len(second)} entries"
        else:
            for index, (x, y) in enumerate(zip(first, second, strict=True)):
                yield from _json_differences(x, y, f"{where}[{index}]")
    elif first != second and not _close(first, second):
        yield f"{where}: {str(first)[:60]!r} -> {str(second)[:60]!r}"


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    add = verbs.add_parser("record", help="run every command")
    add.add_argument("folder", type=Path)
    add.add_argument("--checkout", type=Path, default=HERE, help="whose commands run [this one]")
    add.add_argument("--inputs", type=Path, help="take the simulated cohorts of this record instead of simulating")
    add.add_argument("--only", action="append", default=[], help="only this step; may be given several times")
    add = verbs.add_parser("compare", help="compare two records")
    add.add_argument("before", type=Path)
    add.add_argument("after", type=Path)
    options = parser.parse_args()
    if options.verb == "record":
        return record(options.folder, options.checkout.resolve(), options.only, options.inputs)
    return compare(options.before, options.after)


if __name__ == "__main__":
    sys.exit(main())
