"""Target and organs at risk of a case: of an RTSTRUCT, of label files, or of the segmenter's labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sctlab.evaluation.class_names import CLASS_NAMES
from sctlab.rtstruct import Roi, read_rtstruct
from sctlab_model.cases import Case
from sctlab_model.errors import InputError
from sctlab_model.volume import Geometry, Volume, resample

IN_CASE_FOLDER = "structures.dcm"
TARGETS = ("PTV", "CTV", "GTV")  # the first kind that a file has is what plans aim at
ORGANS = frozenset(("ORGAN", "AVOIDANCE", ""))  # other kinds are the body's outline, supports, marks, doses


@dataclass(frozen=True)
class Structures:
    """What plans and rays aim at and avoid; masks are made on any grid.

    Args:
        labels: Class ids on the reference's grid.
        rois: Of an RTSTRUCT in the reference's frame; their organs take the place of the labels'.
        wanted: The target by label id, class name or ROI name; None takes the RTSTRUCT's only PTV, CTV or GTV.
        names: Class id → name.
    """

    labels: Volume | None = None
    rois: tuple[Roi, ...] = ()
    wanted: str | None = None
    names: Mapping[int, str] = field(default_factory=lambda: CLASS_NAMES)

    def target(self, grid: Geometry) -> tuple[str, np.ndarray] | None:
        """Name and mask of the target; None where there is none to choose.

        Raises:
            InputError: Several targets of one kind, no such structure, or nothing of it on the grid.
        """
        roi = self._target_roi()
        if roi is not None:
            name, mask = roi.name, roi.mask(grid)
        elif self.wanted is None:
            return None
        else:
            label = self._target_label()
            name, mask = f"label {label}", self._on(grid) == label
        if not mask.any():
            raise InputError(
                "--target", found=f"nothing of {name} on the reference's grid", expected="a structure in it"
            )
        return name, mask

    def organs(self, grid: Geometry) -> dict[str, np.ndarray]:
        """Organs at risk by name, without the target; those without a voxel are left out."""
        target = self._target_roi()
        found = {r.name: r.mask(grid) for r in self.rois if r.kind in ORGANS and r is not target}
        if not found and self.labels is not None:
            skipped = {0} if target is not None or self.wanted is None else {0, self._target_label()}
            on_grid = self._on(grid)
            found = {self.names.get(int(i), f"class {i}"): on_grid == i for i in np.unique(on_grid) if i not in skipped}
        return {name: mask for name, mask in found.items() if mask.any()}

    def _on(self, grid: Geometry) -> np.ndarray:
        assert self.labels is not None
        return resample(self.labels, grid, interpolation="nearest").array

    def _target_roi(self) -> Roi | None:
        if self.wanted is not None:
            fitting = [r for r in self.rois if r.name.casefold() == self.wanted.casefold()]
        else:
            kinds = [[r for r in self.rois if r.kind == kind] for kind in TARGETS]
            fitting = next((k for k in kinds if k), [])
        if len(fitting) > 1:
            raise InputError(
                "--target",
                found=f"{len(fitting)} structures to aim at: {', '.join(r.name for r in fitting)}",
                expected="one",
                advice="name one with --target",
            )
        return fitting[0] if fitting else None

    def _target_label(self) -> int:
        """The wanted target's class id."""
        wanted = self.wanted or ""
        ids = {name.casefold(): i for i, name in self.names.items()}
        label = int(wanted) if wanted.isdigit() else ids.get(wanted.casefold().replace(" ", "_"))
        if label is None or self.labels is None:
            known = ", ".join(r.name for r in self.rois) or "none"
            raise InputError(
                "--target",
                found=f"no structure '{wanted}' (RTSTRUCT: {known}; labels: {'yes' if self.labels is not None else 'none'})",
                expected="the name of a structure, or a label of the reference",
            )
        return label


def find_rtstruct(case: Case, folder: Path | None) -> Path | None:
    """`<ID>.dcm` of the folder, or of the case's task and region folder in it; `structures.dcm` of the case folder without one."""
    places = []
    if folder is not None:
        region = str(case.region) if case.region is not None else ""
        roots = (folder / case.task.folder / region, folder / case.task.folder, folder / region, folder)
        places = [root / f"{case.id}.dcm" for root in roots]
    if case.folder is not None:
        places.append(case.folder / IN_CASE_FOLDER)
    return next((p for p in places if p.is_file()), None)


def load_structures(
    case: Case,
    labels: Volume | None,
    folder: Path | None,
    wanted: str | int | None,
    names: Mapping[int, str] | None = None,
) -> Structures:
    """The structures of a case.

    Args:
        labels: Of the reference, on its grid.
        folder: Of RTSTRUCT files, see `find_rtstruct`.
        wanted: The target, see `Structures`.
        names: Of ids that stand for a group of structures in these labels.

    Raises:
        InputError: No file of the case in `folder`, or what `read_rtstruct` raises.
    """
    path = find_rtstruct(case, folder)
    if path is None and folder is not None:
        raise InputError(folder, found=f"no {case.id}.dcm", expected="an RTSTRUCT of every case")
    rois = read_rtstruct(path) if path is not None else ()
    return Structures(labels, rois, None if wanted is None else str(wanted), CLASS_NAMES | dict(names or {}))
