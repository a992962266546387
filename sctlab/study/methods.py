"""The methods paragraph, drawn from the plan."""

from __future__ import annotations

import json

from sctlab.evaluation.segmentation import NONE
from sctlab.registration.presets import default_preset
from sctlab.reporting import counted
from sctlab.study.cells import StudyFiles
from sctlab.study.plan import PairsPlan, StudyPlan
from sctlab_model.revision import describe_software


def methods_paragraph(plan: StudyPlan, files: StudyFiles, cases: int) -> str:
    """What was done, with versions and seeds."""
    parts = []
    for name, cohort in plan.cohorts.items():
        if cohort.simulate is not None:
            s = cohort.simulate
            pitch = " x ".join(f"{v:g}" for v in s.case.spacing_xyz)
            parts.append(
                f"Cohort {name}: {s.cases} simulated cases ({s.task}) in each of {', '.join(s.regions)}, voxels of "
                f"{pitch} mm, motion of {s.case.amplitude_mm:g} mm (95th percentile), seed {s.case.seed}."
            )
        else:
            parts.append(f"Cohort {name}: {cohort.of_task} cases as delivered.")
        if cohort.exclude:
            parts.append(f"Excluded before the division into folds: {counted(len(cohort.exclude), 'case')}.")
    pairs = "; ".join(f"{name}: {_pairs(p, plan)}" for name, p in plan.pairs.items())
    parts.append(f"Training pairs and references: {pairs}. Conventions: {', '.join(plan.conventions)}.")
    first = files.training_plan(files.cells[0])
    iterations = sum(s.iterations for s in first.stages)
    losses = ", ".join(plan.losses) or "the recipe's"
    parts.append(
        f"Networks: recipe {first.recipe.name}, {iterations} iterations, losses: {losses}; "
        f"supervision: {', '.join(plan.supervision)}; seeds {', '.join(map(str, plan.seeds))}; {plan.folds} folds by "
        f"patient (seed {plan.split_seed}), one division for all cells; each of {cases} cases was predicted by a network "
        "that had not seen its patient."
    )
    for name, changes in plan.supervision_changes.items():
        parts.append(f"For {name} the recipe has other values: {json.dumps(changes)}.")
    if len(plan.exclusions) > 1:
        parts.append(f"Registered pairs left out of training: {', '.join(plan.exclusions)}.")
    parts.append(
        "Every prediction was scored against every reference and the truth over one mask, on the source's grid. Displacement: "
        "ITK translation and symmetric-force demons, and a translation of edges alone. Intervals: 95 %, percentile bootstrap "
        "over cases."
    )
    if plan.features:
        parts.append(f"Feature distances: {', '.join(plan.features)}.")
    if files.segmenter != NONE:
        parts.append(f"Organs of sCTs and references were labelled by {files.segmenter} for Dice and HD95.")
    if plan.real:
        parts.append(
            f"Real images ({', '.join(plan.real)}) were predicted by every network of their task and judged without a "
            "registration: edges against the source, organs by the source's own labels, HU against the patient's own CT."
        )
    made = describe_software()
    libraries = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    parts.append(f"Software: sctlab {made['revision']}, Python {made['python']}, {libraries}.")
    return " ".join(parts)


def _pairs(pairs: PairsPlan, plan: StudyPlan) -> str:
    if pairs.kind == "planted":
        shift = ", ".join(f"{v:g}" for v in pairs.shift_xyz)
        return f"the truth displaced by a shift of ({shift}) mm and a smooth field of {pairs.variable_mm:g} mm RMS"
    if pairs.kind != "impact":
        return pairs.kind
    simulated = [(c.of_task, region) for c in plan.cohorts.values() if c.simulate for region in c.simulate.regions]
    presets = pairs.presets or sorted({default_preset(*place) for place in simulated})
    return "impact with " + (", ".join(presets) or "the presets of task and region")
