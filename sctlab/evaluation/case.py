"""One case from files to numbers: read, check, score as the challenge does, then look closer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from sctlab.evaluation import checks
from sctlab.evaluation.closer import look_closer, recalculate_doses
from sctlab.evaluation.images import Images, find_reference, load_images, reference_labels
from sctlab.evaluation.organs import region_metrics
from sctlab.evaluation.provenance import reference_registration
from sctlab.evaluation.records import CaseRecord
from sctlab.evaluation.segmentation import Segmenter, class_names, comparable, make_segmenter, read_labels, segmented
from sctlab.evaluation.settings import EvaluationSettings
from sctlab.evaluation.steps import finite, optional, timed
from sctlab.evaluation.structures import Structures, load_structures
from sctlab.measures.image import image_metrics
from sctlab_model.cases import Case
from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_volume
from sctlab_model.volume import Volume

# a process that scores many cases loads the network once
_segmenter = lru_cache(maxsize=1)(make_segmenter)


def evaluate_case(case: Case, prediction: Path, spread: Path | None, settings: EvaluationSettings) -> CaseRecord:
    """Score one prediction.

    Args:
        case: A cohort's case, with its folder.
        prediction: The sCT's file.
        spread: The ensemble's standard deviation (HU), where it was written.
        settings: What to compute; `device` is a real one (not `auto`).

    Raises:
        InputError: Something that can't be scored, see `checks`.
    """
    assert case.folder is not None
    reference = find_reference(case, settings.reference)
    record = CaseRecord(
        id=case.id, region=str(case.region), task=str(case.task), prediction=str(prediction), reference=str(reference)
    )
    record.registration = asdict(reference_registration(case.folder, reference))
    with timed(record, "read"):
        images = load_images(case, prediction, reference, record.notes)
    with timed(record, "image metrics"):
        scores = image_metrics(images.prediction.array, images.reference.array, images.mask, device=settings.device)
        record.metrics |= scores.as_dict()
        if math.isinf(scores.psnr):
            record.notes.append("prediction and reference are identical inside the mask: PSNR is infinite")
        if math.isnan(scores.ms_ssim):
            record.notes.append("the mask is empty at a coarse level: MS-SSIM is undefined")
    segmenter = _segmenter(settings.segmenter, settings.device)
    predicted_labels = _predicted_labels(case, images.prediction, settings, segmenter, record.notes)
    labels = None
    with timed(record, "organ metrics"):
        if predicted_labels is not None:
            labels = _reference_labels(case, images, segmenter, record)
            given = settings.labels is not None and read_labels(settings.labels, case) is not None
            alike = labels if given or labels is None else comparable(labels, segmenter)
            names = {} if given else class_names(segmenter)
            _score_organs(case, predicted_labels, alike, names, record)
    structures: Structures | None = None  # where they can't be read, nothing is aimed at something else instead
    if settings.dose or not settings.challenge_only:
        with optional(record, "structures"):
            if labels is None and (settings.dose or settings.target is not None):
                labels = _reference_labels(case, images, segmenter, record)
            own = reference_labels(case, Path(record.reference)) is not None
            names = {} if own else class_names(segmenter)
            structures = load_structures(case, labels, settings.structures, settings.target, names)
    if structures is not None:
        recalculate_doses(case, images, structures, settings, record)
    if not settings.challenge_only:
        look_closer(case, images, predicted_labels, structures, spread, settings, record)
    record.metrics = {k: finite(v) for k, v in record.metrics.items()}
    return record


def _predicted_labels(
    case: Case, prediction: Volume, settings: EvaluationSettings, segmenter: Segmenter | None, notes: list[str]
) -> Volume | None:
    if settings.labels is not None:
        labels = read_labels(settings.labels, case)
        if labels is not None:
            return checks.check_labels(labels, prediction, notes)
        if segmenter is None:
            raise InputError(
                settings.labels,
                found=f"no labels {case.id}.*",
                expected="labels of every prediction",
                advice="add them, or give --segmenter",
            )
    labels = segmented(segmenter, prediction, notes)
    return None if labels is None else checks.check_labels(labels, prediction, notes)


def _reference_labels(case: Case, images: Images, segmenter: Segmenter | None, record: CaseRecord) -> Volume | None:
    path = reference_labels(case, Path(record.reference))
    if path is not None:
        return checks.check_labels(read_volume(path), images.reference, record.notes)
    return segmented(segmenter, images.reference, record.notes)


def _score_organs(
    case: Case, predicted: Volume, reference: Volume | None, names: Mapping[int, str], record: CaseRecord
) -> None:
    if reference is None:
        record.notes.append("no labels of the reference: no organ metrics")
        return
    scores = region_metrics(predicted, reference, case.region)
    record.metrics |= {"DICE": scores.dice, "HD95": scores.hd95}
    named = [(o, names.get(o.label, o.name)) for o in scores.organs]
    record.organs = [{"label": o.label, "name": name, "dice": o.dice, "hd95": finite(o.hd95)} for o, name in named]
    if not scores.organs:
        record.notes.append(
            "the reference has none of the region's classes: Dice 0 and HD95 0, as the challenge counts"
        )
    lost = [name for o, name in named if o.lost]
    if lost:
        record.notes.append(
            f"lost from the prediction: {', '.join(lost)}; Dice 0 each, and their HD95 is left out of the "
            "mean, which flatters it"
        )
    if scores.invented:
        record.notes.append(f"organs that only the prediction has, which count nowhere: {len(scores.invented)}")
