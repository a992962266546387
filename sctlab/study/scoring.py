"""Scores of a study's cells and of its references, written once a content key: reports read them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sctlab.evaluation.bias import control_of_pairs
from sctlab.evaluation.segmentation import Segmenter, make_segmenter, segmented
from sctlab.study.cells import Cell, StudyFiles
from sctlab.study.displacement import coarse_map, displacement_field, measurable, summary
from sctlab.study.folds import split_of, study_cases
from sctlab.study.plan import StudyPlan
from sctlab.study.scores import TRUTH, Reference, common_mask, edge_profiles, find_truth, load_reference, score_case
from sctlab_model.cases import Case, find_image
from sctlab_model.device import choose_device
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import write_json
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.io.writing import write_volume
from sctlab_model.synthesiser import output_paths
from sctlab_model.volume import Volume

Rows = list[dict[str, float | str]]


def score_cell(plan: StudyPlan, out: Path, cell: Cell) -> None:
    """Score a cell's predictions against every reference and the truth, and write the file."""
    files = StudyFiles(plan, out)
    missing = [k for k in range(plan.folds) if not files.finished(cell, k)]
    if missing:
        folds = ", ".join(map(str, missing))
        raise InputError(cell.name, found=f"fold {folds} is not trained", expected="all folds")
    split = split_of(files, cell.cohort)
    rows: Rows = []
    pictures = {}
    left_out = {}
    unlabelled = {}
    for case in study_cases(files, cell.cohort):
        fold = next((k for k, keys in enumerate(split.validation) if str(case.key) in keys), None)
        references = references_of(files, cell.cohort, case)
        if fold is None or not references:
            continue
        path, spread = prediction_files(files.fold_folder(cell, fold) / "predictions", case)
        image, mask = read_volume(path), body_of(case)
        if not common_mask(references, mask).any():
            left_out[str(case.key)] = f"not scored: no place in the body where {', '.join(references)} all have data"
            continue
        notes: list[str] = []
        labels = segmented(segmenter_of(files.segmenter), image, notes)
        if notes:
            unlabelled[str(case.key)] = "; ".join(notes)
        scores = _scores(
            files,
            case,
            image,
            read_volume(spread) if spread else None,
            references,
            mask,
            labels.array if labels else None,
        )
        if TRUTH in references and measurable(image):
            found, pictures[str(case.key)] = against_truth(files, image, references, mask)
            scores[TRUTH] |= found
        own = {"case": str(case.key), "region": str(case.region)}
        rows += [{**own, "evaluate": name, **_finite(values)} for name, values in scores.items()]
    content = {"cell": cell.name, "key": files.scores_key(cell), "rows": rows, "pictures": pictures}
    write_json(files.scores_file(cell), content | {"left_out": left_out, "unlabelled": unlabelled})


def unscored(files: StudyFiles) -> dict[str, str]:
    """Cases that scored cells lack, by cell and case, with the reason."""
    return _reasons(files, "left_out")


def unlabelled_cases(files: StudyFiles) -> dict[str, str]:
    """Cases of scored cells that have all scores but those of organs, by cell and case, with the reason."""
    return _reasons(files, "unlabelled")


def _reasons(files: StudyFiles, part: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for cell in files.cells:
        path = files.scores_file(cell)
        if path.is_file():
            cases = json.loads(path.read_text(encoding="utf-8")).get(part, {})
            found |= {f"{cell.name}/{case}": reason for case, reason in cases.items()}
    return found


def _scores(
    files: StudyFiles,
    case: Case,
    image: Volume,
    spread: Volume | None,
    references: dict[str, Reference],
    mask: np.ndarray,
    labels: np.ndarray | None,
) -> dict[str, dict[str, float]]:
    """`score_case` with all that the plan asks for; without labels there are no organ metrics."""
    return score_case(
        image,
        spread,
        references,
        mask,
        organs_of(case),
        changed=changed_of(case),
        labels=labels,
        region=case.region,
        features=files.plan.features,
        device=str(choose_device(files.plan.device)),
    )


@lru_cache(maxsize=1)
def segmenter_of(name: str) -> Segmenter | None:
    """The segmenter of a study, loaded once."""
    return make_segmenter(name)


def labelled(files: StudyFiles, reference: Reference, path: Path) -> Reference:
    """A reference with its labels, made once for all cells."""
    if not path.is_file():
        labels = segmented(segmenter_of(files.segmenter), reference.ct, [])
        if labels is None:  # too thin, as every prediction on this grid: those say so
            return reference
        write_volume(labels, path)
    return replace(reference, labels=read_volume(path).array)


def against_truth(
    files: StudyFiles, image: Any, references: dict[str, Reference], mask: np.ndarray
) -> tuple[dict[str, float], dict[str, Any]]:
    """The displacement of an image against the truth: numbers; and what figures need, a coarse map and edge profiles."""
    truth, common = references[TRUTH].ct, common_mask(references, mask)
    field = displacement_field(image, truth, common)
    profiles = edge_profiles({"image": image, TRUTH: truth}, truth, common, files.axis)
    return summary(field), {"map": coarse_map(field, common), "profiles": profiles}


def score_references(files: StudyFiles, cohort: str) -> dict[str, Any]:
    """What no training changes, read where it is there already: `rows` (the references themselves against the truth, by
    the same measures as predictions), their `pictures`, and `control`."""
    path = files.references_file(cohort)
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    rows: Rows = []
    pictures: dict[str, dict[str, Any]] = {}
    for case in study_cases(files, cohort):
        references, mask = references_of(files, cohort, case), body_of(case)
        for name, reference in references.items():
            if TRUTH not in references or name == TRUTH:
                continue
            # only its own field of view counts: another reference's says nothing about this one
            columns = {TRUTH: references[TRUTH], name: reference}
            if not common_mask(columns, mask).any():
                continue
            scores = _scores(files, case, reference.ct, None, columns, mask, reference.labels)[TRUTH]
            if measurable(reference.ct):
                found, picture = against_truth(files, reference.ct, columns, mask)
                pictures.setdefault(name, {})[str(case.key)] = picture
                scores |= found
            own = {"case": str(case.key), "region": str(case.region), "train": name}
            rows.append({**own, **_finite(scores)})
    content = {"rows": rows, "pictures": pictures, "control": control_rows(files, cohort)}
    write_json(path, content)
    return content


def _finite(values: dict[str, float]) -> dict[str, float]:
    """Without what could not be measured in a case; JSON has no NaN."""
    return {name: value for name, value in values.items() if np.isfinite(value)}


def references_of(files: StudyFiles, cohort: str, case: Case) -> dict[str, Reference]:
    """The columns of a case by name, the truth first where it is known."""
    references: dict[str, Reference] = {}
    truth = find_truth(case)
    if truth is not None:
        ct = read_volume(truth)
        found = Reference(ct, body_of(case))
        references[TRUTH] = labelled(files, found, files.labels_file(cohort, None, str(case.key)))
    for pairs in files.pair_sets:
        if pairs.plan.kind != "truth":
            folder = files.pairs_folder(cohort, pairs) / str(case.key)
            reference = load_reference(case, folder, pairs.convention)
            if reference is not None:
                references[pairs.name] = labelled(files, reference, files.labels_file(cohort, pairs, str(case.key)))
    return references


def control_rows(files: StudyFiles, cohort: str) -> Rows:
    """The control: a case's CT through registration A, then through B, against itself, for every two different ones."""
    rows: Rows = []
    registered = [p for p in files.pair_sets if p.plan.registered]
    for case in study_cases(files, cohort):
        for own in registered:
            for partner in registered:
                folders = [files.pairs_folder(cohort, p) / str(case.key) for p in (own, partner)]
                ct = find_image(folders[0], "ct")
                mask = find_image(folders[0], "mask")
                if own.plan == partner.plan or ct is None or mask is None:
                    continue
                found = control_of_pairs(read_volume(ct), read_mask(mask).array > 0, *folders)
                if not isinstance(found, str):
                    name = f"{partner.name} then {own.name}"
                    rows.append({"case": str(case.key), "region": str(case.region), "train": name, "mae": found.mae})
    return rows


def prediction_files(folder: Path, case: Case) -> tuple[Path, Path | None]:
    """A case's sCT and the ensemble's spread.

    Raises:
        InputError: The case was not predicted.
    """
    image, spread = output_paths(case, folder)
    if not image.is_file():
        raise InputError(folder, found=f"no prediction of {case.key}", expected="one")
    return image, spread if spread.is_file() else None


def body_of(case: Case) -> np.ndarray:
    """The case's mask (bool, z y x) on the source's grid."""
    assert isinstance(case.mask, Path)
    return read_mask(case.mask).array > 0


def organs_of(case: Case) -> np.ndarray | None:
    """Labels on the source's grid, which only simulated cases have."""
    path = find_image(case.folder / "truth", "labels_source") if case.folder is not None else None
    return read_volume(path).array if path is not None else None


def changed_of(case: Case) -> np.ndarray | None:
    """Where gas or filling differ between the scans (bool, z y x), on the source's grid; only simulated cases tell."""
    path = find_image(case.folder / "truth", "content_changed") if case.folder is not None else None
    return read_mask(path).array > 0 if path is not None else None
