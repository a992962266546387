"""Registration benchmark: pairs with a known deformation, ours and peers in one run.

    python benchmarks/register.py run --data ../shared/data --convexadam PYTHON --impact PYTHON MODEL.pt
    python benchmarks/register.py table benchmarks/register.csv

Pairs come from real CTs (`registration_pairs.py`; `registration_motion.py` for organs that slide and a neck that bends: name
them in `--cases`, with a CSV of their own) or from a simulated cohort (`--cohort`). Every method gets the
fixed image, the moving image and the fixed mask. Peers without a rigid stage start from ours, whose time is added
to theirs. Each runs in a process of its own, so that its peak memory is its own. Rows that are in the CSV already
are kept: a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import csv
import os
import pickle
import platform
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from registration_motion import MEASURES, MOTIONS, Motion, make_motion, motion_errors, rough
from registration_pairs import CASES, MODALITIES, Pair, errors, load_ct, make_pair, simulated_pairs

from sctlab_model.volume import Volume

HERE = Path(__file__).parent
FIELDS = ("pair", "method", "body_mm", "edges_mm", "p95_mm", "edges_p95_mm", "folds_percent", "smallest_determinant",
          "seconds", "processor_seconds", "memory_gb", "note")  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """Measure every method on every pair that the CSV lacks."""
    out = Path(options.out)
    done = {(row["pair"], row["method"]) for row in read(out)} if out.is_file() else set()
    for pair, motion in pairs(options, done):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pair.pkl"
            path.write_bytes(pickle.dumps((pair, motion and motion.ct_cavity, motion and motion.ct_labels)))
            for method in options.methods.split(","):
                if (pair.name, method) in done:
                    continue
                row = measure(method, pair, motion, path, options)
                append(out, row)
                print(" ".join(f"{k}={v}" for k, v in row.items() if v not in (None, "")), flush=True)


def pairs(options: argparse.Namespace, done: set[tuple[str, str]]):
    """The pairs that lack a row, and what their motion is where it is counted by place."""
    methods = options.methods.split(",")
    if options.cohort:
        for pair in simulated_pairs(Path(options.cohort)):
            if any((pair.name, m) not in done for m in methods):
                yield pair, None
        return
    for case in options.cases.split(","):
        ct = None
        for modality in options.modalities.split(","):
            for seed in map(int, options.seeds.split(",")):
                if all((f"{case}/{modality}/{seed}", m) in done for m in methods):
                    continue
                if case in MOTIONS:
                    motion = make_motion(case, Path(options.data), modality, seed)
                    yield motion.pair, motion
                    continue
                ct = ct or load_ct(case, Path(options.data))
                yield make_pair(case, ct, modality, seed), None


def measure(
    method: str, pair: Pair, motion: Motion | None, path: Path, options: argparse.Namespace
) -> dict[str, object]:
    """A row of the table; a method that fails leaves its reason in `note`."""
    row: dict[str, object] = {"pair": pair.name, "method": method}

    def measured(field: np.ndarray) -> dict[str, float]:
        return errors(pair, field) if motion is None else motion_errors(motion, field)

    if method == "none":
        return row | rounded(measured(np.zeros_like(pair.truth)))
    result = path.with_name(f"{method}.npz")
    command = [sys.executable, __file__, "one", method, str(path), str(result)]
    if method.startswith("convexadam"):
        command += ["--python", options.convexadam]
    if method == "itk-impact":
        command += ["--python", *options.impact]
    if method == "ants-syn":
        command += ["--python", options.ants]
    finished = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if finished.returncode or not result.is_file():
        return row | {"note": (finished.stderr.strip().splitlines() or ["no result"])[-1][:160]}
    found = np.load(result)
    costs = {k: float(found[k]) for k in ("seconds", "processor_seconds", "memory_gb")}
    return row | rounded(measured(found["field"]) | costs)


def one(options: argparse.Namespace) -> None:
    """One method on one pair, in this process (ours, elastix) or in the peer's."""
    pair, known, labels = pickle.loads(Path(options.pair).read_bytes())
    grid = pair.fixed.geometry
    if options.method.startswith(("ours", "rigid", "sliding", "articulated")):
        import torch

        from sctlab.registration.elastix.register import BONE_HU
        from sctlab.registration.engine.register import register
        from sctlab.registration.presets import default_preset, find_presets

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        preset = options.method.partition(":")[2] or default_preset(pair.task, pair.region)
        preset = "rigid" if options.method == "rigid" else preset
        if options.method.startswith(("sliding", "articulated")):
            preset = f"{preset}-{options.method.partition('-')[0]}"
        started, processor = time.perf_counter(), time.process_time()
        chosen = find_presets(preset)
        cavity = None
        if chosen[0].sliding:
            cavity = cavity_of(options.method, pair, known, labels)
        bone = pair.moving.with_array(pair.moving.array > BONE_HU)
        result = register(pair.fixed, pair.moving, fixed_mask=pair.fixed_mask, preset=chosen, cavity=cavity, bone=bone)
        field = result.displacement_mm(grid)
        save(options.result, field, time.perf_counter() - started, time.process_time() - processor)
    elif options.method in ("elastix", "elastix-tuned"):
        from sctlab.registration.elastix.register import register_elastix
        from sctlab.transforms.field import displacement_field

        started = time.perf_counter()
        result = register_elastix(
            pair.fixed,
            pair.moving,
            pair.fixed_mask,
            task=pair.task,
            region=pair.region,
            tuned=options.method == "elastix-tuned",
        )
        field = displacement_field(result.transform, grid).vectors.astype(np.float32)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)  # elastix works in a process of its own
        save(options.result, field, time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6)
    else:
        peer(options, pair)


def cavity_of(method: str, pair: Pair, known: Volume | None, labels: Volume | None) -> Volume | None:
    """The cavity that a method takes: the truth's, that of the CT's labels (as they are or 2 mm off), or one that is found."""
    from sctlab.registration.cavity import cavity_by_labels, cavity_by_wall, find_cavity

    if method == "sliding-known":
        return known
    if method in ("sliding-labels", "sliding-labels-2mm"):
        if labels is None:
            raise ValueError(f"{pair.name}: no labels")
        return cavity_by_labels(pair.moving, labels if method == "sliding-labels" else rough(labels, 2.0, 0))
    return cavity_by_wall(pair.moving) if method == "sliding-wall" else find_cavity(pair.moving)


def peer(options: argparse.Namespace, pair: Pair) -> None:
    """A peer on voxels: the moving image is carried over by our rigid stage, and the result put back."""
    from sctlab.registration.engine.register import register
    from sctlab.registration.presets import PRESETS
    from sctlab.transforms.data import DisplacementField, compose
    from sctlab.transforms.field import displacement_field
    from sctlab_model.volume import resample

    started, processor = time.perf_counter(), time.process_time()
    rigid = register(pair.fixed, pair.moving, fixed_mask=pair.fixed_mask, preset=PRESETS["rigid"]).rigid
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    grid = pair.fixed.geometry
    moving = resample(pair.moving, grid, outside=float(pair.moving.array.min()), transform=rigid.to_sitk())
    everywhere = pair.moving.with_array(np.ones(pair.moving.array.shape, np.uint8))
    covered = resample(everywhere, grid, interpolation="nearest", transform=rigid.to_sitk())
    body = (covered.array > 0) & (pair.fixed_mask.array.all() | (moving.array > -400))
    source, target = Path(options.result).with_suffix(".in.npz"), Path(options.result).with_suffix(".out.npz")
    np.savez(
        source,
        fixed=pair.fixed.array,
        moving=moving.array,
        fixed_mask=pair.fixed_mask.array,
        moving_mask=body,
        spacing=grid.spacing_xyz[0],
        model=str(options.python[1]) if len(options.python) > 1 else "",
    )
    script = str(HERE / "registration_peer.py")
    subprocess.run([options.python[0], script, options.method, str(source), str(target)], check=True)
    found = np.load(target)
    along_axes = found["field"][::-1].astype(np.float64) * grid.spacing_xyz[0]  # voxels z, y, x → mm along x, y, z
    physical = np.einsum("ij,jzyx->izyx", grid.axes, along_axes)
    field = displacement_field(compose(DisplacementField(grid, physical), rigid), grid).vectors.astype(np.float32)
    save(
        options.result,
        field,
        seconds + float(found["seconds"]),
        processor + float(found["processor_seconds"]),
        float(found["memory_gb"]),
    )


def save(
    path: str, field: np.ndarray, seconds: float, processor_seconds: float, memory_gb: float | None = None
) -> None:
    """Field [3 (x, y, z), z, y, x] in mm and costs of a run."""
    if memory_gb is None:
        memory_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    np.savez(path, field=field, seconds=seconds, processor_seconds=processor_seconds, memory_gb=memory_gb)


def table(options: argparse.Namespace) -> None:
    """Markdown: a row for each region's case and modality, and the paired difference from ours."""
    rows = [r for r in read(Path(options.csv)) if r["body_mm"]]
    groups = sorted({r["pair"].rpartition("/")[0] for r in rows})
    methods = list(dict.fromkeys(r["method"] for r in rows))
    print("| pairs | method | n | body mm | edges mm | p95 mm | folds % | s | processor s | GB | edges − ours [95 %] |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for group in [*groups, "all"]:
        inside = [r for r in rows if group in ("all", r["pair"].rpartition("/")[0])]
        ours = {r["pair"]: float(r["edges_mm"]) for r in inside if r["method"] == options.reference}
        for method in methods:
            mine = [r for r in inside if r["method"] == method]
            if not mine:
                continue
            mean = {k: np.mean([float(r[k]) for r in mine if r[k]] or [np.nan]) for k in FIELDS[2:11]}
            both = [float(r["edges_mm"]) - ours[r["pair"]] for r in mine if r["pair"] in ours]
            interval = (
                ""
                if method == options.reference or len(both) < 2
                else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*paired(both))
            )
            print(
                f"| {group} | {method} | {len(mine)} | {mean['body_mm']:.2f} | {mean['edges_mm']:.2f} | "
                f"{mean['p95_mm']:.2f} | {mean['folds_percent']:.3f} | {mean['seconds']:.0f} | "
                f"{mean['processor_seconds']:.0f} | {mean['memory_gb']:.1f} | {interval} |"
            )


def places(options: argparse.Namespace) -> None:
    """Markdown: the errors by place on pairs whose motion is known, means over their seeds, and over all pairs of a kind.

    Where a mean is one of five pairs or more its 95 % interval stands beside it, and so does the paired difference from the
    reference: of the error beside the slip surface where organs slide, over the body where a neck bends.
    """
    rows = [r for r in read(Path(options.csv)) if r["body_mm"]]
    columns = ("body_mm", "edges_mm", "p95_mm", *MEASURES, "folds_percent", "smallest_determinant",
               "processor_seconds", "memory_gb")  # fmt: skip
    print("| pairs | method | n | " + " | ".join(columns) + f" | − {options.reference} [95 %] |")
    print("|---" * (4 + len(columns)) + "|")
    kinds = {"sliding*": lambda p: p.startswith("sliding"), "articulated*": lambda p: p.startswith("articulated")}
    named = {g: partial(_of_group, g) for g in sorted({r["pair"].rpartition("/")[0] for r in rows})}
    for group, belongs in (named | kinds).items():
        inside = [r for r in rows if belongs(r["pair"])]
        judged = "slip_mm" if group.startswith("sliding") else "body_mm"
        ours = {r["pair"]: float(r[judged]) for r in inside if r["method"] == options.reference}
        for method in dict.fromkeys(r["method"] for r in inside):
            mine = [r for r in inside if r["method"] == method]
            texts = [_mean_of([float(r[k]) for r in mine if r.get(k)]) for k in columns]
            both = [float(r[judged]) - ours[r["pair"]] for r in mine if r["pair"] in ours]
            away = _mean_of(both, "+.2f") if method != options.reference else ""
            print(f"| {group} | {method} | {len(mine)} | " + " | ".join((*texts, away)) + " |")


def _of_group(group: str, pair: str) -> bool:
    return pair.rpartition("/")[0] == group


def _mean_of(values: list[float], sign: str = ".2f") -> str:
    """The mean, with its interval from five values on; nothing of none."""
    if len(values) < 5:
        return format(np.mean(values), sign) if values else ""
    mean, low, high = (format(v, sign) for v in paired(values))
    return f"{mean} [{low}, {high}]"


def paired(differences: list[float], rounds: int = 5000) -> tuple[float, float, float]:
    """Mean of values, such as paired differences, with its bootstrap interval."""
    values = np.array(differences)
    random = np.random.default_rng(0)
    means = values[random.integers(len(values), size=(rounds, len(values)))].mean(1)
    return float(values.mean()), *(float(v) for v in np.percentile(means, (2.5, 97.5)))


def read(path: Path) -> list[dict[str, str]]:
    """Rows of the CSV; lines that begin with # are its record of the machine."""
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(line for line in handle if not line.startswith("#")))


def append(path: Path, row: dict[str, object]) -> None:
    """Add a row, and the record of the machine before the first one."""
    new = not path.is_file()
    with path.open("a", encoding="utf-8", newline="") as handle:
        if new:
            cores = len(os.sched_getaffinity(0))
            handle.write(
                f"# {platform.system()} {platform.machine()}, {cores} cores, Python {platform.python_version()}\n"
            )
        by_place = MEASURES if str(row["pair"]).split("/")[0] in MOTIONS else ()  # such rows want a file of their own
        writer = csv.DictWriter(handle, (*FIELDS, *by_place))
        if new:
            writer.writeheader()
        writer.writerow(row)


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Three decimals are enough for a table."""
    return {k: round(v, 3) for k, v in values.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    go = commands.add_parser("run")
    go.add_argument("--data", default=str(HERE.parent.parent / "shared" / "data"))
    go.add_argument("--cohort", help="a cohort of `sctlab simulate` instead of the CTs")
    go.add_argument("--cases", default=",".join(CASES))
    go.add_argument("--modalities", default=",".join(MODALITIES))
    go.add_argument("--seeds", default="0,1,2")
    go.add_argument("--methods", default="rigid,ours,convexadam,elastix,itk-impact")
    go.add_argument("--convexadam", default=sys.executable, help="Python that has convexadam")
    go.add_argument("--ants", default=sys.executable, help="Python that has antspyx")
    go.add_argument(
        "--impact",
        nargs=2,
        default=[sys.executable, ""],
        metavar=("PYTHON", "MODEL"),
        help="Python that has itk-impact, and a MIND model as TorchScript",
    )
    go.add_argument("--out", default=str(HERE / "register.csv"))
    single = commands.add_parser("one")
    single.add_argument("method")
    single.add_argument("pair")
    single.add_argument("result")
    single.add_argument("--python", nargs="+", default=[sys.executable])
    show = commands.add_parser("table")
    show.add_argument("csv")
    show.add_argument("--reference", default="ours")
    by_place = commands.add_parser("places")
    by_place.add_argument("csv")
    by_place.add_argument("--reference", default="ours")
    options = parser.parse_args()
    {"run": run, "one": one, "table": table, "places": places}[options.command](options)


if __name__ == "__main__":
    main()
