"""`sctlab train`: the folds of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sctlab_model.errors import InputError


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe that comes with the product (docs/training.md), or a YAML.")],
    pairs: Annotated[Path, typer.Option(help="Cohort, or the output of `sctlab register`.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    fold: Annotated[list[str], typer.Option(help="0, 1, … or all; repeat it for several.")] = ["all"],  # noqa: B006
    stage: Annotated[list[str] | None, typer.Option(help="Only these stages; repeat it for several.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run's checkpoints end.")] = False,
    devices: Annotated[
        int | None,
        typer.Option(min=1, help="GPUs of a machine, or processes on a CPU; 1, or what the launcher started."),
    ] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Machines; 1, or what SLURM or torchrun started.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    cache: Annotated[Path | None, typer.Option(help="Folder of prepared cases; OUT/cache when left out.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes that check and prepare cases.")] = None,
    exclude: Annotated[
        Path | None, typer.Option(help="Cases to leave out: exclusions.json of `sctlab register`, or ids.")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Shorten every stage to so many iterations.")] = None,
) -> int:
    """Train the folds of a recipe on registered pairs."""
    from sctlab.training.plan import load_plan
    from sctlab.training.run import Run
    from sctlab.training.setup import check_request

    folds, stages = _folds(fold), None if stage is None else tuple(stage)
    plan = load_plan(recipe).shortened(iterations)
    if exclude is not None:
        plan = plan.excluding(exclude)
    check_request(plan, pairs, Run(out), folds or (), stages or (), resume=resume)

    # From here on PyTorch is imported.
    from sctlab.training.check import check_plan
    from sctlab.training.cohort import TrainSettings, train_cohort
    from sctlab.training.devices import launch
    from sctlab_model.device import describe_device
    from sctlab_model.monitor import ConsoleMonitor

    check_plan(plan)
    settings = TrainSettings(folds, stages, resume, cache, jobs)
    fabric = launch(plan, device, devices, nodes)
    with ConsoleMonitor("training", quiet=not fabric.is_global_zero) as monitor:
        where = f"{fabric.world_size} x {describe_device(fabric.device)}"
        monitor.info(f"training on {where}, precision {plan.computing.precision}")
        result = train_cohort(plan, pairs, out, settings, fabric=fabric, monitor=monitor)
        if result.left_out:
            monitor.warning(f"{len(result.left_out)} cases were left out: {', '.join(sorted(result.left_out))}")
    return result.exit_code


def _folds(names: list[str]) -> tuple[int, ...] | None:
    if names == ["all"]:
        return None
    try:
        return tuple(sorted({int(n) for name in names for n in name.split(",")}))
    except ValueError as error:
        raise InputError("--fold", found=", ".join(names), expected="numbers, or all") from error
