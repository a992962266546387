"""The first weights of a stage that goes on from a bundle: another training's networks, perhaps another centre's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sctlab.training.plan import Stage, TrainingPlan
from sctlab_model.bundle import Bundle, Fold, load_fold, read_bundle, weights_path
from sctlab_model.errors import InputError

START = "start.json"  # what a stage began with, beside its checkpoints


def first_weights(plan: TrainingPlan, stage: Stage, fold: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights that a stage's `start_bundle` names, and what is to be kept of where they come from.

    Fold k goes on from the bundle's fold k; where it has fewer, they are counted round. The bundle may be for the other
    task: what CTs look like is the same.

    Args:
        plan: Whose network must be the bundle's.
        stage: With `start_bundle`.
        fold: Number of the fold.

    Returns:
        Tensors of the network, float32, and bundle, task, file, SHA-256, training and validation cases of that fold, and
        whose the training cases are where one patient has several.

    Raises:
        InputError: A bundle of another network, or without one group for all of the stage's regions.
        WeightsError: No such bundle, or a damaged one.
    """
    folder, bundle, chosen = _chosen(plan, stage, fold)
    return load_fold(folder, chosen), _origin(bundle, chosen)


def origins(plan: TrainingPlan, stage: Stage, fold: int) -> list[dict[str, Any]]:
    """What `first_weights` tells of every bundle that a stage's networks came from, by way of the stages before it, too.

    Raises:
        InputError, WeightsError: As `first_weights` does.
    """
    return [_origin(*_chosen(plan, s, fold)[1:]) for s in plan.ancestors(stage) if s.start_bundle is not None]


def unseen(keys: Iterable[str], before: Iterable[Mapping[str, Any]], patients: Mapping[str, str]) -> list[str]:
    """The validation cases of patients that no earlier training saw.

    Args:
        keys: Of the validation cases.
        before: Of `origins`.
        patients: Case key → patient, of this cohort.
    """
    owners = {o.get("patients", {}).get(case, case) for o in before for case in o["training_cases"]}
    return [k for k in keys if patients[k] not in owners and k.rsplit("/", 1)[-1] not in owners]


def _chosen(plan: TrainingPlan, stage: Stage, fold: int) -> tuple[Path, Bundle, Fold]:
    folder = weights_path(str(stage.start_bundle))
    bundle = read_bundle(folder)
    if bundle.recipe.network != plan.recipe.network:
        raise InputError(
            folder,
            found=f"network: {bundle.recipe.network}",
            expected=f"the plan's: {plan.recipe.network}",
            advice="start from weights of the same network",
        )
    wanted = set(stage.regions or ())
    groups = [g for g in bundle.groups if wanted <= set(g.regions)]
    if len(groups) != 1:
        raise InputError(
            folder,
            found=f"{len(groups)} groups of networks for stage {stage.name}",
            expected="one",
            advice="give the stage `regions` of one group",
        )
    return folder, bundle, groups[0].folds[fold % len(groups[0].folds)]


def _origin(bundle: Bundle, chosen: Fold) -> dict[str, Any]:
    patients = bundle.provenance.get("patients", {})
    return {
        "bundle": bundle.name,
        "task": bundle.task.value,
        "file": chosen.weights.file,
        "sha256": chosen.weights.sha256,
        "training_cases": list(chosen.training_cases),
        "validation_cases": list(chosen.validation_cases),
        "patients": {case: patients[case] for case in chosen.training_cases if case in patients},
    }
