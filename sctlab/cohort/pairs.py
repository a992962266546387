"""Pairs of source and target in a folder, found without opening an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sctlab.registration.records import PairRecord, QualityRecord, Verdict
from sctlab_model.cases import (
    Case,
    CaseKey,
    Region,
    Selection,
    Task,
    find_cases,
    find_cohort,
    find_image,
    is_cohort,
    read_json,
)
from sctlab_model.errors import InputError

Target = Literal["ct", "truth"]
Failed = Literal["leave_out", "use"]
DOUBTS = {Verdict.DOUBTFUL: "its registration is doubtful", Verdict.FAILED: "its registration failed"}
# In SynthRAD's ids the character after task digit and region names the centre: 1ABA001, 2THC042.
CENTRE_POSITION = 3


@dataclass(frozen=True)
class Pair:
    """A source and its target on one grid.

    Args:
        id: Case id; unique only together with task and region (`key`).
        task: What the source is.
        region: Body region.
        source: MR or CBCT file.
        target: CT file.
        mask: Body mask file.
        patient: Cases of one patient share it and never lie in different folds.
        centre: Where the case was imaged, as far as the id tells.
        registration: How the target came onto the source's grid: `convention`, `method`.
        field_of_view: Mask of where the moving image had data, where the registration wrote one.
        fractions: What the voxels of a simulated MR are made of, where the simulation kept it.
        doubt: Why the registration's verdict is `doubtful`; empty where it isn't.
        digest: SHA-256 over the files; empty until the pair was checked.
        images: SHA-256 of the images that were registered and, once the pair was checked, of source and target.
            Pairs that share one are one patient.
    """

    id: str
    task: Task
    region: Region
    source: Path
    target: Path
    mask: Path
    patient: str
    centre: str = ""
    registration: tuple[tuple[str, str], ...] = ()
    field_of_view: Path | None = None
    fractions: Path | None = None
    doubt: str = ""
    digest: str = ""
    images: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """`Task1/AB/1ABA001`: the case's identity in every record."""
        return str(CaseKey(self.task, self.region, self.id))

    @property
    def stratum(self) -> str:
        """Region x centre."""
        return f"{self.region}-{self.centre}"

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that training reads."""
        return tuple(p for p in (self.source, self.target, self.mask, self.field_of_view) if p is not None)


def find_pairs(
    root: str | Path, task: Task, *, target: Target = "ct", failed: Failed = "leave_out"
) -> tuple[list[Pair], dict[str, str]]:
    """Pairs of a cohort, or of the output of `sctlab register`, without opening an image.

    `doubtful` pairs stay, with the reason.

    Args:
        root: A cohort folder, or `<out>/<method>` of registered pairs.
        target: `ct` takes the case's `ct.*`; `truth` takes `truth/ct_aligned.*` of simulated cases.
        failed: Pairs whose registration has the verdict `failed` are left out, or used like doubtful ones.

    Returns:
        The pairs sorted by region and id, and the keys of the case folders that were left out, with the reason.

    Raises:
        InputError: No such folder, or no case in it.
    """
    root = Path(root)
    if not is_cohort(root):
        find_cohort(root, task=task)  # says what is missing
    listed = find_cases(root, Selection(task=task))
    pairs, left_out = [], {one.where: one.reason for one in listed.left_out}
    for case in listed.cases:
        try:
            reason, pair = _read_pair(case, target, failed)
        except InputError as error:  # two images of one name, a damaged record
            reason, pair = str(error), None
        if pair is None:
            left_out[str(case.key)] = reason
        else:
            pairs.append(pair)
    return pairs, left_out


def _read_pair(case: Case, target: Target, failed: Failed) -> tuple[str, Pair | None]:
    """Why a case can't be used, or its pair."""
    assert case.folder is not None
    assert case.region is not None
    if case.problem is not None:
        return str(case.problem), None
    target_file = find_image(case.folder / "truth", "ct_aligned") if target == "truth" else case.target
    if target_file is None:
        return ("no truth/ct_aligned" if target == "truth" else "no ct"), None
    if case.mask_file is None:
        return "no mask", None
    fractions = case.folder / "truth" / "fractions.npz"
    record = PairRecord.of(case.folder)
    quality = QualityRecord.of(case.folder) if target == "ct" else None
    verdict = quality.verdict if quality else None
    reasons = ": " + "; ".join(quality.reasons) if quality and quality.reasons else ""
    if verdict is Verdict.FAILED and failed == "leave_out":
        return f"its registration failed{reasons}", None
    if target == "truth":
        registration = {"method": "simulated-aligned", "convention": "ct_to_source"}
    else:
        registration = {
            "method": (record.method if record else "") or "as delivered",
            "convention": (record.convention if record else "") or "unknown",
        }
    return "", Pair(
        id=case.id,
        task=case.task,
        region=case.region,
        source=case.source_file,
        target=target_file,
        mask=case.mask_file,
        patient=patient_of(case.folder, case.id),
        centre=case.id[CENTRE_POSITION] if len(case.id) > CENTRE_POSITION else "",
        registration=tuple(sorted(registration.items())),
        field_of_view=find_image(case.folder, "fov") if target == "ct" else None,
        fractions=fractions if target == "truth" and fractions.is_file() else None,
        doubt=DOUBTS[verdict] + reasons if verdict in DOUBTS else "",
        images=tuple(record.inputs.values()) if record else (),
    )


def patient_of(folder: Path, case_id: str) -> str:
    """The patient of a case folder, as `pair.json` or `truth/truth.json` tell; the case id where they don't.

    Cases simulated from one CT are one patient.
    """
    record, truth = PairRecord.of(folder), _read_if_there(folder / "truth" / "truth.json")
    registered = record.patient if record else ""
    if registered == case_id:  # what registration writes where it doesn't know
        registered = ""
    # Only the end of the path: where a user keeps their CTs is nobody's business in a published bundle.
    simulated_from = "/".join(Path((truth.get("options") or {}).get("ct") or "").parts[-2:])
    return str(registered or truth.get("patient") or simulated_from or case_id)


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
