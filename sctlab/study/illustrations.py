"""What a study's figures are made of, from what is on disk: slices, profiles, maps of displacement, validation curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sctlab.study.analysis import Slope
from sctlab.study.cells import StudyFiles
from sctlab.study.figures import curves_figure, dose_figure, maps_figure, profiles_figure, slices_figure
from sctlab.study.folds import split_of, study_cases
from sctlab.study.scores import TRUTH, Profiles
from sctlab.study.scoring import body_of, prediction_files, references_of
from sctlab.training.log import METRICS_FILE
from sctlab_model.io.reading import read_volume

Points = list[tuple[int, float]]


def illustrations(files: StudyFiles, about: Sequence[Mapping[str, Any]], slopes: Sequence[Slope]) -> dict[str, bytes]:
    """PNGs by name; those that have nothing to show are left out.

    Args:
        files: The study.
        about: What `score_references` says of each cohort.
        slopes: Dose and response.
    """
    pictures: dict[str, dict[str, Any]] = {}  # training → case → map and profiles
    for cell in files.cells:
        path = files.scores_file(cell)
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))["pictures"]
            pictures.setdefault(files.train_name(cell) + " (sCT)", {}).update(found)
    references: dict[str, dict[str, Any]] = {}
    for one in about:
        for name, cases in one["pictures"].items():
            references.setdefault(name, {}).update(cases)
    step = files.training_plan(files.cells[0]).recipe.spacing_xyz[0]
    curves, label = validation_curves(files)
    drawn = {
        "slices": _slices(files),
        "dose_response": dose_figure(slopes),
        "profiles": profiles_figure(_profiles(pictures), files.axis, step),
        "maps_learnt": maps_figure({k: [p["map"] for p in v.values()] for k, v in pictures.items() if v}),
        "maps_references": maps_figure({k: [p["map"] for p in v.values()] for k, v in references.items() if v}),
        "validation": curves_figure(curves, label),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def validation_curves(files: StudyFiles) -> tuple[dict[str, Points], str]:
    """The validations' MAE against the pairs that a training has, mean over folds; where each validates only once, the
    training loss instead. And the name of what is shown."""
    lines: dict[str, dict[str, dict[int, list[float]]]] = {"validation": {}, "train": {}}
    key = {"validation": "mae_hu", "train": "loss"}
    for cell in files.cells:
        for fold in range(files.plan.folds):
            for path in sorted((files.fold_folder(cell, fold) / "run").glob(f"fold_{fold}/*/{METRICS_FILE}")):
                for text in path.read_text(encoding="utf-8").splitlines():
                    line = json.loads(text)
                    kind = line.get("kind")
                    if kind in lines and key[kind] in line:
                        own = lines[kind].setdefault(files.train_name(cell), {})
                        own.setdefault(int(line["iteration"]), []).append(float(line[key[kind]]))
    several = any(len(points) > 1 for points in lines["validation"].values())
    kind = "validation" if several else "train"
    curves = {name: [(i, float(np.mean(v))) for i, v in sorted(p.items())] for name, p in lines[kind].items()}
    return curves, "MAE against the validation pairs, HU" if several else "training loss"


def _profiles(pictures: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Profiles]]:
    """The truth's first, then every training's."""
    found: dict[str, list[Profiles]] = {}
    for name, cases in pictures.items():
        for case in cases.values():
            found.setdefault(name, []).append(case["profiles"]["image"])
    truth = next((c for c in pictures.values() if c), {})
    ahead = {TRUTH: [case["profiles"][TRUTH] for case in truth.values()]} if truth else {}
    return ahead | found


def _slices(files: StudyFiles) -> bytes | None:
    """The same slice of one case under every training, the truth first."""
    cohort = next(iter(files.scored_cohorts))
    case, split = study_cases(files, cohort)[0], split_of(files, cohort)
    fold = next((k for k, keys in enumerate(split.validation) if str(case.key) in keys), None)
    truth = references_of(files, cohort, case).get(TRUTH)
    images = {} if truth is None else {TRUTH: truth.ct}
    for cell in files.cells:
        if cell.cohort == cohort and fold is not None and files.finished(cell, fold):
            path, _ = prediction_files(files.fold_folder(cell, fold) / "predictions", case)
            images.setdefault(files.train_name(cell) + " (sCT)", read_volume(path))
    if not images:
        return None
    return slices_figure(images, str(case.key), body_of(case), minus=None if truth is None else truth.ct)
