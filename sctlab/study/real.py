"""Networks on real images, judged without a registration: the source itself, its own labels, and HU that CTs have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance

from sctlab.evaluation.segmentation import segmented
from sctlab.measures.similarity import edge_agreement
from sctlab.study.cells import SHORT, Cell, StudyFiles
from sctlab.study.displacement import INPUT_SHIFT, shift_to_source
from sctlab.study.plan import StudyPlan
from sctlab.study.real_images import TOTAL_IDS, RealImage
from sctlab.study.scoring import prediction_files, segmenter_of
from sctlab.workflow.cases import run_cases
from sctlab.workflow.keys import content_key
from sctlab_model.body import body_mask
from sctlab_model.cases import Case, Task, single_case
from sctlab_model.cohort import PredictionSettings, predict_cohort
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import write_json
from sctlab_model.io.reading import read_volume
from sctlab_model.monitor import Monitor
from sctlab_model.volume import AIR_HU, Volume, resample

MEASURES = "measures.json"
OWN_CT = "own CT"  # its row: what a real CT scores by the same measures, as it was scanned
EDGES = "edge_agreement_input"
HU_DISTANCE, OUTSIDE, DICE = "hu_distance", "organs_outside", "dice_input"
QUANTITIES = (EDGES, *INPUT_SHIFT, HU_DISTANCE, OUTSIDE, DICE)
Rows = list[dict[str, Any]]


def measure(
    sct: Volume, source: Volume, body: np.ndarray, *, ct: Volume | None = None, ct_body: np.ndarray | None = None
) -> dict[str, float]:
    """What an sCT has of its source's edges, where it lies, and how its HU are spread.

    Args:
        sct: HU.
        source: What it was made of, on the same grid.
        body: Bool, z y x.
        ct: The patient's own CT on the same grid, by its scanner's coordinates alone.
        ct_body: Where that CT shows the body (bool, z y x).

    Returns:
        `edge_agreement_input`: mean squared cosine of both images' gradients, weighted by the source's (Haber and Modersitzki
        2007). `input_d*_mm`: `shift_to_source`, about 0 where the sCT lies in its source's place.
        `hu_distance`: first Wasserstein distance between the HU of both CTs where both show the body: it asks what there is
        and not where, so that no registration is needed.
    """
    found = {EDGES: edge_agreement(source, sct, body)} | shift_to_source(sct, source, body)
    if ct is not None and ct_body is not None:
        both = body & ct_body
        found[HU_DISTANCE] = (
            float(wasserstein_distance(sct.array[both], ct.array[both])) if both.any() else float("nan")
        )
    return found


def measure_organs(sct: Volume, labels: np.ndarray, image: RealImage, seen: np.ndarray | None) -> dict[str, float]:
    """What an sCT shows where its source's labels say that an organ is.

    Args:
        sct: HU.
        labels: The source's (z y x).
        image: Its organs.
        seen: Labels that a segmenter gives the sCT (TotalSegmentator's `total` ids, z y x).

    Returns:
        `hu_<organ>`: mean HU. `organs_outside`: mean over organs of the distance of that mean to the organ's range, 0 within.
        `dice_<organ>`, `dice_input`: Dice of labels and `seen`, and its mean. Organs that the image lacks have no value.
    """
    found: dict[str, float] = {}
    outside, dices = [], []
    for name, organ in image.organs.items():
        place = np.isin(labels, organ.labels)
        if not place.any():
            continue
        mean = found[f"hu_{name}"] = float(sct.array[place].mean())
        if organ.hu is not None:
            outside.append(max(organ.hu[0] - mean, mean - organ.hu[1], 0.0))
        if seen is not None:
            there = np.isin(seen, TOTAL_IDS[name])
            dices.append(2 * int((place & there).sum()) / int(place.sum() + there.sum()))
            found[f"dice_{name}"] = dices[-1]
    if outside:
        found[OUTSIDE] = float(np.mean(outside))
    if dices:
        found[DICE] = float(np.mean(dices))
    return found


def judge_real_images(
    files: StudyFiles, *, jobs: int | None, executor: str, monitor: Monitor, failed: dict[str, str]
) -> None:
    """Predict and measure what is missing; what fails is added to `failed`."""
    own = [(image, (files.plan, files.out, image)) for image in files.plan.real if _needs_own(files, image)]
    for outcome in run_cases(judge_own_ct, own, jobs=jobs, executor=executor, monitor=monitor):
        if not outcome.ok:
            failed[f"{OWN_CT}/{outcome.name}"] = outcome.error
    networks = [
        (f"{cell.name}/fold{fold}/{image}", (files.plan, files.out, cell, fold, image))
        for cell, fold, image in _networks(files)
        if files.finished(cell, fold) and not (real_folder(files, cell, fold, image) / MEASURES).is_file()
    ]
    if not networks:
        return
    monitor.info(f"judging {len(networks)} predictions of real images")
    for outcome in run_cases(judge_network, networks, jobs=jobs, executor=executor, monitor=monitor):
        if not outcome.ok:
            failed[outcome.name] = outcome.error


def judge_network(plan: StudyPlan, out: Path, cell: Cell, fold: int, name: str) -> None:
    """Predict a real image with one trained network, measure the sCT, and write `measures.json`.

    Raises:
        InputError: It can't be predicted, or shows no body.
    """
    files, image = StudyFiles(plan, out), plan.real[name]
    folder, case = real_folder(files, cell, fold, name), case_of(image)
    source, body = _source(image)
    ct, ct_body = own_ct(image, source)
    settings = PredictionSettings(
        weights=files.fold_folder(cell, fold) / "bundle",
        device=plan.device,
        accept_implausible=True,
        skip_existing=True,
    )
    result = predict_cohort([case], folder, settings)
    if result.failed:
        raise InputError(image.source, found=str(result.results[case.key].error), expected="a prediction")
    sct = read_volume(prediction_files(folder, case)[0])
    values, notes = measure(sct, source, body, ct=ct, ct_body=ct_body), list[str]()
    if image.labels is not None:
        seen = segmented(segmenter_of(image.segmenter), sct, notes)
        labels = read_volume(image.labels).array
        values |= measure_organs(sct, labels, image, None if seen is None else seen.array)
    _write(folder, values, notes)


def judge_own_ct(plan: StudyPlan, out: Path, name: str) -> None:
    """The same measures of the patient's own CT, as it was scanned: what is reached without any synthesis."""
    files, image = StudyFiles(plan, out), plan.real[name]
    source, body = _source(image)
    ct, ct_body = own_ct(image, source)
    assert ct is not None
    assert ct_body is not None
    if not (body & ct_body).any():
        raise InputError(
            image.ct or name,
            found=f"no place in the body that {image.source} shows, too",
            expected="the patient's own CT in the source's frame of reference",
        )
    values = measure(ct, source, body & ct_body)
    _write(own_folder(files, name), values, [])


def case_of(image: RealImage) -> Case:
    """A real image as a case to predict."""
    return single_case(image.source, image.task, region=image.region)


def own_ct(image: RealImage, source: Volume) -> tuple[Volume | None, np.ndarray | None]:
    """The patient's own CT on the source's grid, by the coordinates in both headers alone, and where it shows the body."""
    if image.ct is None:
        return None, None
    ct = read_volume(image.ct)
    moved = [
        resample(volume, source.geometry, interpolation=kind, outside=outside)
        for volume, kind, outside in ((ct, "linear", float(AIR_HU)), (body_mask(ct, Task.CBCT), "nearest", 0.0))
    ]
    return moved[0], moved[1].array > 0


def real_rows(files: StudyFiles) -> Rows:
    """Every measure that is there, one row a network and image; first the patients' own CTs, which no network made."""
    rows: Rows = []
    for name, image in files.plan.real.items():
        if image.ct is not None:
            rows += _read({"train": OWN_CT, "image": name}, own_folder(files, name))
    for cell, fold, name in _networks(files):
        row = {"train": files.train_name(cell), "image": name, "seed": cell.seed, "fold": fold}
        rows += _read(row, real_folder(files, cell, fold, name))
    return rows


def real_folder(files: StudyFiles, cell: Cell, fold: int, name: str) -> Path:
    """Of a network's prediction of a real image, and of what was measured."""
    key = _key(files, name, [files.fold_key(cell, fold)])
    return files.out / "real" / f"{name}-{cell.pairs.name}-{fold}-{key[:SHORT]}"


def own_folder(files: StudyFiles, name: str) -> Path:
    """Of what was measured of a patient's own CT."""
    return files.out / "real" / f"{name}-own-{_key(files, name, [])[:SHORT]}"


def _networks(files: StudyFiles) -> Iterator[tuple[Cell, int, str]]:
    """Every network with every real image of its task."""
    for cell in files.cells:
        for fold in range(files.plan.folds):
            for name, image in files.plan.real.items():
                if image.task is files.plan.cohorts[cell.cohort].of_task:
                    yield cell, fold, name


def _needs_own(files: StudyFiles, name: str) -> bool:
    return files.plan.real[name].ct is not None and not (own_folder(files, name) / MEASURES).is_file()


def _key(files: StudyFiles, name: str, inputs: list[str]) -> str:
    """By the image's settings, and sizes and times of its files."""
    image = files.plan.real[name]
    stamps = [f"{p.stat().st_size} {p.stat().st_mtime_ns}" if p.is_file() else "missing" for p in image.files]
    settings = {"image": image.model_dump(mode="json"), "files": stamps}
    return content_key("study-real/1", settings=settings, inputs=inputs)


def _source(image: RealImage) -> tuple[Volume, np.ndarray]:
    source = read_volume(image.source)
    return source, body_mask(source, image.task).array > 0


def _write(folder: Path, values: dict[str, float], notes: list[str]) -> None:
    finite = {name: value for name, value in values.items() if np.isfinite(value)}  # JSON has no NaN
    write_json(folder / MEASURES, {"measures": finite, "notes": notes})


def _read(row: dict[str, Any], folder: Path) -> Rows:
    path = folder / MEASURES
    if not path.is_file():
        return []
    return [row | json.loads(path.read_text(encoding="utf-8"))["measures"]]
