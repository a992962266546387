"""Organ labels: from files, from a registered segmenter, or from any TorchScript file, behind one protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from sctlab.evaluation.checks import SAME_GRID_MM
from sctlab.features.trust import load_torchscript
from sctlab_model.anatomy.segmenter import TooThinError
from sctlab_model.anatomy.shipped import JUDGE, NETWORK, is_here
from sctlab_model.cases import Case, find_image
from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_volume
from sctlab_model.volume import AIR_HU, Volume, resample

TORCHSCRIPT_SPACING_MM = 3.0


class Segmenter(Protocol):
    """Labels the organs of a CT."""

    name: str

    def segment(self, ct: Volume) -> Volume:
        """Class ids of TotalSegmentator's `total` task on the grid of `ct` (HU, array z, y, x)."""
        ...


def comparable(labels: Volume, segmenter: Segmenter | None) -> Volume:
    """A reference of `total` ids in the groups that the segmenter tells apart; most tell all apart."""
    merge = getattr(segmenter, "comparable", None)
    return labels if merge is None else merge(labels)


def class_names(segmenter: Segmenter | None) -> dict[int, str]:
    """Names of the ids that stand for a group of structures with this segmenter; every other id has its own name."""
    return dict(getattr(segmenter, "names", {}))


Factory = Callable[[str], Segmenter]
NONE, AUTO = "none", "auto"


@dataclass(frozen=True)
class Entry:
    """A registered segmenter.

    Args:
        make: Builds it for a device.
        ready: Whether `auto` may take it: what it needs is here, and nothing is fetched. None leaves it to those who name it.
    """

    make: Factory
    ready: Callable[[], bool] | None = None


_ENTRIES: dict[str, Entry] = {}


def register_segmenter(name: str, *, ready: Callable[[], bool] | None = None) -> Callable[[Factory], Factory]:
    """Decorator: make a function that builds a segmenter for a device known under `name`; `ready` as in `Entry`.

    The function imports what it needs itself, so that an evaluation without it doesn't.
    """

    def add(make: Factory) -> Factory:
        _ENTRIES[name] = Entry(make, ready)
        return make

    return add


def segmenter_names() -> tuple[str, ...]:
    """The words that `make_segmenter` takes; anything else is the path of a TorchScript file."""
    return (AUTO, NONE, *_ENTRIES)


def resolve_segmenter(text: str) -> str:
    """What `auto` stands for here: the first registered segmenter that is ready, else `none`. Other words are what they are."""
    if text != AUTO:
        return text
    return next((name for name, entry in _ENTRIES.items() if entry.ready is not None and entry.ready()), NONE)


def make_segmenter(text: str, device: str = "cpu") -> Segmenter | None:
    """A segmenter by name (see `segmenter_names`), or of a TorchScript file; None for `none`.

    Raises:
        InputError: What it needs isn't installed, or the file is no TorchScript.
    """
    name = resolve_segmenter(text)
    if name == NONE:
        return None
    entry = _ENTRIES.get(name)
    return entry.make(device) if entry is not None else TorchScriptSegmenter(name, device)


def segmented(segmenter: Segmenter | None, image: Volume, notes: list[str]) -> Volume | None:
    """A segmenter's labels; None without one, and where the image is too thin for it, which is no fault of the result.

    Args:
        segmenter: Or None.
        image: HU.
        notes: Is added to where there are no labels.
    """
    if segmenter is None:
        return None
    try:
        return segmenter.segment(image)
    except TooThinError as error:
        notes.append(f"no labels: {error}")
        return None


def read_labels(folder: Path, case: Case) -> Volume | None:
    """Labels `<ID>.*` (or `sct_<ID>.*`) of a folder, or of the case's own task and region folder in it; None without any.

    A file in a folder of another task or region belongs to another case of the same id.
    """
    region = str(case.region) if case.region is not None else ""
    places = [folder / case.task.folder / region, folder / case.task.folder, folder / region, folder]
    for place in dict.fromkeys(places):
        for stem in (case.id, f"sct_{case.id}"):
            path = find_image(place, stem)
            if path is not None:
                return read_volume(path)
    return None


@register_segmenter("anatomy", ready=is_here)
def anatomy(device: str = "cpu") -> Segmenter:
    """Our own network, which ships with the product; merged classes, always on the CPU."""
    from sctlab.anatomy.seeing import AnatomySegmenter

    return AnatomySegmenter(NETWORK)


@register_segmenter("anatomy-judge")
def anatomy_judge(device: str = "cpu") -> Segmenter:
    """The second network, which no loss and no registration uses: it judges runs that the first one took part in."""
    from sctlab.anatomy.seeing import AnatomySegmenter

    return AnatomySegmenter(JUDGE)


@register_segmenter("totalsegmentator")
class TotalSegmentator:
    """TotalSegmentator's 3 mm model (`fast`), as the challenge uses it: on the whole sCT, not masked.

    Needs `pip install TotalSegmentator` (2.x) and its weights, which it downloads at first use. It sends usage
    statistics unless its own configuration says otherwise (`totalseg_set_config`).
    """

    name = "TotalSegmentator total, 3 mm"

    def __init__(self, device: str = "cpu") -> None:
        try:
            import nibabel  # noqa: F401 (a dependency of TotalSegmentator; asked for here for one clear message)
            from totalsegmentator.python_api import totalsegmentator
        except ImportError as error:
            raise InputError(
                "--segmenter totalsegmentator",
                found=f"TotalSegmentator isn't installed ({error})",
                expected="its Python package and weights",
                advice="pip install TotalSegmentator, or give label files with --labels",
            ) from error
        self._call = totalsegmentator
        self._device = _totalsegmentator_device(device)

    def segment(self, ct: Volume) -> Volume:
        """Labels on the CT's grid.

        Raises:
            InputError: TotalSegmentator failed, for example because its weights can't be downloaded.
        """
        import nibabel

        image = nibabel.Nifti1Image(ct.array.astype(np.float32).transpose(2, 1, 0), _ras_affine(ct))
        try:
            result = self._call(image, None, ml=True, fast=True, task="total", device=self._device, quiet=True)
        except (Exception, SystemExit) as error:
            raise InputError(
                ct.name,
                found=f"TotalSegmentator failed ({type(error).__name__}: {error})",
                expected="labels",
                advice="are its weights here? see totalseg_download_weights -t total_fast",
            ) from error
        labels = np.asarray(result.dataobj)
        if labels.shape != ct.geometry.size_xyz or not np.allclose(result.affine, image.affine, atol=SAME_GRID_MM):
            raise InputError(
                ct.name, found=f"TotalSegmentator returned a grid of {labels.shape}", expected=f"{ct.geometry.size_xyz}"
            )
        return Volume(np.ascontiguousarray(labels.transpose(2, 1, 0)).astype(np.uint8), ct.geometry, self.name)


class TorchScriptSegmenter:
    """A TorchScript file: `forward(x)` with x [1, 1, z, y, x] float32 in HU.

    It returns scores or one-hot [1, classes, z, y, x], a label map [1, z, y, x] or [1, 1, z, y, x], or a list of layers of
    which the last is one of these; channel k is class k. The CT is resampled to cubes of 3 mm for it (or to `spacing_mm`), and the labels
    back by nearest neighbour. Such a file is code: it must be trusted, see `sctlab.features.trust`.
    """

    def __init__(self, path: str | Path, device: str = "cpu", spacing_mm: float = TORCHSCRIPT_SPACING_MM) -> None:
        path = Path(path)
        if not path.is_file():
            raise InputError(
                "--segmenter",
                found=f"no file '{path}'",
                expected=f"{', '.join(segmenter_names())}, or a TorchScript file",
            )
        self._script = load_torchscript(path, device=device)
        self.name, self._device, self._spacing = path.stem, device, spacing_mm

    def segment(self, ct: Volume) -> Volume:
        """Labels on the CT's grid.

        Raises:
            InputError: The file returned another shape, or a map of something else than class ids.
        """
        grid = ct.geometry.resized((self._spacing,) * 3)
        coarse = resample(ct.with_array(ct.array.astype(np.float32)), grid, outside=AIR_HU)
        with torch.inference_mode():
            result = self._script(torch.from_numpy(coarse.array).to(self._device)[None, None])
        result = result[-1] if isinstance(result, (list, tuple)) else result
        if result.ndim == 5 and result.shape[1] == 1:
            result = result[:, 0]  # a label map: the argmax of one channel would be background everywhere
        labels = result[0].argmax(0) if result.ndim == 5 else result[0]
        if tuple(labels.shape) != grid.shape_zyx:
            raise InputError(
                self.name, found=f"labels of shape {tuple(result.shape)}", expected=f"[1, classes, {grid.shape_zyx}]"
            )
        ids = labels.cpu().numpy()
        low, high = ids.min(), ids.max()
        if not (low >= 0 and high <= 255 and np.array_equal(ids, np.rint(ids))):
            raise InputError(
                self.name,
                found=f"labels from {low:g} to {high:g}, or fractions",
                expected="whole numbers from 0 to 255",
                advice="return class ids, or scores with a channel for every class",
            )
        fine = resample(Volume(ids.astype(np.uint8), grid), ct.geometry, interpolation="nearest")
        return Volume(fine.array, ct.geometry, self.name)


def _ras_affine(volume: Volume) -> np.ndarray:
    """NIfTI's affine: index x, y, z to RAS+ mm (ITK's LPS with the first two axes turned)."""
    affine = np.eye(4)
    affine[:3, :3] = volume.geometry.matrix
    affine[:3, 3] = volume.geometry.origin_xyz
    return np.diag([-1, -1, 1, 1]) @ affine


def _totalsegmentator_device(device: str) -> str:
    """torch's names to TotalSegmentator's: `cuda` is `gpu`, `cuda:1` is `gpu:1`."""
    return device.replace("cuda", "gpu")
