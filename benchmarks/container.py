"""The image: its size, and the cold start inside it (process start to first network call).

    ./build.sh && python benchmarks/container.py --out benchmarks/container.json

`--drop-caches` (as root) empties the page cache before each run, as on a machine that has just got the image;
`--compressed` also measures the size of `docker save | gzip`, which takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKED = ["--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
          "--pids-limit", "256", "--shm-size", "128m", "--memory", "15g"]  # fmt: skip


def cold_start(image: str, case: Path, *, drop_caches: bool) -> dict[str, float]:
    """Seconds of one locked-down run: `docker run` as a whole, and process start to first network call."""
    if drop_caches:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3", encoding="utf-8")
    source = next((case / "images/mri").iterdir())
    mask = next((case / "images/body").iterdir())
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        # predict.py's child runs the real entry point and notes when the network is first called.
        child = (
            "exec python benchmarks/predict.py --child --started $(date +%s.%N) --report /output/run.json --device cpu "
            f"--source /input/{source.relative_to(case)} --mask /input/{mask.relative_to(case)}"
        )
        started = time.perf_counter()
        subprocess.run(
            [
                "docker",
                "run",
                "--rm",
                *LOCKED,
                "--tmpfs",
                "/tmp",
                "--volume",
                f"{case}:/input:ro",
                "--volume",
                f"{folder}:/output",
                "--volume",
                f"{ROOT / 'benchmarks'}:/opt/app/benchmarks:ro",
                "--entrypoint",
                "sh",
                image,
                "-c",
                child,
            ],
            check=True,
            capture_output=True,
        )
        run = json.loads((Path(folder) / "run.json").read_text())
        seconds = time.perf_counter() - started
        # What the container's user wrote, its user removes.
        subprocess.run(
            [
                "docker",
                "run",
                "--rm",
                "--volume",
                f"{folder}:/output",
                "--entrypoint",
                "sh",
                image,
                "-c",
                "rm -rf /output/*",
            ],
            check=True,
        )
    return {"docker_run": seconds, "first_network_call": run["cold_start_seconds"]}


def compressed_size(image: str) -> int:
    """Bytes of `docker save | gzip`."""
    done = subprocess.run(
        f"docker save {image} | gzip | wc -c", shell=True, check=True, capture_output=True, encoding="utf-8"
    )
    return int(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="sctlab:exec")
    parser.add_argument(
        "--case", type=Path, default=ROOT / "test/cases/mri", help="an MR case in the platform's layout"
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--drop-caches", action="store_true")
    parser.add_argument("--compressed", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    runs = [
        cold_start(options.image, options.case.resolve(), drop_caches=options.drop_caches) for _ in range(options.runs)
    ]
    size = int(subprocess.check_output(["docker", "image", "inspect", "--format", "{{.Size}}", options.image]))
    result = {
        "command": f"python benchmarks/container.py --runs {options.runs}" + " --drop-caches" * options.drop_caches,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
        "case": options.case.name,
        "image_size_gb": round(size / 1e9, 2),
        "first_network_call_seconds": round(statistics.median(r["first_network_call"] for r in runs), 2),
        "docker_run_seconds": round(statistics.median(r["docker_run"] for r in runs), 2),
        "runs": [{k: round(v, 2) for k, v in r.items()} for r in runs],
    }
    if options.compressed:
        result["compressed_size_gb"] = round(compressed_size(options.image) / 1e9, 2)
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if options.out is not None:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
