"""How well the judge's map tells where a registration is wrong: rank correlation with the true error inside each registration.

    python benchmarks/verdict_map.py VIEWS… --out benchmarks/verdict_map.json

Views are those that `verdict.py plant` kept. The truth is the error's mean in a Gaussian window of 8 mm. `windows` is where
each window alone fits best, `smoothed` their mean (what was delivered when `verdict_map.json` was made, there called `map`), `map`
how far the judge's own registration moves on, as delivered in `residual_mm.mha`.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.stats import rankdata, spearmanr
from verdict_planting import PLACE_MM, Planted

from sctlab.registration.judge.places import Elsewhere, halved, look_elsewhere
from sctlab.registration.judge.refit import better_places, lengths_mm
from sctlab.registration.judge.view import View
from sctlab.registration.judge.witnesses import witnesses
from sctlab_model.io.atomic import write_json

KINDS = ("sound", "smooth 5-12", "local 10-20", "local 20-30", "turned 8-25")
SMOOTHED_MM = 20.0
FEWEST, SAMPLE = 100, 400  # places of a registration; as many of each are pooled


def places(planted: Planted) -> dict[str, np.ndarray] | None:
    """True error and the maps at the places of the body that tell something."""
    view = planted.view
    assert planted.error is not None
    found = look_elsewhere(view, [w(view.fixed, view.moving, view.spacing_mm) for w in local_witnesses()])
    body = halved((view.mask & view.data).astype(np.float32)) > 0.5
    sigma = PLACE_MM / (2 * view.spacing_mm)
    error, weight = (
        ndimage.gaussian_filter(part.astype(np.float32), sigma)
        for part in (np.where(body, halved(planted.error), 0), body)
    )
    at = body & np.isfinite(found.distance_mm)
    if at.sum() < FEWEST:
        return None
    error = error / np.maximum(weight, 1e-6)
    own = lengths_mm(better_places(view), view)
    own = np.nan_to_num(halved(own), nan=0.0)
    return {"error": error[at], "windows": found.distance_mm[at], "smoothed": smoothed_mm(found)[at], "map": own[at]}


def smoothed_mm(found: Elsewhere) -> np.ndarray:
    """`distance_mm` as a mean of the windows around; NaN where nothing tells."""
    tells = np.isfinite(found.distance_mm)
    sigma = SMOOTHED_MM / (10 * found.cm3 ** (1 / 3))
    sums, weights = (
        ndimage.gaussian_filter(part.astype(np.float32), sigma, mode="constant")
        for part in (np.where(tells, found.distance_mm, 0.0), tells)
    )
    return np.where(tells, sums / np.maximum(weights, 1e-6), np.nan)


def full_map(values: np.ndarray, view: View) -> np.ndarray:
    """A map of `Elsewhere` on the view's own voxels; NaN outside the body and in an odd last layer."""
    doubled = np.repeat(np.repeat(np.repeat(values, 2, 0), 2, 1), 2, 2)
    missing = [(0, n - d) for n, d in zip(view.region.shape, doubled.shape, strict=True)]
    padded = np.pad(doubled, missing, constant_values=np.nan)
    return np.where(view.region & view.data, padded, np.nan)


def local_witnesses() -> list:
    """Those that speak under every preset and have maps."""
    return [w for w in witnesses().values() if w.local and not w.optimised_as]


def area(values: np.ndarray, wrong: np.ndarray) -> float:
    """Area under the ROC curve."""
    ranks = rankdata(values)
    return float((ranks[wrong].mean() - (wrong.sum() + 1) / 2) / (~wrong).sum())


def main() -> None:
    """Compare the maps with the truth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("views", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    within: dict[str, dict[str, list[float]]] = {m: defaultdict(list) for m in ("windows", "smoothed", "map")}
    pooled: dict[str, list[np.ndarray]] = defaultdict(list)
    for path in sorted(p for folder in options.views for p in folder.glob("*.npz")):
        planted = Planted.read(path)
        if planted.kind not in KINDS or planted.error is None or (found := places(planted)) is None:
            continue
        print(path.stem, planted.kind, flush=True)
        chosen = rng.permutation(len(found["error"]))[:SAMPLE]
        for name, values in found.items():
            pooled[name].append(values[chosen])
        wrong = found["error"] > max(5.0, 0.5 * found["error"].max())
        for name in within:
            within[name][planted.kind].append(float(spearmanr(found[name], found["error"])[0]))
            if planted.kind.startswith("local") and wrong.any() and not wrong.all():
                within[name]["area under ROC of the wrong place"].append(area(found[name], wrong))
    truth = np.concatenate(pooled["error"])
    result: dict[str, object] = {
        "command": f"python benchmarks/verdict_map.py {' '.join(p.name for p in options.views)}"
    }
    for name, kinds in within.items():
        result[name] = {
            k: {"count": len(v), "mean": round(float(np.nanmean(v)), 3)} for k, v in sorted(kinds.items())
        } | {"spearman over all places together": round(float(spearmanr(np.concatenate(pooled[name]), truth)[0]), 3)}
    if options.out:
        write_json(options.out, result)
    print(result)


if __name__ == "__main__":
    main()
