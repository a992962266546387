"""Can this pair be scored? Each kind of bad input is refused, or scored with a note, by an explicit rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sctlab.measures.ms_ssim import HU_RANGE, MIN_AXIS
from sctlab_model.errors import InputError
from sctlab_model.volume import AIR_HU, Volume

NORMALISED_SPAN = 20.0  # HU; an image that spans less was never brought back from the network's range
LOWEST_OF_A_BODY = -50.0  # HU; every body has fat and air below this
SAME_GRID_MM = 1e-2


def check_hounsfield(ct: Volume, what: str) -> list[str]:
    """Notes about HU of a CT or sCT.

    Args:
        ct: Image that should be in HU.
        what: Its role, for the message.

    Raises:
        InputError: The values can't be HU.
    """
    low, high = float(ct.array.min()), float(ct.array.max())
    found = f"{what} runs from {low:g} to {high:g}"
    if high - low < NORMALISED_SPAN:
        raise InputError(ct.name, found=found, expected="HU", advice="it looks normalised: map it back to HU")
    if low >= LOWEST_OF_A_BODY:
        raise InputError(
            ct.name,
            found=found,
            expected="HU, with air near -1000",
            advice="it looks offset: apply slope and intercept",
        )
    if not HU_RANGE[0] <= low or not high <= HU_RANGE[1]:
        outside = float(np.mean((ct.array < HU_RANGE[0]) | (ct.array > HU_RANGE[1])))
        return [
            f"{found}: {outside:.2%} of the voxels lie outside [-1024, 3071]; MAE counts them as they are, PSNR and "
            "MS-SSIM clip them"
        ]
    return []


def check_grids(prediction: Volume, reference: Volume) -> list[str]:
    """Notes about geometry: the challenge compares voxel by voxel, whatever the headers say, and so do we.

    Raises:
        InputError: Another shape: nothing can be compared.
    """
    if prediction.array.shape != reference.array.shape:
        raise InputError(
            prediction.name,
            found=f"{_size(prediction)} voxels",
            expected=f"{_size(reference)}, as {reference.name}",
            advice="resample the prediction to the reference's grid",
        )
    if prediction.geometry.same_grid(reference.geometry):
        return []
    return [
        f"the prediction's geometry differs from the reference's ({_grid(prediction)} against {_grid(reference)}): "
        "compared voxel by voxel all the same, as the challenge does; a clinical system would misplace it"
    ]


def check_mask(mask: Volume, reference: Volume) -> list[str]:
    """Notes about the body mask.

    Raises:
        InputError: Empty, or another shape.
    """
    if mask.array.shape != reference.array.shape:
        raise InputError(
            mask.name,
            found=f"{_size(mask)} voxels",
            expected=f"{_size(reference)}, as {reference.name}",
            advice="use the mask on the reference's grid",
        )
    if not mask.array.any():
        raise InputError(
            mask.name, found="an empty mask", expected="a body mask", advice="no score is defined without one"
        )
    notes = []
    if not mask.geometry.same_grid(reference.geometry):
        notes.append("the mask's geometry differs from the reference's: used voxel by voxel")
    thin = [f"{n} along {axis}" for n, axis in zip(mask.array.shape, "zyx", strict=True) if n < MIN_AXIS]
    if thin:
        notes.append(f"thin volume ({', '.join(thin)}): MS-SSIM repeats its edges up to {MIN_AXIS} voxels")
    return notes


def check_input(source: Volume, reference: Volume) -> tuple[Volume | None, list[str]]:
    """The network's input on the reference's grid (None where it can't be compared), and notes about its geometry."""
    if source.array.shape != reference.array.shape:
        return None, ["the input lies on another grid than the reference: nothing was compared with it"]
    if source.geometry.same_grid(reference.geometry):
        return source, []
    return Volume(source.array, reference.geometry, source.name), [
        f"the input's geometry differs from the reference's ({_grid(source)} against {_grid(reference)}): compared with the "
        "prediction voxel by voxel all the same"
    ]


def check_field_of_view(reference: Volume, mask: np.ndarray, view: Volume | None) -> list[str]:
    """A note when part of the body mask has no reference CT behind it."""
    if view is None or view.array.shape != mask.shape:
        return []
    uncovered = float((mask & ~view.array).sum() / mask.sum())
    if uncovered < 0.001:
        return []
    return [
        f"{uncovered:.1%} of the mask lies outside the reference CT's field of view, where the reference is {AIR_HU} HU: "
        "the prediction is scored there as if it had to be air"
    ]


def check_labels(labels: Volume, image: Volume, notes: list[str]) -> Volume:
    """Labels as integers on the image's grid; another geometry goes into `notes`.

    Raises:
        InputError: Another shape, fractions, or negative values.
    """
    if labels.array.shape != image.array.shape:
        raise InputError(
            labels.name,
            found=f"{_size(labels)} voxels",
            expected=f"{_size(image)}, as {image.name}",
            advice="resample the labels by nearest neighbour",
        )
    array = labels.array
    if array.dtype.kind == "f":
        array = np.rint(array)
        if not np.array_equal(array, labels.array):
            raise InputError(
                labels.name, found="fractional labels", expected="integers", advice="resample by nearest neighbour"
            )
    if array.min() < 0:
        raise InputError(labels.name, found=f"label {array.min():g}", expected="labels of 0 and above")
    if not labels.geometry.same_grid(image.geometry):
        notes.append(
            f"the geometry of the labels {labels.name} differs from the reference's ({_grid(labels)} against "
            f"{_grid(image)}): used voxel by voxel"
        )
    # distances between organs count in the image's millimetres, whatever the labels' header says
    return Volume(array.astype(np.uint8 if array.max() < 256 else np.int32), image.geometry, labels.name)


def _size(volume: Volume) -> str:
    return "x".join(map(str, volume.geometry.size_xyz))


def _grid(volume: Volume) -> str:
    g = volume.geometry
    return f"origin {_numbers(g.origin_xyz)}, spacing {_numbers(g.spacing_xyz)} mm"


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:.5g}" for v in values) + ")"
