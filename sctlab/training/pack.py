"""From runs to a bundle: folds, region groups, and where they come from."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from model.bundle import Bundle, Fold, RegionGroup, Registration, StorageType, save_fold, write_bundle
from model.errors import InputError
from model.interface import Region, read_json
from model.writing import write_text
from sctlab.training.card import model_card
from sctlab.training.checkpoint import load_checkpoint, part
from sctlab.training.loop import EXTRACTORS
from sctlab.training.plan import Stage
from sctlab.training.run import Run
from sctlab.training.validation import METRICS

INTENDED_USE = "Research on synthetic CT. Not a medical device; not for clinical use."
DEMONSTRATION_USE = (
    "Shows that the software works. Trained on a small simulated cohort for a few minutes; not for clinical use, "
    "nor for any conclusion about images."
)
PACKAGES = ("torch", "segmentation-models-pytorch", "timm", "lightning-fabric", "numpy", "SimpleITK", "safetensors")


def pack_runs(
    runs: Sequence[Path], out: Path, *, storage: StorageType = "float32", demonstration: bool = False,
    name: str = "", folds: Sequence[int] | None = None,
) -> Bundle:  # fmt: skip
    """Write a bundle of the best networks of one run, or of several runs of one recipe and cohort.

    Args:
        runs: Folders of `sctlab train`; several of them (a fold each, say) must agree in recipe and pairs.
        out: The bundle's folder; its manifest is written last.
        storage: Type of the stored weights.
        demonstration: Mark the bundle as a demonstration.
        name: Of the bundle; the folder's name when left out.
        folds: Only these; all finished ones when left out.

    Raises:
        InputError: Nothing finished, runs that don't fit together, or folds that saw each other's validation.
    """
    opened = [Run(folder) for folder in runs]
    first = opened[0]
    plan, cohort, division = first.plan, first.cohort, first.folds
    for run in opened[1:]:
        if run.plan.recipe != plan.recipe or run.cohort["digest"] != cohort["digest"] or run.folds != division:
            raise InputError(run.folder, "another recipe, other pairs or other folds",
                             f"those of {first.folder}", "pack it apart")  # fmt: skip
    groups, sources, extractors = [], [], []
    for stage in plan.final_stages:
        packed = []
        for fold in range(plan.data.folds) if folds is None else folds:
            run = next((r for r in opened if r.finished(fold, stage.name)), None)
            if run is None:
                continue
            packed.append(_pack_fold(run, stage, fold, out, storage, len(plan.final_stages) > 1))
            sources.append({"fold": fold, "stage": stage.name, "run": run.folder.name})
            record = run.stage_folder(fold, stage.name) / EXTRACTORS
            extractors = extractors or (read_json(record) if record.is_file() else [])
        if not packed:
            raise InputError(first.folder, f"no finished fold of stage {stage.name}", "at least one",
                             "train it to its end first")  # fmt: skip
        groups.append(RegionGroup(regions=_regions(stage, cohort), folds=tuple(packed)))
    demonstration = demonstration or plan.recipe.name.startswith("demo")
    bundle = Bundle(
        name=name or out.name,
        recipe=plan.recipe,
        groups=tuple(groups),
        registration=registration_of(cohort["registrations"], plan.data.target),
        intended_use=DEMONSTRATION_USE if demonstration else INTENDED_USE,
        demonstration=demonstration,
        provenance={
            "cohort": {k: cohort[k] for k in ("digest", "registrations")}
            | {"cases": len(cohort["cases"]), "left_out": cohort["left_out"], "target": plan.data.target},
            "held_out_cases": list(division.held_out),
            "patients": {k: v for k, v in division.patients.items() if k != v},
            "plan": plan.model_dump(mode="json", exclude={"recipe"}),
            "networks": sources,
            "extractors": extractors,
            **versions(),
        },
    )
    write_bundle(bundle, out)
    write_text(out / "MODEL_CARD.md", model_card(bundle))
    return bundle


def _pack_fold(run: Run, stage: Stage, fold: int, out: Path, storage: StorageType, several: bool) -> Fold:
    plan, division, cases = run.plan, run.folds, run.cohort["cases"]
    tensors, values = load_checkpoint(run.stage_folder(fold, stage.name), "best")
    file = f"{stage.name}_fold_{fold}.safetensors" if several else f"fold_{fold}.safetensors"
    weights = save_fold(part(tensors, "model"), out, file, storage)
    scored: dict[str, dict[str, float]] = values["cases"]
    metrics: dict[str, Any] = {m: values["metrics"][m] for m in METRICS}
    metrics["iterations"] = float(values["best_iteration"])
    for region in Region:
        found = [s for case_id, s in scored.items() if cases[case_id]["region"] == region]
        if found:
            metrics[str(region)] = {m: float(np.mean([s[m] for s in found])) for m in METRICS}
    # A stage that starts from another one has seen that one's cases too.
    seen = _ancestors(stage, plan.stages)
    wanted = None if any(s.regions is None for s in seen) else {r for s in seen for r in s.regions}
    return Fold(
        weights=weights,
        storage=storage,
        training_cases=tuple(i for i in division.training_ids(fold) if wanted is None or cases[i]["region"] in wanted),
        validation_cases=tuple(division.validation[fold]),
        metrics=metrics,
    )


def _ancestors(stage: Stage, stages: Sequence[Stage]) -> list[Stage]:
    chain = [stage]
    while chain[-1].start is not None:
        chain.append(next(s for s in stages if s.name == chain[-1].start))
    return chain


def _regions(stage: Stage, cohort: dict[str, Any]) -> tuple[Region, ...]:
    """Regions that a stage's networks serve: those it was trained on."""
    if stage.regions is not None:
        return stage.regions
    found = {case["region"] for case in cohort["cases"].values()}
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
        raise InputError("pairs", f"several conventions ({', '.join(sorted(conventions))})", "one of them",
                         "register all pairs alike")  # fmt: skip
    method = ", ".join(sorted({str(r["method"]) for r in registrations}))
    if "unknown" in conventions:
        # SynthRAD's released pairs are on the source's grid, and this file says nothing about how they came there.
        method += " (no pair.json: ct_to_source is assumed because source and CT share the source's grid)"
    return Registration(method=method, convention=known.pop())


def versions() -> dict[str, Any]:
    """Git revision and library versions of this moment."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return {"revision": revision(), "python": platform.python_version(), "versions": found}


def revision() -> str:
    """The product's git commit, with `-modified` where tracked files differ; `unknown` outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        commit = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "-C", root, "status", "--porcelain", "--untracked-files=no"],
                                 capture_output=True, text=True, check=True)  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("-modified" if changed.stdout.strip() else "")
