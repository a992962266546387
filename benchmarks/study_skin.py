"""Where the outline of a study's references and sCTs lies against the true CT's: `python benchmarks/study_skin.py OUT`.

A registration that draws the skin inwards all around has no mean shift, so the study's displacement does not see it. Here the
outermost `SHELL_MM` of the body (in the slice) are looked at apart: the share of them that is air, more or less of it than in the
truth as millimetres by which the outline lies further in, and the MAE there and inside. Voxels whose content changed between the
scans are left out. Prints CSV: means over cases with 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import defaultdict
from pathlib import Path

import edt
import numpy as np

from sctlab.study.analysis import mean_of
from sctlab.study.cells import StudyFiles
from sctlab.study.folds import split_of, study_cases
from sctlab.study.plan import StudyPlan
from sctlab.study.run import PLAN
from sctlab.study.scores import TRUTH, common_mask
from sctlab.study.scoring import body_of, changed_of, prediction_files, references_of
from sctlab_model.cases import read_json
from sctlab_model.io.reading import read_volume
from sctlab_model.settings import validate

SHELL_MM = 8.0
AIR_BELOW = -500.0  # HU


def measured(out: Path) -> dict[tuple[str, str], list[float]]:
    """Image and quantity → one value a case; the first seed's sCT of every training."""
    files = StudyFiles(validate(StudyPlan, read_json(out / PLAN), out / PLAN), out)
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for cohort in files.plan.cohorts:
        split = split_of(files, cohort)
        for case in study_cases(files, cohort):
            references, body, changed = references_of(files, cohort, case), body_of(case), changed_of(case)
            if changed is None:
                continue
            mask, truth = common_mask(references, body) & ~changed, references[TRUTH].ct
            spacing = truth.geometry.spacing_xyz[:2][::-1]
            depth = np.stack([edt.edt(np.pad(plane, 1), anisotropy=spacing)[1:-1, 1:-1] for plane in body])
            skin, inside = mask & (depth <= SHELL_MM), mask & (depth > SHELL_MM)
            images = {name: reference.ct.array for name, reference in references.items()}
            fold = next(k for k, keys in enumerate(split.validation) if str(case.key) in keys)
            for cell in files.cells:
                if cell.cohort == cohort and cell.seed == files.plan.seeds[0] and files.finished(cell, fold):
                    path, _ = prediction_files(files.fold_folder(cell, fold) / "predictions", case)
                    images[f"sCT {files.train_name(cell)}"] = read_volume(path).array
            true_air = (truth.array[skin] < AIR_BELOW).mean()
            for name, image in images.items():
                air = (image[skin] < AIR_BELOW).mean()
                found[name, "air_percent"].append(100 * air)
                found[name, "inward_mm"].append(SHELL_MM * (air - true_air))
                for against, reference in references.items():
                    if against == TRUTH or name.startswith("sCT"):
                        error = np.abs(image - reference.ct.array)
                        found[name, f"mae_skin/{against}"].append(error[skin].mean())
                        found[name, f"mae_inside/{against}"].append(error[inside].mean())
    return found


def main() -> None:
    """Print the table of a study's folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("image", "quantity", "n", "mean", "low", "high"))
    for (name, quantity), values in measured(parser.parse_args().out).items():
        e = mean_of(name, quantity, values)
        writer.writerow((name, quantity, e.n, *(f"{v:.5g}" for v in (e.mean, e.low, e.high))))


if __name__ == "__main__":
    main()
