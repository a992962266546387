"""Mirrored images, also those that the engine fitted: what the judge says, and what the anatomy network's look at the sides adds.

    sctlab simulate CBCTS --task cbct --cases 2 --regions HN,TH --spacing 4,4,4 --seed 8801
    python benchmarks/verdict_sides.py CBCTS --data ../shared/data --out benchmarks/verdict_sides.csv
    python benchmarks/verdict_sides.py --phantoms       # bodies that are their own mirror image: nothing may be said

`probability` and `verdict` are the model's alone. Of every pair a sound registration, its mirrored moving image, and what a short registration makes of that one.
"""

from __future__ import annotations

import argparse
import csv
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from exclusion import residual
from verdict_odd import OPTIMISED, phantoms
from verdict_planting import flipped, optimised, real, simulated

from sctlab.registration.judge.model import JudgeModel
from sctlab.registration.judge.parts import as_registered, different_parts, side_correlation
from sctlab.registration.judge.signals import collect_evidence
from sctlab.registration.pairs import Pair
from sctlab.transforms.data import AffineTransform, Transform, compose
from sctlab_model.anatomy.judge import asymmetry_of
from sctlab_model.errors import InputError

SEED = 91
CTS = ("abdomen-2", "head", "lung-crop", "thorax-crop", "trunk", "upper-body")
FIELDS = ("pair", "kind", "correlation", "fixed", "moving", "sides", "probability", "verdict")


def registrations(pair: Pair, truth: Transform) -> Iterator[tuple[str, Pair, Transform]]:
    """A sound one, and two of the mirrored moving image."""
    rng = np.random.default_rng([SEED, zlib.crc32(pair.id.encode())])
    yield "sound", pair, compose(residual(pair.fixed.geometry.resized((6.0, 6.0, 6.0)), 1.0, 45.0, rng), truth)
    mirrored = flipped(pair, 2)
    yield "mirrored", mirrored, truth
    yield "mirrored and fitted", *optimised(mirrored, AffineTransform(np.eye(3)))


def row(name: str, kind: str, pair: Pair, transform: Transform) -> dict[str, object]:
    """What is seen of the sides, and the judge's verdict without it."""
    found: dict[str, object] = {"pair": name, "kind": kind}
    try:
        one, other = (asymmetry_of(image) for image in as_registered(pair, transform))
        found |= {k: round(float(np.sqrt((a**2).sum())), 3) for k, a in (("fixed", one), ("moving", other))}
        if (correlation := side_correlation(one, other)) is not None:
            found["correlation"] = round(correlation, 3)
    except InputError as error:
        found["correlation"] = error.found
    found["sides"] = bool(different_parts(pair, transform))
    evidence = collect_evidence(pair, transform, OPTIMISED)
    judgement = JudgeModel.shipped().judge(evidence.signals, frozenset(evidence.left_out))
    return found | {"probability": judgement.failure_probability, "verdict": str(judgement.verdict)}


def main() -> None:
    """Question every registration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohorts", type=Path, nargs="*")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--phantoms", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []

    def ask(name: str, kind: str, pair: Pair, transform: Transform) -> None:
        rows.append(row(name, kind, pair, transform))
        print(rows[-1], flush=True)

    if options.phantoms:
        for name, kind, pair, transform in phantoms():
            if kind == "right":
                ask(name, kind, pair, transform)
    sources = [simulated(cohort) for cohort in options.cohorts]
    sources += [real(options.data, CTS, SEED)] if options.data else []
    for source in sources:
        for pair, truth, _ in source:
            for kind, changed, transform in registrations(pair, truth):
                ask(pair.id, kind, changed, transform)
    if options.out:
        with options.out.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, FIELDS, lineterminator="\n")
            table.writeheader()
            table.writerows(rows)


if __name__ == "__main__":
    main()
