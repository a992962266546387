"""One case from files to numbers: read, check, score as the challenge does, then look closer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sctlab.evaluation import bias, calibration, checks, profiles, tissues, water_equivalent
from sctlab.evaluation.organs import REGION_CLASSES, OrganMetrics, organ_metrics
from sctlab.evaluation.provenance import reference_registration
from sctlab.evaluation.segmentation import Segmenter, make_segmenter, read_labels
from sctlab.measures.image import image_metrics
from sctlab.measures.similarity import edge_agreement, normalised_mutual_information
from sctlab_model.body import body_mask
from sctlab_model.cases import Case, Region, Task, find_image
from sctlab_model.errors import InputError, ProductError
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.volume import Volume

# a process that scores many cases loads the network once
_segmenter = lru_cache(maxsize=1)(make_segmenter)


@dataclass(frozen=True)
class Options:
    """What to compute, the same for every case.

    Args:
        reference: File stem of the reference in the case folder; empty takes `ct`, or `ct_def` where only that is there.
        labels: Folder with labels of the predictions, `<ID>.*`.
        segmenter: `none`, `totalsegmentator`, or a TorchScript file; used where no label file is.
        input_labels: Folder with labels drawn on the inputs; `truth/labels_source` of simulated cases by default.
        target: Label id of the reference that proton rays end in; None takes a ball at the mask's centre.
        truth: Cohort that holds `truth/` folders, when it isn't the evaluated one.
        floor: Send each reference through its registration and back.
        challenge_only: Only the challenge's metrics.
        device: For the image and organ metrics and the segmenter.
    """

    reference: str = ""
    labels: Path | None = None
    segmenter: str = "none"
    input_labels: Path | None = None
    target: int | None = None
    truth: Path | None = None
    floor: bool = False
    challenge_only: bool = False
    device: str = "cpu"


@dataclass
class CaseRecord:
    """Everything about one case, ready for JSON.

    Args:
        metrics: Key of `definitions.METRICS` → value; None where it is undefined.
        notes: What a reader of the numbers must know.
    """

    id: str
    region: str
    task: str
    prediction: str
    reference: str
    registration: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float | None] = field(default_factory=dict)
    organs: list[dict[str, Any]] = field(default_factory=list)
    tissues: dict[str, dict[str, float]] = field(default_factory=dict)
    depth: list[dict[str, float]] = field(default_factory=list)
    slices: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    banding: dict[str, float] = field(default_factory=dict)
    spread: dict[str, Any] | None = None
    truth: dict[str, float] | None = None
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Images:
    """A case's images on one grid."""

    prediction: Volume
    reference: Volume
    mask: np.ndarray
    source: Volume | None = None


def evaluate_case(case: Case, prediction: Path, spread: Path | None, options: Options) -> CaseRecord:
    """Score one prediction.

    Raises:
        InputError: Something that can't be scored, see `checks`.
    """
    assert case.folder is not None
    reference = find_reference(case, options.reference)
    record = CaseRecord(case.id, str(case.region), str(case.task), str(prediction), str(reference))
    record.registration = asdict(reference_registration(case.folder, reference))
    with _timed(record, "read"):
        images = load_images(case, prediction, reference, record.notes)
    with _timed(record, "image metrics"):
        scores = image_metrics(images.prediction.array, images.reference.array, images.mask, device=options.device)
        record.metrics |= scores.as_dict()
        if math.isinf(scores.psnr):
            record.notes.append("prediction and reference are identical inside the mask: PSNR is infinite")
        if math.isnan(scores.ms_ssim):
            record.notes.append("the mask is empty at a coarse level: MS-SSIM is undefined")
    segmenter = _segmenter(options.segmenter, options.device)
    predicted_labels = _predicted_labels(case, images.prediction, options, segmenter, record.notes)
    with _timed(record, "organ metrics"):
        _score_organs(case, images, predicted_labels, options, segmenter, record)
    if not options.challenge_only:
        _look_closer(case, images, predicted_labels, spread, options, record)
    record.metrics = {k: _finite(v) for k, v in record.metrics.items()}
    return record


def find_reference(case: Case, stem: str) -> Path:
    """The reference CT of a case: `<stem>.*` in its folder, by default `ct`, or `ct_def` where only that is there."""
    assert case.folder is not None
    place = case.folder / stem if stem else None
    path = find_image(place.parent, place.name) if place is not None else case.target
    if path is None:
        raise InputError(
            case.folder,
            found=f"no reference {stem or 'ct or ct_def'}",
            expected="a CT in the case folder",
            advice="--reference names another file",
        )
    return path


def load_images(case: Case, prediction: Path, reference: Path, notes: list[str]) -> Images:
    """Read and check a case; what is odd but can be scored goes into `notes`."""
    sct, ct = read_volume(prediction), read_volume(reference)
    notes += checks.check_grids(sct, ct)
    notes += checks.check_hounsfield(sct, "the prediction")
    notes += checks.check_hounsfield(ct, "the reference")
    sct = Volume(sct.array, ct.geometry, sct.name)
    mask = case.read_mask()
    if mask is None:
        mask = body_mask(ct, Task.CBCT)
        notes.append("no body mask: one was computed from the reference")
    notes += checks.check_mask(mask, ct)
    fov = find_image(case.folder, "fov") if case.folder is not None else None
    notes += checks.check_field_of_view(ct, mask.array, read_mask(fov) if fov is not None else None)
    source, odd = checks.check_input(case.read_source(), ct)
    notes += odd
    return Images(sct, ct, mask.array, source)


def _predicted_labels(
    case: Case, prediction: Volume, options: Options, segmenter: Segmenter | None, notes: list[str]
) -> Volume | None:
    if options.labels is not None:
        labels = read_labels(options.labels, case.id)
        if labels is not None:
            return checks.check_labels(labels, prediction, notes)
        if segmenter is None:
            raise InputError(
                options.labels,
                found=f"no labels {case.id}.*",
                expected="labels of every prediction",
                advice="add them, or give --segmenter",
            )
    return checks.check_labels(segmenter.segment(prediction), prediction, notes) if segmenter is not None else None


def _score_organs(
    case: Case,
    images: Images,
    predicted: Volume | None,
    options: Options,
    segmenter: Segmenter | None,
    record: CaseRecord,
) -> None:
    if predicted is None:
        return
    path = find_image(case.folder, "labels") if case.folder is not None else None
    if path is not None:
        reference = checks.check_labels(read_volume(path), images.reference, record.notes)
    elif segmenter is not None:
        reference = segmenter.segment(images.reference)
    else:
        record.notes.append("no labels.* in the case folder: no organ metrics")
        return
    scores = _organs(predicted, reference, case.region)
    record.metrics |= {"DICE": scores.dice, "HD95": scores.hd95}
    record.organs = [{"label": o.label, "name": o.name, "dice": o.dice, "hd95": _finite(o.hd95)} for o in scores.organs]
    if not scores.organs:
        record.notes.append(
            "the reference has none of the region's classes: Dice 0 and HD95 0, as the challenge counts"
        )
    lost = [o.name for o in scores.organs if o.lost]
    if lost:
        record.notes.append(
            f"lost from the prediction: {', '.join(lost)}; Dice 0 each, and their HD95 is left out of the "
            "mean, which flatters it"
        )
    if scores.invented:
        record.notes.append(f"{len(scores.invented)} classes are only in the prediction and count nowhere")


def _organs(predicted: Volume, reference: Volume, region: Region | None) -> OrganMetrics:
    classes = REGION_CLASSES[region] if region is not None else REGION_CLASSES[Region.AB]
    return organ_metrics(predicted.array, reference.array, classes, reference.geometry.spacing_xyz[::-1])


def _look_closer(
    case: Case, images: Images, predicted: Volume | None, spread: Path | None, options: Options, record: CaseRecord
) -> None:
    """Everything beyond the challenge: what fails here is noted and costs none of the challenge's numbers."""
    sct, ct, mask = images.prediction.array, images.reference.array, images.mask
    spacing = images.reference.geometry.spacing_xyz[::-1]
    with _extra(record, "tissues"):
        by_tissue = tissues.tissue_errors(sct, ct, mask)
        record.tissues = {name: asdict(e) for name, e in by_tissue.items()}
        count = sum(e.voxels for e in by_tissue.values())
        record.metrics["red_mae"] = 100 * sum(e.mae_density * e.voxels for e in by_tissue.values()) / count
    with _extra(record, "profiles"):
        record.depth = [
            asdict(d) | {"to_mm": _finite(d.to_mm)} for d in profiles.error_by_depth(sct, ct, mask, spacing)
        ]
        slices, bands = profiles.error_by_slice(sct, ct, mask, spacing), profiles.banding(sct, ct, mask)
        # both or none: the report draws them together
        record.banding = bands
        record.slices = {axis: {k: list(v) for k, v in asdict(s).items()} for axis, s in slices.items()}
        record.metrics["banding"] = record.banding["z"]
        for axis in profiles.banded_axes(record.banding):
            record.notes.append(
                f"bands between slices along {axis}: offsets of {record.banding[axis]:.1f} HU, more than "
                "twice those along the other axes"
            )
    with _extra(record, "path lengths"):
        _path_lengths(case, images, options, record)
    if images.source is not None:
        with _extra(record, "input"):
            record.metrics["nmi_input"] = normalised_mutual_information(
                sct[mask].astype(np.float32), images.source.array[mask].astype(np.float32)
            )
            record.metrics["edge_agreement_input"] = edge_agreement(images.source, images.prediction, mask)
    with _extra(record, "input labels"):
        _against_input_labels(case, images.reference, predicted, options, record)
    if spread is not None:
        with _extra(record, "spread"):
            _calibrate(images, spread, record)
    truth_folder = _truth_folder(case, options)
    if truth_folder is not None:
        with _extra(record, "truth"):
            _against_truth(images, truth_folder, options, record)
    if options.floor:
        with _extra(record, "floor"):
            _floor(case, images, options, record)


def _path_lengths(case: Case, images: Images, options: Options, record: CaseRecord) -> None:
    target, name = None, ""
    if options.target is not None:
        path = find_image(case.folder, "labels") if case.folder is not None else None
        if path is None:
            record.notes.append(f"no labels.* to find target {options.target} in: no path lengths")
            return
        # _score_organs reads the same file and notes its geometry, but only where the prediction has labels
        notes: list[str] = []
        labels = checks.check_labels(read_volume(path), images.reference, notes)
        record.notes += [n for n in notes if n not in record.notes]
        target, name = labels.array == options.target, f"label {options.target}"
    result = water_equivalent.path_difference(
        images.prediction.array,
        images.reference.array,
        images.mask,
        images.reference.geometry,
        target=target,
        target_name=name,
    )
    if result is None:
        record.notes.append(f"target {name} is empty inside the mask: no path lengths")
        return
    record.metrics |= {"wepl_mean": result.mean_absolute_mm, "wepl_p95": result.p95_absolute_mm}


def _against_input_labels(
    case: Case, reference: Volume, predicted: Volume | None, options: Options, record: CaseRecord
) -> None:
    labels = _input_labels(case, options)
    if labels is None:
        if options.input_labels is not None:
            record.notes.append(f"no labels {case.id}.* in {options.input_labels}: no dice_input")
    elif predicted is None:
        record.notes.append("labels of the input but none of the prediction: no dice_input")
    elif labels.array.shape != predicted.array.shape:
        record.notes.append("the labels of the input lie on another grid than the reference: no dice_input")
    else:
        labels = checks.check_labels(labels, reference, record.notes)
        record.metrics["dice_input"] = _organs(predicted, labels, case.region).dice


def _input_labels(case: Case, options: Options) -> Volume | None:
    if options.input_labels is not None:
        return read_labels(options.input_labels, case.id)
    folder = _truth_folder(case, options)
    path = find_image(folder, "labels_source") if folder is not None else None
    return read_volume(path) if path is not None else None


def _calibrate(images: Images, path: Path, record: CaseRecord) -> None:
    spread = read_volume(path)
    if spread.array.shape != images.mask.shape:
        record.notes.append(f"the spread {path.name} has another shape: not used")
        return
    error = images.prediction.array[images.mask].astype(np.float32) - images.reference.array[images.mask]
    result = calibration.spread_calibration(error, spread.array[images.mask])
    if result is None:
        record.notes.append("the spread is zero throughout: one fold and one view predicted this case")
        return
    record.spread = asdict(result)
    record.metrics |= {"spread_calibration": result.calibration_error, "spread_rank": result.rank_correlation}


def _truth_folder(case: Case, options: Options) -> Path | None:
    assert case.folder is not None
    assert case.region is not None
    places = [case.folder / "truth"]
    if options.truth is not None:
        places.append(options.truth / case.task.folder / case.region / case.id / "truth")
    return next((p for p in places if p.is_dir()), None)


def _against_truth(images: Images, folder: Path, options: Options, record: CaseRecord) -> None:
    result = bias.truth_bias(images.prediction, images.reference, images.mask, folder, device=options.device)
    if isinstance(result, str):
        record.notes.append(result)
    elif result is not None:
        record.truth = {k: _finite(v) for k, v in asdict(result).items()}
        record.metrics |= {
            "mae_truth": result.mae,
            "psnr_truth": result.psnr,
            "ms_ssim_truth": result.ms_ssim,
            "bias": result.bias_hu,
            "reference_error": result.reference_error_hu,
        }


def _floor(case: Case, images: Images, options: Options, record: CaseRecord) -> None:
    assert case.folder is not None
    transform = bias.find_transform(case.folder)
    if transform is None:
        record.notes.append("no transform in the case folder: no registration floor")
        return
    result = bias.registration_floor(images.reference, images.mask, transform, images.reference.geometry)
    record.metrics["floor"] = result.mae


class _timed:
    """Add the block's duration to `record.seconds[step]`."""

    def __init__(self, record: CaseRecord, step: str) -> None:
        self._record, self._step = record, step

    def __enter__(self) -> Callable[[], float]:
        self._start = time.perf_counter()
        return lambda: time.perf_counter() - self._start

    def __exit__(self, *_: object) -> None:
        self._record.seconds[self._step] = round(time.perf_counter() - self._start, 3)


class _extra(_timed):
    """A timed block whose failure becomes a note: the numbers that are there already stay."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        super().__exit__(kind, error, trace)
        if not isinstance(error, Exception):
            return False  # no error, or an interrupt
        reason = str(error) if isinstance(error, ProductError) else f"{type(error).__name__}: {error}"
        self._record.notes.append(f"{self._step} failed, its numbers are missing: {' '.join(reason.split())}")
        return True


def _finite(value: float | None) -> float | None:
    """JSON has no NaN and no infinity: None says that a number is undefined."""
    return value if value is not None and math.isfinite(value) else None
