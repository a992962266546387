"""From runs to a bundle: folds, region groups, and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from sctlab.cohort.load import CohortRecord
from sctlab.training.card import model_card
from sctlab.training.checkpoint import load_checkpoint, part
from sctlab.training.plan import Stage, TrainingPlan
from sctlab.training.run import Run
from sctlab.training.start import START, unseen
from sctlab.training.trainer import EXTRACTORS
from sctlab.training.validation import average
from sctlab.workflow.locking import one_at_a_time
from sctlab_model.bundle import MANIFEST, Bundle, Fold, RegionGroup, Registration, StorageType, save_fold, write_bundle
from sctlab_model.cases import Region, read_json
from sctlab_model.errors import InputError
from sctlab_model.gates import ResultStatistics, ValidationStatistics
from sctlab_model.io.atomic import added_files, remove_stale_parts, write_text
from sctlab_model.revision import describe_software

CARD = "MODEL_CARD.md"
INTENDED_USE = "Research on synthetic CT. Not a medical device; not for clinical use."
DEMONSTRATION_USE = (
    "Shows that the software works. Trained on a small simulated cohort for a short time; not for clinical use, "
    "nor for any conclusion about images."
)


def pack_runs(
    runs: Sequence[Path],
    out: Path,
    *,
    storage: StorageType = "float32",
    demonstration: bool = False,
    name: str = "",
    folds: Sequence[int] | None = None,
) -> Bundle:
    """Write a bundle of the best networks of one run, or of several runs of one recipe and cohort.

    Args:
        runs: Folders of `sctlab train`; several of them (a fold each, say) must agree in recipe and pairs.
        out: The bundle's folder; its manifest is written last.
        storage: Type of the stored weights.
        demonstration: Mark the bundle as a demonstration.
        name: Of the bundle; the folder's name when left out.
        folds: Only these; all finished ones when left out.

    Raises:
        InputError: Nothing finished, runs that don't fit together, or folds that saw each other's validation;
            nothing is written then.
    """
    opened = [Run(folder) for folder in runs]
    first = opened[0]
    plan, cohort, division = first.plan, first.cohort, first.folds
    for run in opened[1:]:
        if run.plan != plan or run.cohort.digest != cohort.digest or run.folds != division:
            raise InputError(
                run.folder,
                found="another plan, other pairs or other folds",
                expected=f"those of {first.folder}",
                advice="pack it apart",
            )
    registration = registration_of(cohort.registrations, plan.data.target)
    # Everything is read before anything is written: a bundle that is there already stays whole.
    networks = [
        _read(opened, stage, fold)
        for stage in plan.final_stages
        for fold in (range(plan.data.folds) if folds is None else folds)
    ]
    found = [n for n in networks if n is not None]
    for stage in plan.final_stages:
        if not any(n.stage == stage for n in found):
            raise InputError(
                first.folder,
                found=f"no finished fold of stage {stage.name}",
                expected="at least one",
                advice="train it to its end first",
            )
    with one_at_a_time(out / "pack"):
        remove_stale_parts(out)
        with added_files(out, MANIFEST) as part:
            return _write(first, found, part, name or out.name, storage, demonstration, registration)


def _write(
    run: Run,
    found: Sequence[_Network],
    out: Path,
    name: str,
    storage: StorageType,
    demonstration: bool,
    registration: Registration,
) -> Bundle:
    """Write the bundle of networks that were read and fit together."""
    plan, cohort, division = run.plan, run.cohort, run.folds
    groups = [
        RegionGroup(
            regions=_regions(stage, cohort),
            folds=tuple(_pack_fold(n, out, storage, len(plan.final_stages) > 1) for n in found if n.stage == stage),
        )
        for stage in plan.final_stages
    ]
    made_with = [n.values.get("made_with") or describe_software() for n in found]
    sources = [
        {"fold": n.fold, "stage": n.stage.name, "run": n.run.folder.name, "revision": made["revision"]}
        | {k: v for start in _starts(n)[:1] for k, v in start.items() if k in ("bundle", "sha256")}
        for n, made in zip(found, made_with, strict=True)
    ]
    record = found[0].run.stage_folder(found[0].fold, found[0].stage.name) / EXTRACTORS
    demonstration = demonstration or plan.recipe.name.startswith("demo")
    bundle = Bundle(
        name=name,
        recipe=plan.recipe,
        groups=tuple(groups),
        registration=registration,
        # A dozen simulated patients say nothing about what a real one may look like: a real abdomen was refused by them.
        validation=None if demonstration else _validation(found, cohort),
        intended_use=DEMONSTRATION_USE if demonstration else INTENDED_USE,
        demonstration=demonstration,
        provenance={
            "cohort": {
                "digest": cohort.digest,
                "registrations": cohort.registrations,
                "cases": len(cohort.cases),
                "left_out": _within(cohort.folder, cohort.left_out | cohort.excluded),
                "doubtful": _within(cohort.folder, cohort.doubtful),
                "target": plan.data.target,
            },
            "held_out_cases": list(map(_id, division.held_out)),
            "patients": {
                **{case: owner for n in found for s in _starts(n) for case, owner in s.get("patients", {}).items()},
                **{_id(k): v for k, v in division.patients.items() if _id(k) != v},
            },
            "plan": _named(plan).model_dump(mode="json", exclude={"recipe"}),
            "networks": sources,
            "extractors": read_json(record) if record.is_file() else [],
            "packed_by": describe_software()["revision"],
            **made_with[0],
        },
    )
    write_bundle(bundle, out)
    write_text(out / CARD, model_card(bundle))
    return bundle


def _within(folder: str, reasons: dict[str, str]) -> dict[str, str]:
    """Case → reason, without where the cohort lay on the machine that trained: bundles are published."""
    return {key: reason.replace(f"{folder}/", "") if folder else reason for key, reason in reasons.items()}


@dataclass(frozen=True)
class _Network:
    """The best network of a finished stage, as it lies in a run."""

    run: Run
    stage: Stage
    fold: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]


def _read(runs: Sequence[Run], stage: Stage, fold: int) -> _Network | None:
    """The network from the first run that finished it."""
    run = next((r for r in runs if r.finished(fold, stage.name)), None)
    if run is None:
        return None
    return _Network(run, stage, fold, *load_checkpoint(run.stage_folder(fold, stage.name), "best"))


def _pack_fold(network: _Network, out: Path, storage: StorageType, several: bool) -> Fold:
    run, stage, fold, tensors, values = (getattr(network, f.name) for f in fields(network))
    plan, division, cases = run.plan, run.folds, run.cohort.cases
    file = f"{stage.name}_fold_{fold}.safetensors" if several else f"fold_{fold}.safetensors"
    weights = save_fold(part(tensors, "model"), out, file, storage)
    # A stage that starts from another one, or from a bundle, has seen that one's cases too.
    seen, starts = plan.ancestors(stage), _starts(network)
    held = division.validation[fold]
    validation = unseen(held, starts, division.patients) or held
    ids = set(map(_id, validation))  # earlier releases scored cases under their ids
    scored: dict[str, dict[str, float]] = {k: s for k, s in values["cases"].items() if _id(k) in ids}
    metrics: dict[str, Any] = values["metrics"] | (average(scored) if scored else {})
    metrics["iterations"] = float(values["best_iteration"])
    regions = {_id(key): case.region for key, case in cases.items()}
    for region in Region:
        of_region = {key: s for key, s in scored.items() if regions[_id(key)] == region}
        if of_region:
            metrics[str(region)] = average(of_region)
    wanted = None if any(s.regions is None for s in seen) else {r for s in seen for r in s.regions or ()}
    trained = [_id(key) for key in division.training_keys(fold) if wanted is None or cases[key].region in wanted]
    before = [case for start in starts for case in start["training_cases"]]
    return Fold(
        weights=weights,
        storage=storage,
        training_cases=tuple(dict.fromkeys([*trained, *before])),
        validation_cases=tuple(map(_id, validation)),
        metrics=metrics,
    )


def _starts(network: _Network) -> list[dict[str, Any]]:
    """What a network's stages began with, where that were bundles; its own stage's first."""
    run, fold = network.run, network.fold
    records = [run.stage_folder(fold, s.name) / START for s in run.plan.ancestors(network.stage)]
    return [read_json(r) for r in records if r.is_file()]


def _named(plan: TrainingPlan) -> TrainingPlan:
    """The plan without where the bundles that it starts from lay."""
    return plan.changed(
        stages=tuple(
            s if s.start_bundle is None else s.changed(start_bundle=Path(s.start_bundle).name) for s in plan.stages
        )
    )


def _validation(networks: Sequence[_Network], cohort: CohortRecord) -> ValidationStatistics | None:
    """What the output gate measures, over every validation case of every packed network; None for runs of releases
    that did not measure it."""
    regions = {_id(key): case.region for key, case in cohort.cases.items()}
    results = [
        (regions[_id(key)], ResultStatistics.model_validate(values))
        for network in networks
        for key, values in network.values.get("measured", {}).items()
    ]
    return ValidationStatistics.of(results) if results else None


def _id(key: str) -> str:
    """The id of a case key; a manifest names cases by it, because a bundle serves one task."""
    return key.rsplit("/", 1)[-1]


def _regions(stage: Stage, cohort: CohortRecord) -> tuple[Region, ...]:
    """Regions that a stage's networks serve: those it was trained on."""
    if stage.regions is not None:
        return stage.regions
    found = {case.region for case in cohort.cases.values()}
    return tuple(r for r in Region if r in found)


def registration_of(registrations: Sequence[dict[str, Any]], target: str) -> Registration:
    """The manifest's registration from the cohort's record.

    Raises:
        InputError: Pairs of both conventions: no single statement would be true.
    """
    if target == "truth":
        return Registration(method="simulated-aligned", convention="aligned")
    conventions = {r["convention"] for r in registrations}
    known = {c if c in ("ct_to_source", "source_to_ct", "aligned") else "ct_to_source" for c in conventions}
    if len(known) != 1:
        raise InputError(
            "pairs",
            found=f"several conventions ({', '.join(sorted(conventions))})",
            expected="one of them",
            advice="register all pairs alike",
        )
    method = ", ".join(sorted({str(r["method"]) for r in registrations}))
    if "unknown" in conventions:
        # SynthRAD's released pairs are on the source's grid, and this file says nothing about how they came there.
        method += " (no pair.json: ct_to_source is assumed because source and CT share the source's grid)"
    return Registration(method=method, convention=known.pop())
