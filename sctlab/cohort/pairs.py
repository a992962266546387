"""Cohorts of pairs: which cases can be trained on, which are left out and why, and the folds."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sctlab.registration.records import PairRecord
from sctlab.workflow.jobs import refuse_broken, run_jobs
from sctlab_model.body import body_mask
from sctlab_model.cases import Case, Region, Task, find_cohort, find_image, read_json
from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.io.writing import write_json
from sctlab_model.overlap import dice

Target = Literal["ct", "truth"]
MINIMUM_BODY_OVERLAP = 0.5  # Dice of the bodies; rigidly registered pairs of the challenge lie above 0.8
# In SynthRAD's ids the character after task digit and region names the centre: 1ABA001, 2THC042.
CENTRE_POSITION = 3
CHECKS_FORMAT = 2  # raise when remembered checks must be made again


@dataclass(frozen=True)
class Pair:
    """A source and its target on one grid.

    Args:
        id: Case id, unique in the cohort.
        task: What the source is.
        region: Body region.
        source: MR or CBCT file.
        target: CT file.
        mask: Body mask file.
        patient: Cases of one patient share it and never lie in different folds.
        centre: Where the case was imaged, as far as the id tells.
        registration: How the target came onto the source's grid: `convention`, `method`.
        field_of_view: Mask of where the moving image had data, where the registration wrote one.
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
    digest: str = ""
    images: tuple[str, ...] = ()

    @property
    def stratum(self) -> str:
        """Region x centre."""
        return f"{self.region}-{self.centre}"


@dataclass(frozen=True)
class Cohort:
    """The pairs of a folder that can be used, and the others with the reason."""

    root: Path
    pairs: tuple[Pair, ...]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 over ids and contents of the pairs, whatever folder they lie in."""
        lines = sorted(f"{p.id} {p.digest}" for p in self.pairs)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def registrations(self) -> list[dict[str, Any]]:
        """The distinct ways the pairs were registered, each with its number of cases."""
        counts: dict[tuple, int] = defaultdict(int)
        for pair in self.pairs:
            counts[pair.registration] += 1
        return [{**dict(k), "cases": n} for k, n in sorted(counts.items())]


def find_pairs(root: str | Path, task: Task, *, target: Target = "ct") -> tuple[list[Pair], dict[str, str]]:
    """Pairs of a cohort, or of the output of `sctlab register`, without opening an image.

    Args:
        root: A cohort folder, or `<out>/<method>` of registered pairs.
        target: `ct` takes the case's `ct.*`; `truth` takes `truth/ct_aligned.*` of simulated cases.

    Returns:
        The pairs, and the ids that lack a file with what they lack.

    Raises:
        InputError: No cases, or one id twice.
    """
    pairs, lacking = [], {}
    for case in find_cohort(root, task=task):
        if any(p.id == case.id for p in pairs):
            raise InputError(
                root, found=f"case {case.id} lies in two folders", expected="ids that are unique in the cohort"
            )
        target_file = find_image(case.folder / "truth", "ct_aligned") if target == "truth" else case.target
        if target_file is None:
            lacking[case.id] = "no truth/ct_aligned" if target == "truth" else "no ct"
        elif case.mask is None:
            lacking[case.id] = "no mask"
        else:
            pairs.append(_pair(case, target_file, target))
    return pairs, lacking


def _pair(case: Case, target_file: Path, target: Target) -> Pair:
    assert case.folder is not None
    assert case.region is not None
    assert case.mask_file is not None
    record = PairRecord.of(case.folder)
    if target == "truth":
        registration = {"method": "simulated-aligned", "convention": "ct_to_source"}
    else:
        registration = {
            "method": (record.method if record else "") or "as delivered",
            "convention": (record.convention if record else "") or "unknown",
        }
    return Pair(
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
        images=tuple(record.inputs.values()) if record else (),
    )


def patient_of(folder: Path, case_id: str) -> str:
    """The patient of a case folder, as `pair.json` or `truth/truth.json` tell; the case id where they don't.

    Cases simulated from one CT are one patient.
    """
    record, truth = PairRecord.of(folder), _read_if_there(folder / "truth" / "truth.json")
    recorded = record.patient if record else ""
    if recorded == case_id:  # what registration writes where it doesn't know
        recorded = ""
    # Only the end of the path: where a user keeps their CTs is nobody's business in a published bundle.
    simulated_from = "/".join(Path((truth.get("options") or {}).get("ct") or "").parts[-2:])
    return str(recorded or truth.get("patient") or simulated_from or case_id)


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def read_exclusions(path: str | Path) -> dict[str, str]:
    """Cases to leave out: a JSON list or object (id: reason), or text with an id and a reason a line.

    The JSON that `sctlab register report` proposes has its ids under `exclude`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, found="no such file", expected="a list of case ids")
    if path.suffix == ".json":
        value = read_json(path)
        if isinstance(value, dict) and "exclude" in value:
            value = value["exclude"]
        if isinstance(value, list) and all(isinstance(v, dict) and "id" in v for v in value):
            value = {v["id"]: v.get("reason", "") for v in value}
        if isinstance(value, list):
            value = dict.fromkeys(map(str, value), "")
        if not isinstance(value, dict):
            raise InputError(
                path, found=f"a JSON {type(value).__name__}", expected="a list of ids or an object of id: reason"
            )
        return {str(k): f"excluded: {v}".rstrip(": ") for k, v in value.items()}
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    parts = (line.replace(",", " ").split(None, 1) for line in lines if line)
    return {p[0]: ("excluded: " + p[1]) if len(p) > 1 else "excluded" for p in parts}


def check_pair(pair: Pair) -> Pair:
    """Open a pair's images and refuse what can't be trained on; the result carries the content's hash.

    Raises:
        InputError: Unreadable or non-finite images, other grids, an empty mask, bodies that don't overlap.
    """
    source, target, mask = read_volume(pair.source), read_volume(pair.target), read_mask(pair.mask)
    for volume, path in ((target, pair.target), (mask, pair.mask)):
        if not volume.geometry.same_grid(source.geometry):
            raise InputError(
                path,
                found=f"grid {volume.geometry.size_xyz} at {volume.geometry.spacing_xyz} mm",
                expected=f"the source's grid {source.geometry.size_xyz} at {source.geometry.spacing_xyz} mm",
                advice="register the pair first",
            )
    if not mask.array.any():
        raise InputError(pair.mask, found="an empty mask", expected="a mask that covers the body")
    bodies = [body_mask(source, pair.task).array & mask.array, body_mask(target, Task.CBCT).array & mask.array]
    overlap = dice(*bodies)
    if not overlap >= MINIMUM_BODY_OVERLAP:
        raise InputError(
            pair.target,
            found=f"its body and the source's overlap with a Dice of {overlap:.2f}",
            expected=f"at least {MINIMUM_BODY_OVERLAP}",
        )
    digests = [file_digest(p) for p in (pair.source, pair.target, pair.mask, pair.field_of_view) if p is not None]
    digest = hashlib.sha256("".join(digests).encode()).hexdigest()
    return replace(pair, digest=digest, images=(*pair.images, *digests[:2]))


def load_cohort(
    root: str | Path,
    task: Task,
    *,
    target: Target = "ct",
    exclusions: dict[str, str] | None = None,
    regions: Iterable[Region] | None = None,
    jobs: int = 1,
    remember: Path | None = None,
) -> Cohort:
    """Find and check the pairs of a cohort.

    Args:
        exclusions: Case id → reason.
        regions: Only these.
        jobs: Processes for the checks.
        remember: JSON file that keeps the results, so that each pair is opened once while its files stay
            as they are (size and modification time).

    Raises:
        InputError: No usable pair (the message says why the first was left out), or a check that was cut short;
            what was found out by then is remembered.
    """
    root = Path(root)
    found, left_out = find_pairs(root, task, target=target)
    exclusions = exclusions or {}
    unknown = set(exclusions) - {p.id for p in found} - set(left_out)
    if unknown and len(unknown) == len(exclusions):
        raise InputError(
            "exclusions",
            found=f"none of the ids is in {root} ({', '.join(sorted(unknown)[:5])})",
            expected="ids of the cohort",
        )
    wanted = set(regions) if regions is not None else set(Region)
    left_out |= {p.id: exclusions[p.id] for p in found if p.id in exclusions}
    found = [p for p in found if p.id not in exclusions and p.region in wanted]
    known = read_json(remember) if remember is not None and remember.is_file() else {}
    stamps = {p.id: _stamp(p) for p in found}
    fresh = [p for p in found if known.get(p.id, {}).get("stamp") != stamps[p.id]]
    if fresh:
        outcomes = run_jobs(check_pair, [(p.id, (p,)) for p in fresh], title="checking pairs", processes=jobs)
        for pair, outcome in zip(fresh, outcomes, strict=True):
            if not outcome.broken:  # else nothing was learnt about the pair
                known[pair.id] = {"stamp": stamps[pair.id], "error": outcome.error}
            if outcome.ok:
                known[pair.id] |= {"digest": outcome.result.digest, "images": outcome.result.images}
        if remember is not None:
            write_json(remember, known)
        refuse_broken(outcomes, "checking pairs")
    usable = []
    for pair in found:
        entry = known[pair.id]
        if entry["error"]:
            left_out[pair.id] = entry["error"]
        else:
            usable.append(replace(pair, digest=entry["digest"], images=(*pair.images, *entry["images"])))
    if not usable:
        reason = "; ".join(f"{k}: {v}" for k, v in list(left_out.items())[:2]) or "no case of the wanted regions"
        raise InputError(root, found=f"no usable pair ({reason})", expected="pairs of source, target and mask")
    return Cohort(root, tuple(_merge_duplicates(usable)), left_out)


def _merge_duplicates(pairs: Sequence[Pair]) -> list[Pair]:
    """Give pairs that share an image, also by way of others, one patient: published cohorts hold some under two ids."""
    parents: dict[str, str] = {}  # patients and images; those with one root belong together

    def root(key: str) -> str:
        while parents.setdefault(key, key) != key:
            key = parents[key]
        return key

    for pair in pairs:
        for image in pair.images:
            parents[root(image)] = root(pair.patient)
    names: dict[str, str] = {}
    for pair in pairs:
        names.setdefault(root(pair.patient), pair.patient)
    return [replace(p, patient=names[root(p.patient)]) for p in pairs]


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _stamp(pair: Pair) -> str:
    stats = [p.stat() for p in (pair.source, pair.target, pair.mask, pair.field_of_view) if p is not None]
    return json.dumps([CHECKS_FORMAT, str(pair.target), [[s.st_size, s.st_mtime_ns] for s in stats]])


# --- folds -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Folds:
    """Which case validates in which fold; a held-out set belongs to none.

    Args:
        validation: For each fold the case ids that it validates on; it trains on the other folds' ids.
        held_out: Case ids that no fold sees.
        seed: Of the shuffle.
        patients: Case id → patient.
    """

    validation: tuple[tuple[str, ...], ...]
    held_out: tuple[str, ...]
    seed: int
    patients: dict[str, str]

    def training_ids(self, fold: int) -> tuple[str, ...]:
        """Case ids that a fold trains on, sorted."""
        if len(self.validation) == 1:
            return tuple(sorted(set(self.patients) - set(self.validation[0]) - set(self.held_out)))
        return tuple(sorted(i for k, ids in enumerate(self.validation) if k != fold for i in ids))

    def check(self) -> None:
        """Refuse folds that share a patient between training and validation, or with the held-out set."""
        owner: dict[str, str] = {}
        sets = {f"fold {k}": ids for k, ids in enumerate(self.validation)} | {"the held-out set": self.held_out}
        for name, ids in sets.items():
            for case_id in ids:
                patient = self.patients.get(case_id)
                if patient is None:
                    raise InputError("folds", found=f"{name} holds {case_id}", expected="cases of the cohort only")
                if owner.setdefault(patient, name) != name:
                    raise InputError(
                        "folds",
                        found=f"patient {patient} is in {owner[patient]} and in {name}",
                        expected="each patient in one of them",
                        advice="make new folds",
                    )

    def write(self, path: Path) -> None:
        """Write the folds as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Folds:
        """Read and check a file of `write`."""
        value = read_json(path)
        try:
            folds = cls(
                tuple(map(tuple, value["validation"])), tuple(value["held_out"]), value["seed"], dict(value["patients"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(path, found=f"not a fold file ({error})", expected="the folds.json of a run") from error
        folds.check()
        return folds


def make_folds(pairs: Sequence[Pair], count: int, *, seed: int = 0, held_out: float = 0.0) -> Folds:
    """Distribute patients over folds so that every region x centre is spread evenly.

    Args:
        pairs: Checked pairs.
        count: Number of folds; 1 keeps about a fifth of the cases for validation.
        seed: Of the shuffle within a stratum.
        held_out: Share of the patients that no fold sees.

    Raises:
        InputError: Fewer patients than folds.
    """
    patients: dict[str, list[Pair]] = defaultdict(list)
    for pair in sorted(pairs, key=lambda p: p.id):
        patients[pair.patient].append(pair)
    strata: dict[str, list[str]] = defaultdict(list)
    for patient, cases in patients.items():
        strata[cases[0].stratum].append(patient)
    bins = max(count, 2) if count > 1 else 5
    if len(patients) - round(held_out * len(patients)) < max(2, count):
        raise InputError(
            "folds",
            found=f"{len(patients)} patients for {count} folds and a held-out share of {held_out:g}",
            expected="at least a patient a fold",
            advice="lower data.folds or data.held_out",
        )
    rng = np.random.default_rng([seed, 0x5C7])
    kept_out: list[str] = []
    chosen: list[list[Pair]] = [[] for _ in range(bins)]
    debt = 0.0  # the held-out share of small strata, carried on to the next one
    for name in sorted(strata):
        shuffled = [strata[name][i] for i in rng.permutation(len(strata[name]))]
        debt += held_out * len(shuffled)
        take = int(debt + 0.5)
        debt -= take
        kept_out += shuffled[:take]
        # Patients with many cases first: the others fill the gaps that these leave.
        for patient in sorted(shuffled[take:], key=lambda p: -len(patients[p])):
            cases = patients[patient]
            min(chosen, key=partial(_filling, case=cases[0])).extend(cases)
    if count == 1:
        # The bin that shows most regions and is nearest to a fifth of the cases.
        fifth = sum(map(len, chosen)) / bins
        chosen = [min(chosen, key=lambda b: (-len({c.region for c in b}), int(abs(len(b) - fifth))))]
    validation = tuple(tuple(sorted(c.id for c in cases)) for cases in chosen)
    held_out_ids = tuple(sorted(c.id for patient in kept_out for c in patients[patient]))
    owner = {pair.id: pair.patient for pair in pairs}
    folds = Folds(validation, held_out_ids, seed, owner)
    folds.check()
    return folds


def _filling(cases: Sequence[Pair], case: Pair) -> tuple[int, int, int]:
    """How full a fold is for another case: its cases of the same stratum, of the same region, and of any."""
    return sum(c.stratum == case.stratum for c in cases), sum(c.region == case.region for c in cases), len(cases)
