"""A case's images for scoring: which reference, read and checked, all on the reference's grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sctlab.evaluation import checks
from sctlab_model.body import body_mask
from sctlab_model.case_input import with_skin
from sctlab_model.cases import Case, Task, find_image
from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.volume import Volume

TRUTH, ALIGNED_CT = "truth", "ct_aligned"


@dataclass
class Images:
    """A case's images on one grid.

    Args:
        prediction, reference: HU.
        mask: Body mask, boolean, axes z, y, x.
        source: The network's input; None where it lies on another grid.
    """

    prediction: Volume
    reference: Volume
    mask: np.ndarray
    source: Volume | None = None


def is_unregistered_simulation(folder: Path) -> bool:
    """Whether a case folder was simulated and not registered since: its `ct` then lies on the CT's own, moved grid."""
    return find_image(folder / TRUTH, ALIGNED_CT) is not None and not (folder / "pair.json").is_file()


def find_reference(case: Case, stem: str) -> Path:
    """The reference CT of a case.

    Args:
        stem: `<stem>.*` in the case folder (`truth/ct_aligned` too). Empty takes the aligned truth of a simulated case that
            nobody registered, else `ct`, else `ct_def`.

    Raises:
        InputError: No such image.
    """
    assert case.folder is not None
    if stem:
        place = case.folder / stem
        path = find_image(place.parent, place.name)
    elif is_unregistered_simulation(case.folder):
        path = find_image(case.folder / TRUTH, ALIGNED_CT)
    else:
        path = case.target
    if path is None:
        raise InputError(
            case.folder,
            found=f"no reference {stem or 'ct or ct_def'}",
            expected="a CT in the case folder",
            advice="--reference names another file",
        )
    return path


def reference_labels(case: Case, reference: Path) -> Path | None:
    """Labels on the reference's grid: `labels`, or the truth's `labels_source` for the aligned truth; None if there are none."""
    assert case.folder is not None
    if reference.parent == case.folder / TRUTH:
        return find_image(case.folder / TRUTH, "labels_source")
    return find_image(case.folder, "labels")


def load_images(case: Case, prediction: Path, reference: Path, notes: list[str]) -> Images:
    """Read and check a case; what is odd but can be scored goes into `notes`.

    Raises:
        InputError: Something that can't be scored, see `checks`.
    """
    sct, ct = read_volume(prediction), read_volume(reference)
    notes += checks.check_grids(sct, ct)
    notes += checks.check_hounsfield(sct, "the prediction")
    notes += checks.check_hounsfield(ct, "the reference")
    sct = Volume(sct.array, ct.geometry, sct.name)
    mask = case.read_mask()
    if mask is None:
        mask = with_skin(body_mask(ct, Task.CBCT))
        notes.append("no body mask: one was computed from the reference, with 3 mm around the body")
    notes += checks.check_mask(mask, ct)
    fov = find_image(case.folder, "fov") if case.folder is not None else None
    notes += checks.check_field_of_view(ct, mask.array, read_mask(fov) if fov is not None else None)
    source, odd = checks.check_input(case.read_source(), ct)
    notes += odd
    return Images(sct, ct, mask.array, source)
