"""A synthetic CT from an image in memory: no files are read or written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sctlab.registration.single import as_volume
from sctlab_model.cases import Case, Region, Task
from sctlab_model.errors import InputError
from sctlab_model.gates import Policy
from sctlab_model.predictions import CaseResult
from sctlab_model.synthesiser import Synthesiser
from sctlab_model.volume import Volume

if TYPE_CHECKING:
    from sctlab.registration.single import Image


@dataclass(frozen=True)
class SyntheticCT:
    """A synthetic CT in memory.

    Args:
        sct: HU, int16, on the given image's grid, in the kind that was given: a volume, a SimpleITK image, or an array
            [z, y, x]. -1024 outside the body.
        spread: The ensemble's standard deviation in HU, in the same kind; None unless it was asked for.
        warnings: What is strange about the image or the result.
        record: Weights, folds, versions, statistics: what a file's record would say.
    """

    sct: Any
    spread: Any | None
    warnings: tuple[str, ...]
    record: CaseResult


def synthesise(
    image: Image,
    *,
    task: Task | str,
    region: Region | str | None = None,
    mask: Image | np.ndarray | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    batch: int | None = None,
    spread: bool = False,
    accept_implausible: bool = False,
    correct_offset: float | str | None = None,
) -> SyntheticCT:
    """Make a synthetic CT of an MR or CBCT.

    Args:
        image: A `Volume`, a SimpleITK image, or `(array, affine)`: axes z, y, x, and a 4x4 matrix from index x, y, z to
            mm (LPS).
        task: `mri` or `cbct`.
        region: `AB`, `HN` or `TH`, or their full names; needed by weights with region groups.
        mask: Body mask, above 0 inside; an array must have the image's shape. Computed when left out.
        weights: Bundle folder; the shipped weights by task when left out. Loaded once for all calls.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        batch: Samples that run together; planned when left out.
        spread: Also return the ensemble's standard deviation.
        accept_implausible: Return results that the output gate refuses.
        correct_offset: Subtract this from a CBCT; `auto`: the recognised offset.

    Raises:
        InputError: The image or the mask can't be used.
        WeightsError: No weights for the task or region.
        ImplausibleError: The result did not pass the output gate.
        ResourceError: Memory ran out.

    Example:
        ```python
        import SimpleITK, sctlab
        mr = SimpleITK.ReadImage("mr.nii.gz")
        result = sctlab.synthesise(mr, task="mri", region="AB")
        SimpleITK.WriteImage(result.sct, "sct.nii.gz")
        ```
    """
    volume = as_volume(image)
    _check_values(volume)
    which = Task.parse(str(task), "task")
    where = Region.parse(region, "region") if region is not None else None
    synthesiser = _synthesiser(Path(weights) if weights is not None else None, device, batch, spread)
    offset: float | Literal["auto"] | None = None
    if correct_offset is not None:
        offset = "auto" if correct_offset == "auto" else float(correct_offset)
    synthesiser.policy = Policy(accept=accept_implausible, correct_offset=offset)
    case = Case("image", which, volume, _as_mask(mask, volume), where)
    synthesis = synthesiser.predict(synthesiser.load(case))
    return SyntheticCT(
        sct=_like(image, synthesis.volume),
        spread=None if synthesis.spread is None else _like(image, synthesis.spread),
        warnings=tuple(synthesis.result.warnings),
        record=synthesis.result,
    )


@lru_cache(maxsize=2)
def _synthesiser(weights: Path | None, device: str, batch: int | None, spread: bool) -> Synthesiser:
    """Weights stay loaded between calls."""
    return Synthesiser(weights, device, batch, spread)


def _as_mask(mask: Image | np.ndarray | None, image: Volume) -> Volume | None:
    if mask is None:
        return None
    if isinstance(mask, np.ndarray):
        if mask.shape != image.array.shape:
            raise InputError(
                "mask", found=f"an array of shape {mask.shape}", expected=f"the image's shape {image.array.shape}"
            )
        return image.with_array(mask > 0)
    return as_volume(mask)


def _check_values(volume: Volume) -> None:
    """What the readers refuse of files."""
    array = volume.array
    if array.ndim != 3 or array.dtype.kind not in "iuf":
        raise InputError("image", found=f"an array of {array.dtype}", expected="numbers on a 3D grid")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError("image", found="NaN or infinite voxels", expected="finite values")


def _like(given: Image, volume: Volume) -> Any:
    """The result in the kind that was given."""
    if isinstance(given, Volume):
        return volume
    return volume.array if isinstance(given, tuple | list) else volume.to_sitk()
