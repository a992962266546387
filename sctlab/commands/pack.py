"""`sctlab pack` and `sctlab export-onnx`: from runs to weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast, get_args

import typer

from sctlab.commands.choices import one_of
from sctlab_model.bundle import StorageType, read_bundle
from sctlab_model.cases import Task
from sctlab_model.errors import InputError

EXPORTS: dict[str, tuple[Literal["fp32", "fp16"], ...]] = {
    "fp32": ("fp32",),
    "fp16": ("fp16",),
    "both": ("fp32", "fp16"),
}


def pack(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="RUN… BUNDLE: folders of `sctlab train`, then the bundle to write. With --from-konfai: CHECKPOINT… BUNDLE, or the folder of an app (app.json)."
        ),
    ],
    storage: Annotated[str | None, one_of("--storage", get_args(StorageType), "Stored type of the weights.")] = None,
    fold: Annotated[list[int] | None, typer.Option(help="Only these folds; repeat it for several.")] = None,
    demonstration: Annotated[
        bool, typer.Option("--demonstration", help="Mark the weights as a demonstration.")
    ] = False,
    from_konfai: Annotated[
        bool, typer.Option("--from-konfai", help="The arguments are checkpoints of the reference implementation.")
    ] = False,
    task: Annotated[Task | None, one_of("--task", Task, "With --from-konfai: what the source is.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="With --from-konfai: recipe name or YAML; mri-submission (mri-paper for the follow-up study), "
            "cbct-submission (3 slices) or cbct-paper (5) when left out."
        ),
    ] = None,
    regions: Annotated[
        str, typer.Option(help="With --from-konfai: AB,TH,HN, regions that the checkpoints serve.")
    ] = "AB,HN,TH",
) -> None:
    """Turn runs into a weights bundle with provenance and a model card."""
    from rich.console import Console

    from sctlab.training.plan import load_plan
    from sctlab.training.run import Run
    from sctlab.weights.apps import app_checkpoints, check_checkpoint

    if len(folders) < 2:
        raise InputError("pack", found=f"{len(folders)} folder", expected="one or more runs and the bundle to write")
    *sources, out = folders
    chosen = cast(StorageType | None, storage)
    if from_konfai:
        if task is None:
            raise InputError("--task", found="not given", expected="mri or cbct")
        for path in (file for source in sources for file in app_checkpoints(source)):
            check_checkpoint(path)
        if recipe is not None:
            load_plan(recipe)
        # From here on PyTorch is imported: what can be refused without it was.
        from sctlab.training.konfai import pack_konfai

        bundle = pack_konfai(
            sources,
            out,
            task=task,
            recipe=recipe,
            regions=regions,
            storage=chosen or "float32",
        )
    else:
        plans = [Run(source).plan for source in sources]
        from sctlab.training.pack import pack_runs

        # Demonstration weights live in the repository: half the size.
        small = demonstration or plans[0].recipe.name.startswith("demo")
        bundle = pack_runs(
            sources,
            out,
            storage=chosen or ("float16" if small else "float32"),
            demonstration=demonstration,
            folds=fold,
        )
    console, notes = Console(), Console(stderr=True)
    if from_konfai:
        console.print(f"recipe: {bundle.recipe.name}", soft_wrap=True)
    for group in bundle.groups:
        for packed in group.folds:
            error = packed.metrics.get("mae_hu")
            figure = f", validation MAE {error:.1f} HU" if isinstance(error, float) else ""
            console.print(f"{', '.join(group.regions)}: {packed.weights.file}{figure}", soft_wrap=True)
        planned = bundle.provenance.get("plan", {}).get("data", {}).get("folds", 0)
        if len(group.folds) < planned:
            notes.print(
                f"note: {len(group.folds)} of the plan's {planned} folds are in the bundle for "
                f"{', '.join(group.regions)}",
                soft_wrap=True,
            )


def export_onnx(
    bundle: Annotated[Path, typer.Argument(help="Weights bundle; the files are added to it.")],
    precision: Annotated[str, one_of("--precision", ("fp32", "fp16", "both"), "Of the files.")] = "both",
) -> None:
    """Add ONNX files to a bundle: one a fold and precision, any batch and plane size, hashed in the manifest."""
    read_bundle(bundle)  # refused before PyTorch is imported
    from sctlab.training.onnx_export import export_bundle

    export_bundle(bundle, EXPORTS[precision])
