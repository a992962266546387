"""Everything beyond the challenge's metrics for one case: what fails here is noted and costs none of the others."""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np

from sctlab.evaluation import bias, calibration, checks, profiles, tissues, water_equivalent
from sctlab.evaluation.definitions import feature_key
from sctlab.evaluation.dose.case import score_dose
from sctlab.evaluation.images import TRUTH, Images
from sctlab.evaluation.organs import region_metrics
from sctlab.evaluation.records import CaseRecord
from sctlab.evaluation.segmentation import read_labels
from sctlab.evaluation.settings import EvaluationSettings
from sctlab.evaluation.steps import finite, optional
from sctlab.evaluation.structures import Structures
from sctlab.features import FeatureExtractor, load_extractor
from sctlab.measures.features import feature_distance
from sctlab.measures.image import image_metrics
from sctlab.measures.similarity import edge_agreement, normalised_mutual_information
from sctlab.measures.ssim import ssim
from sctlab_model.cases import Case, Task, find_image
from sctlab_model.io.reading import read_volume
from sctlab_model.volume import Volume

ALL_WATER, RAW_IMAGE = "all water", "raw image"
LPIPS_NAME, LPIPS_NETWORK = "lpips", "vgg16"


def look_closer(
    case: Case,
    images: Images,
    predicted: Volume | None,
    structures: Structures | None,
    spread: Path | None,
    settings: EvaluationSettings,
    record: CaseRecord,
) -> None:
    """Add to `record` what the settings ask for.

    Args:
        predicted: Labels of the prediction.
        structures: What path lengths end in; None measures none.
        spread: File of the ensemble's standard deviation.
    """
    with optional(record, "baselines"):
        record.baselines = _baselines(case, images, settings.device)
    with optional(record, "SSIM"):
        record.metrics["ssim"] = ssim(images.prediction.array, images.reference.array, images.mask)
    for name in settings.features:
        with optional(record, f"features of {name}"):
            record.metrics[feature_key(name)] = distance_in(
                name, images.prediction.array, images.reference.array, images.mask, settings.device
            )
    with optional(record, "tissues"):
        by_tissue = tissues.tissue_errors(images.prediction.array, images.reference.array, images.mask)
        record.tissues = {name: asdict(e) for name, e in by_tissue.items()}
        count = sum(e.voxels for e in by_tissue.values())
        record.metrics["red_mae"] = 100 * sum(e.mae_density * e.voxels for e in by_tissue.values()) / count
    with optional(record, "profiles"):
        _profiles(images, record)
    if structures is not None:
        with optional(record, "path lengths"):
            _path_lengths(images, structures, record)
    source = images.source
    if source is not None:
        with optional(record, "input"):
            record.metrics["nmi_input"] = normalised_mutual_information(
                images.prediction.array[images.mask].astype(np.float32),
                source.array[images.mask].astype(np.float32),
            )
            record.metrics["edge_agreement_input"] = edge_agreement(source, images.prediction, images.mask)
    with optional(record, "input labels"):
        _against_input_labels(case, images.reference, predicted, settings, record)
    if spread is not None:
        with optional(record, "spread"):
            _calibrate(images, spread, record)
    truth = truth_folder(case, settings)
    if truth is not None and Path(record.reference).parent != truth:
        with optional(record, "truth"):
            _against_truth(images, truth, settings, record)
    if settings.round_trip:
        with optional(record, "round trip"):
            _round_trip(case, images, record)
    if settings.control is not None:
        with optional(record, "control"):
            _control(case, images, settings.control, record)


def recalculate_doses(
    case: Case, images: Images, structures: Structures, settings: EvaluationSettings, record: CaseRecord
) -> None:
    """Add the dose metrics of the settings' modalities to `record`; one that fails is noted."""
    folder = settings.dose_cache
    for modality in settings.dose:
        with optional(record, f"dose of {modality}"):
            out = folder / record.key if folder is not None else None
            metrics, record.dose[modality] = score_dose(modality, images, structures, case.region, folder, out)
            record.metrics |= metrics


def truth_folder(case: Case, settings: EvaluationSettings) -> Path | None:
    """The `truth/` folder of a simulated case: beside it, or in the cohort that the settings name."""
    assert case.folder is not None
    assert case.region is not None
    places = [case.folder / TRUTH]
    if settings.truth is not None:
        places.append(settings.truth / case.task.folder / case.region / case.id / TRUTH)
    return next((p for p in places if p.is_dir()), None)


def _baselines(case: Case, images: Images, device: str) -> dict[str, dict[str, float | None]]:
    """What a body of water and, for CBCT, the image as it is would score: below that, a network has learnt something."""
    candidates = {ALL_WATER: np.zeros_like(images.reference.array)}
    if case.task is Task.CBCT and images.source is not None:
        candidates[RAW_IMAGE] = images.source.array
    return {
        name: {
            k: finite(v)
            for k, v in image_metrics(array, images.reference.array, images.mask, device=device).as_dict().items()
        }
        for name, array in candidates.items()
    }


@lru_cache(maxsize=4)
def extractor_of(name: str) -> FeatureExtractor:
    """The network of one of the settings' `features`; `lpips` is VGG16.

    Raises:
        InputError: No such extractor.
        WeightsError: Its weights are not here.
    """
    return load_extractor(LPIPS_NETWORK if name == LPIPS_NAME else name)


def distance_in(name: str, prediction: np.ndarray, reference: np.ndarray, mask: np.ndarray, device: str) -> float:
    """`feature_distance` of two CTs (HU, z y x) over the mask in the features of one of the settings' `features`."""
    own = name == LPIPS_NAME
    return feature_distance(extractor_of(name), prediction, reference, mask, unit=own, centred=own, device=device)


def _profiles(images: Images, record: CaseRecord) -> None:
    sct, ct, mask = images.prediction.array, images.reference.array, images.mask
    spacing = images.reference.geometry.spacing_xyz[::-1]
    record.depth = [asdict(d) | {"to_mm": finite(d.to_mm)} for d in profiles.error_by_depth(sct, ct, mask, spacing)]
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


def _path_lengths(images: Images, structures: Structures, record: CaseRecord) -> None:
    name, target = structures.target(images.reference.geometry) or ("", None)
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
    case: Case, reference: Volume, predicted: Volume | None, settings: EvaluationSettings, record: CaseRecord
) -> None:
    labels = _input_labels(case, settings)
    if labels is None:
        if settings.input_labels is not None:
            record.notes.append(f"no labels {case.id}.* in {settings.input_labels}: no Dice against them")
    elif predicted is None:
        record.notes.append("labels of the input but none of the prediction: no Dice against them")
    elif labels.array.shape != predicted.array.shape:
        record.notes.append("the labels of the input lie on another grid than the reference: no Dice against them")
    else:
        labels = checks.check_labels(labels, reference, record.notes)
        record.metrics["dice_input"] = region_metrics(predicted, labels, case.region).dice


def _input_labels(case: Case, settings: EvaluationSettings) -> Volume | None:
    if settings.input_labels is not None:
        return read_labels(settings.input_labels, case)
    folder = truth_folder(case, settings)
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


def _against_truth(images: Images, folder: Path, settings: EvaluationSettings, record: CaseRecord) -> None:
    result = bias.truth_bias(images.prediction, images.reference, images.mask, folder, device=settings.device)
    if isinstance(result, str):
        record.notes.append(result)
    elif result is not None:
        record.truth = {k: finite(v) for k, v in asdict(result).items()}
        record.metrics |= {
            "mae_truth": result.mae,
            "psnr_truth": result.psnr,
            "ms_ssim_truth": result.ms_ssim,
            "bias": result.bias_hu,
            "reference_error": result.reference_error_hu,
        }


def _round_trip(case: Case, images: Images, record: CaseRecord) -> None:
    assert case.folder is not None
    transform = bias.find_transform(case.folder)
    if transform is None:
        record.notes.append("no transform in the case folder: no round trip")
        return
    result = bias.round_trip(images.reference, images.mask, transform, images.reference.geometry)
    record.metrics["round_trip"] = result.mae


def _control(case: Case, images: Images, other: Path, record: CaseRecord) -> None:
    assert case.folder is not None
    assert case.region is not None
    partner = other / case.task.folder / case.region / case.id
    result = bias.control_of_pairs(images.reference, images.mask, case.folder, partner)
    if isinstance(result, str):
        record.notes.append(result)
        return
    record.metrics["control"] = result.mae
