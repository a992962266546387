"""`sctlab info`: what is installed, which devices there are, and what the bundles say of themselves."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sctlab_model.bundle import MANIFEST, SHIPPED_WEIGHTS, Bundle, find_bundles, read_bundle, weights_path
from sctlab_model.errors import WeightsError
from sctlab_model.processors import available_cpus

LIBRARIES = ("torch", "segmentation-models-pytorch", "SimpleITK", "itk-elastix", "itk-rtk", "onnxruntime-gpu")


def info(
    weights: Annotated[Path, typer.Option(help="Bundle folder, or a folder of bundles.")] = SHIPPED_WEIGHTS,
) -> None:
    """Print versions, devices, and the folds of every bundle with their validation figures."""
    import torch

    console = Console()
    table = Table("what", "found")
    table.add_row("Python", platform.python_version())
    for name in LIBRARIES:
        try:
            table.add_row(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            table.add_row(name, "not installed")
    table.add_row("processors", str(available_cpus()))
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    table.add_row("CUDA devices", ", ".join(names) or "none")
    console.print(table)
    folders = find_bundles(weights_path(weights))
    if not folders and weights != SHIPPED_WEIGHTS:
        raise WeightsError(weights, found="no weights bundle", expected=f"{MANIFEST} here or in a folder below")
    for folder in folders:
        console.print(fold_table(read_bundle(folder)))


def fold_table(bundle: Bundle) -> Table:
    """One row a fold: regions, cases, and every validation figure that is a number."""
    folds = [(group, fold) for group in bundle.groups for fold in group.folds]
    names = sorted({k for _, fold in folds for k in fold.metrics if k.endswith(("_hu", "_db"))})
    kind = ", demonstration weights" if bundle.demonstration else ""
    title = f"{bundle.name}: {bundle.task}, {bundle.recipe.network.description}, trained on {bundle.registration.method} pairs{kind}"
    table = Table("regions", "fold", "training", "validation", *names, title=title)
    for group in bundle.groups:
        for k, fold in enumerate(group.folds):
            values = (fold.metrics.get(name) for name in names)
            table.add_row(
                " ".join(group.regions),
                str(k),
                str(len(fold.training_cases)),
                str(len(fold.validation_cases)),
                *("" if v is None else f"{v:.1f}" for v in values),
            )
    return table
