"""Kill a command at random moments: what is there is whole, and the next run leaves nothing of the killed one behind.

    python benchmarks/kills.py --kills 100 --out benchmarks/kills.json
    python benchmarks/kills.py --command predict --kills 30 --out benchmarks/kills_predict.json
    python benchmarks/kills.py --command register --kills 30 --out benchmarks/kills_register.json

`sctlab simulate` makes six small cases, `sctlab predict` (a tiny bundle) and `sctlab register` convert and register them,
into one folder, again and again. Each run is killed (SIGKILL) with all its workers up to `--longest` seconds after its
start. After each kill every case that has appeared must be whole: its images are read, checksums included, its records
are parsed. A finished cohort is removed so that there is something to kill. At the end the command runs undisturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tiny import tiny_bundle, trunk

from sctlab.registration.records import PairRecord, QualityRecord
from sctlab.simulation.truth import SimulationTruth
from sctlab.transforms.itk_files import read_itk
from sctlab_model.io.hashing import file_sha256
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume
from sctlab_model.predictions import PREDICTIONS_FILE, read_predictions

CASES = 6
PART = re.compile(r"\..*\.part(\..*)?|\.partial-.*")
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def sctlab(*words: object) -> list[str]:
    """A command line."""
    return [sys.executable, "-m", "sctlab.cli", *map(str, words)]


def simulate(folder: Path) -> list[str]:
    """Six small heads."""
    return sctlab("simulate", folder, "--task", "mri", "--regions", "HN", "--spacing", "8,8,10", "--size", "36,36,16",
                  "--cases", CASES)  # fmt: skip


def write_cohort(folder: Path) -> None:
    """Six trunks as pairs; only their noise differs."""
    for k in range(CASES):
        case = folder / f"Task2/AB/2ABA{k:03d}"
        for name, image in zip(("cbct", "mask"), trunk(k), strict=True):
            write_volume(image, case / f"{name}.mha")
        write_volume(trunk(100 + k)[0], case / "ct.mha")


class Target(ABC):
    """A command to be killed: what it writes and how one sees that it is whole."""

    command: list[str]
    folder: Path

    @abstractmethod
    def done(self) -> list[Path]:
        """Cases that have appeared."""

    @abstractmethod
    def check(self, case: Path) -> None:
        """Read everything of a case; raises whatever is wrong."""

    def check_folder(self) -> None:  # noqa: B027 (most have nothing)
        """Read what the folder holds beside its cases."""

    def clear(self) -> None:
        """Remove the finished cases."""
        for case in self.done():
            shutil.rmtree(case)


class Simulate(Target):
    """`sctlab simulate`."""

    def __init__(self, scratch: Path) -> None:
        self.folder = scratch / "cohort"
        self.command = simulate(self.folder)

    def done(self) -> list[Path]:
        return list(self.folder.glob("Task1/HN/[!.]*"))

    def check(self, case: Path) -> None:
        for name in ("mr.mha", "ct.mha", "mask.mha", "truth/ct_aligned.mha"):
            read_volume(case / name)
        SimulationTruth.read(case / "truth/truth.json")
        read_itk(case / "truth/deformation.h5")


class Predict(Target):
    """`sctlab predict` with a bundle of random weights."""

    def __init__(self, scratch: Path) -> None:
        self.folder = scratch / "predictions"
        write_cohort(scratch / "cohort")
        self.command = sctlab("predict", scratch / "cohort", "--out", self.folder, "--weights",
                              tiny_bundle(scratch / "bundle"), "--device", "cpu", "--skip-existing")  # fmt: skip

    def done(self) -> list[Path]:
        return list(self.folder.glob("AB/[!.]*.mha"))

    def check(self, case: Path) -> None:
        read_volume(case)
        record = read_predictions(self.folder)
        assert record is not None, "a result and no record of the folder"
        known = record.cases[f"Task2/AB/{case.stem}"]
        assert known.state in ("done", "claimed"), known.state
        assert known.state == "claimed" or known.output_sha256 == file_sha256(case), "not what its record says"

    def check_folder(self) -> None:
        read_predictions(self.folder)

    def clear(self) -> None:
        shutil.rmtree(self.folder / "AB")
        (self.folder / PREDICTIONS_FILE).unlink()


class Register(Target):
    """`sctlab register`."""

    def __init__(self, scratch: Path) -> None:
        write_cohort(scratch / "cohort")
        self.command = sctlab("register", scratch / "cohort", scratch / "registered", "--method", "rigid")
        self.folder = scratch / "registered"

    def done(self) -> list[Path]:
        return list(self.folder.glob("rigid/Task2/AB/[!.]*"))

    def check(self, case: Path) -> None:
        for name in ("cbct.mha", "ct.mha", "mask.mha"):
            read_volume(case / name)
        assert PairRecord.of(case) is not None, "no pair record"
        assert QualityRecord.of(case) is not None, "no quality record"


TARGETS: dict[str, type[Target]] = {"simulate": Simulate, "predict": Predict, "register": Register}


def parts(folder: Path) -> list[str]:
    """Names of what is not finished."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob(".*") if PART.fullmatch(p.name))


def injured(target: Target) -> list[str]:
    """What has appeared and is not whole."""
    found = []
    for case in target.done():
        try:
            target.check(case)
        except Exception as error:
            found.append(f"{case.name}: {type(error).__name__}: {error}")
    try:
        target.check_folder()
    except Exception as error:
        found.append(f"folder: {error}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", choices=tuple(TARGETS), default="simulate")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--longest", type=float, default=12.0, help="seconds until a kill, at most")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    chance, start = random.Random(0), time.monotonic()
    left, faults, appeared = 0, [], 0
    with tempfile.TemporaryDirectory() as name:
        target = TARGETS[options.command](Path(name))
        for _ in range(options.kills):
            process = subprocess.Popen(target.command, start_new_session=True, **QUIET)
            time.sleep(chance.uniform(1.0, options.longest))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            faults += injured(target)
            left += bool(parts(target.folder))
            if (count := len(target.done())) == CASES:
                appeared += count
                target.clear()
        last = subprocess.run(target.command, check=False, capture_output=True, encoding="utf-8")
        result = {
            "command": " ".join(["python", "benchmarks/kills.py", *sys.argv[1:]]),
            "kills": options.kills,
            "kills_that_left_a_part": left,
            "cases_made": appeared + len(target.done()),
            "cases_not_whole": faults + injured(target),
            "left_after_the_last_run": parts(target.folder),
            "exit_code_of_the_last_run": last.returncode,
            "cases_after_the_last_run": len(target.done()),
            "seconds": round(time.monotonic() - start),
        }
    text = json.dumps(result, indent=2) + "\n"
    print(text)
    if last.returncode:
        print(last.stderr)
    if options.out:
        options.out.write_text(text)
    allowed = (0, 1) if options.command == "register" else (0,)
    # Registering at such a size may end with the verdict `failed` (1), which is no fault of the kill.
    bad = result["cases_after_the_last_run"] != CASES or last.returncode not in allowed
    sys.exit(1 if result["cases_not_whole"] or result["left_after_the_last_run"] or bad else 0)


if __name__ == "__main__":
    main()
