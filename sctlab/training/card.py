"""The model card: what a bundle's manifest says, for people."""

from __future__ import annotations

from pathlib import Path

from sctlab_model.bundle import Bundle


def model_card(bundle: Bundle) -> str:
    """Markdown drawn from the manifest and from nothing else."""
    recipe, cohort = bundle.recipe, bundle.provenance.get("cohort", {})
    lines = [
        f"# {bundle.name}",
        "",
        f"**{bundle.intended_use}**",
        "",
        "| | |",
        "|---|---|",
        f"| task | {'MR' if bundle.task == 'mri' else 'CBCT'} to CT |",
        f"| regions | {'; '.join(', '.join(g.regions) + f' ({len(g.folds)} folds)' for g in bundle.groups)} |",
        f"| network | {recipe.network.description}, {recipe.network.slices} slices in, one out |",
        f"| grid | {' x '.join(f'{s:g}' for s in recipe.spacing_xyz)} mm |",
        f"| source normalisation | {recipe.normalisation.kind} |",
        f"| views | {', '.join(recipe.views)} |",
        f"| pairs | {cohort.get('cases', 'unknown')} cases, digest `{str(cohort.get('digest', 'unknown'))[:16]}` |",
        f"| registration of the pairs | {bundle.registration.method}, {bundle.registration.convention} |",
        f"| revision | `{str(bundle.provenance.get('revision', 'unknown'))[:12]}` |",
        "",
        "## Validation",
        "",
        _choice(bundle),
        "MAE in HU and PSNR in dB over the body mask, on the network's grid. *All water* is the MAE of an image that is",
        "0 HU throughout the body, on the same cases.",
        "",
        "| regions | fold | MAE | PSNR | all water | training / validation cases |",
        "|---|---|---|---|---|---|",
    ]
    for group in bundle.groups:
        for fold in group.folds:
            cells = [_number(fold.metrics.get(m)) for m in ("mae_hu", "psnr_db", "mae_all_water_hu")]
            counts = f"{len(fold.training_cases)} / {len(fold.validation_cases)}"
            lines.append(
                f"| {', '.join(group.regions)} | {Path(fold.weights.file).stem} | {' | '.join(cells)} | {counts} |"
            )
    lines += _seen(bundle)
    regions = [r for g in bundle.groups for r in g.regions]
    rows = []
    for region in regions:
        folds = [f.metrics.get(region) for g in bundle.groups for f in g.folds]
        of_region = [metrics for metrics in folds if isinstance(metrics, dict)]
        if of_region:
            means = [sum(m[k] for m in of_region) / len(of_region) for k in ("mae_hu", "psnr_db", "mae_all_water_hu")]
            rows.append(f"| {region} | {' | '.join(f'{v:.1f}' for v in means)} |")
    if rows:
        lines += [
            "",
            "Mean over folds, by region:",
            "",
            "| region | MAE | PSNR | all water |",
            "|---|---|---|---|",
            *rows,
        ]
    lines += [
        "",
        "## Limits",
        "",
        "Scores against registered CTs carry the bias of that registration; compare only with references made alike.",
        "Outside the regions, scanners and sequences of the pairs the result is undefined.",
    ]
    return "\n".join(lines) + "\n"


def _seen(bundle: Bundle) -> list[str]:
    """A line for every fold that was validated on patients of a training before it."""
    patients = bundle.provenance.get("patients", {})
    lines = []
    for fold in (f for g in bundle.groups for f in g.folds):
        trained = {patients.get(case, case) for case in fold.training_cases}
        count = sum(patients.get(case, case) in trained for case in fold.validation_cases)
        if count:
            name = Path(fold.weights.file).stem
            lines += [
                "",
                f"**{name}**: {count} of its {len(fold.validation_cases)} validation cases are of patients that it, or what it started from, trained on.",
            ]
    return lines


def _choice(bundle: Bundle) -> str:
    """What validation had to do with the packed networks: nothing, where each was validated once only."""
    plan = bundle.provenance.get("plan")
    if plan is None:
        return "How these networks were validated isn't recorded."
    # Stages that others start from count: their best network was the start.
    if all(stage["iterations"] <= plan["validate_every"] for stage in plan["stages"]):
        return "Each fold on patients that it did not train on, at the end of training: nothing was chosen by them."
    return (
        "Each fold on patients that it did not train on; of several validations the best one was kept, so the figures "
        "are slightly optimistic."
    )


def _number(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float | int) else "–"
