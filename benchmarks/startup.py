"""Wall time until bad input is refused, and until the network is first called.

    python benchmarks/startup.py --out benchmarks/startup.json                         # two minutes
    python benchmarks/startup.py --commands --out benchmarks/startup_commands.json     # those of `sctlab` alone

Every refusal is a run of `process.py` or `sctlab` from start to end, the best and the worst of `--repeats`; the time to the
first network call is the median of `benchmarks/predict.py`. The machine's load stands beside them, and processor seconds
(user + system, of all threads), which others on the machine change less.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "test" / "cases" / "mri"


def no_input(folder: Path) -> None:
    shutil.rmtree(folder)


def empty_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def cut_image(folder: Path) -> None:
    path = image(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_image(folder: Path) -> None:
    path = image(folder)
    path.write_bytes(b"this is not an image\n" * 100)


def empty_file(folder: Path) -> None:
    image(folder).write_bytes(b"")


def image(folder: Path) -> Path:
    """The source of the case, not its mask."""
    return next(
        p for p in sorted(folder.rglob("*.mha")) if "mask" not in str(p).lower() and "body" not in str(p).lower()
    )


# Commands of `sctlab` with something that is refused without an image being computed; names are those of `make_wrong_files`.
REFUSED = """
train nope --pairs empty --out out
train bad.yaml --pairs empty --out out
train other.yaml --pairs empty --out out
train mri --pairs missing --out out
train demo-mri --pairs empty --out out
train demo-mri --pairs empty --out out --fold x
train demo-mri --pairs empty --out out --fold 77
train demo-mri --pairs empty --out out --stage nope
register missing out
register empty out
register out --fixed missing.mha --moving missing.mha
register out --fixed bad.mha --moving bad.mha
register out --fixed sound.mha --moving sound.mha --preset nope
register out --fixed sound.mha --moving sound.mha --preset bad.yaml
register apply missing.h5 bad.mha out.mha --like bad.mha
register report empty
evaluate missing --cohort empty --out out
evaluate empty --cohort empty --out out
segment missing.mha out.nii.gz
segment bad.mha out.nii.gz
segment sound.mha out.xyz
segment sound.mha out.nii.gz --weights bad.pt
study run nope out
study run bad.yaml out
study run other.yaml out
study report empty
study tables missing.csv out
pack missing out
pack bad.pt out --from-konfai --task mri
pack missing.pt out --from-konfai --task mri
pack empty out --from-konfai --task mri
export-onnx empty
simulate out --regions XX
simulate out --spacing 1,2
predict missing --out out
predict empty --out out
anatomy train missing.yaml out
anatomy train bad.yaml out
anatomy train other.yaml out
features import missing.json missing.pth out.safetensors
features trust missing.pt
features download nope
features download vgg16 --from missing
features download vgg16 --revision main --from w
features download vgg16 --sha256 nope --from empty
features download sam2.1-small
weights fetch nope
weights fetch impact-mri --from missing
weights fetch impact-mri --from empty
compare missing missing
rank missing empty
gamma missing.mha missing.mha
"""

# Commands that only look something up.
LISTED = """
features list
weights list
"""


def make_wrong_files(folder: Path) -> None:
    """What the commands of `REFUSED` are given."""
    (folder / "empty").mkdir()
    (folder / "bad.yaml").write_text("name: [x\n")
    (folder / "other.yaml").write_text("nonsense: 1\n")
    (folder / "bad.mha").write_text("this is not an image\n" * 100)
    (folder / "bad.pt").write_text("nothing")
    shutil.copy(image(SAMPLE), folder / "sound.mha")


def spent() -> float:
    """Processor seconds of the processes that were waited for: what wall time would be on an idle machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


CASES: tuple[Callable[[Path], None], ...] = (no_input, empty_folder, empty_file, no_image, cut_image)


def time_command(line: str, folder: Path) -> dict[str, float]:
    """Exit code, seconds and processor seconds of one run of `sctlab`."""
    start, before = time.perf_counter(), spent()
    command = [sys.executable, "-m", "sctlab.cli", *line.split()]
    environment = os.environ | {"SCTLAB_WEIGHTS": "w", "SCTLAB_FEATURES": "w"}
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", env=environment)
    measured = {
        "exit_code": done.returncode,
        "seconds": round(time.perf_counter() - start, 2),
        "processor_seconds": round(spent() - before, 2),
    }
    print(line, measured, flush=True)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--commands", action="store_true", help="only the refusals of `sctlab`")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    refused: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for spoil in () if options.commands else CASES:
            seconds, processor = [], []
            for k in range(options.repeats):
                folder = root / f"{spoil.__name__}{k}"
                shutil.copytree(SAMPLE, folder)
                spoil(folder)
                command = [sys.executable, ROOT / "process.py", "--input", folder, "--output", root / "out"]
                start, before = time.perf_counter(), spent()
                done = subprocess.run([str(c) for c in command], capture_output=True, encoding="utf-8")
                seconds.append(time.perf_counter() - start)
                processor.append(spent() - before)
            message = (done.stderr.strip().splitlines() or [""])[-1].replace(f"{root}/", "")
            refused[spoil.__name__] = {
                "exit_code": done.returncode,
                "best_seconds": round(min(seconds), 2),
                "worst_seconds": round(max(seconds), 2),
                "processor_seconds": round(min(processor), 2),
                "message": message[:160],
            }
            print(spoil.__name__, refused[spoil.__name__], flush=True)
        wrong = root / "wrong"
        wrong.mkdir()
        make_wrong_files(wrong)
        commands = {line: time_command(line, wrong) for line in (REFUSED + LISTED).strip().splitlines()}
        if options.commands:
            save({"refused_by_sctlab": commands}, options.out)
            return
        report = root / "predict.json"
        command = [sys.executable, ROOT / "benchmarks" / "predict.py", "--repeats", options.repeats, "--out", report]
        done = subprocess.run([str(c) for c in command], capture_output=True, encoding="utf-8")
        if done.returncode:
            sys.exit(done.stderr)
        measured = json.loads(report.read_text())
    result = {
        "refused": refused,
        "refused_by_sctlab": commands,
        "first_network_call_seconds": measured["cold_start_seconds"],
        "first_network_call_processor_seconds": measured["cold_start_processor_seconds"],
    }
    print({k: v for k, v in result.items() if k.startswith("first")})
    save(result, options.out)


def save(result: dict[str, object], out: Path | None) -> None:
    """Write what was measured, with the command and the machine's load."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    command = "python benchmarks/startup.py " + " ".join(sys.argv[1:])
    if out is not None:
        out.write_text(json.dumps({"command": command, "machine": machine} | result, indent=2) + "\n")


if __name__ == "__main__":
    main()
