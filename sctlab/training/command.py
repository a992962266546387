"""`sctlab train`: the folds of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model.errors import InputError


def train(
    recipe: Annotated[
        str, typer.Argument(help="mri, cbct, mri-submission, cbct-submission, demo-mri, demo-cbct, or a YAML file.")
    ],
    pairs: Annotated[Path, typer.Option(help="Cohort, or the output of `sctlab register`.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    fold: Annotated[list[str], typer.Option(help="0, 1, … or all; repeat it for several.")] = ["all"],  # noqa: B006
    stage: Annotated[list[str] | None, typer.Option(help="Only these stages; repeat it for several.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run's checkpoints end.")] = False,
    devices: Annotated[int, typer.Option(help="GPUs, or processes on a CPU.")] = 1,
    nodes: Annotated[int, typer.Option(help="Machines (under SLURM or torchrun).")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    cache: Annotated[Path | None, typer.Option(help="Folder of prepared cases; OUT/cache when left out.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes that check and prepare cases.")] = None,
    exclude: Annotated[
        Path | None, typer.Option(help="Cases to leave out: exclusions.json of `sctlab register`, or ids.")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Shorten every stage to so many iterations.")] = None,
) -> None:
    """Train the folds of a recipe on registered pairs."""
    from lightning_fabric import Fabric
    from rich.console import Console

    from model.backends import choose_device, describe_device
    from sctlab.training.plan import load_plan
    from sctlab.training.run import default_jobs, train_run

    plan = load_plan(recipe)
    if iterations is not None:
        stages = tuple(s.model_copy(update={"iterations": min(s.iterations, iterations)}) for s in plan.stages)
        plan = plan.model_copy(update={"stages": stages})
    if exclude is not None:
        data = plan.data.model_copy(update={"exclude": str(exclude.resolve())})
        plan = plan.model_copy(update={"data": data})
    if not pairs.is_dir():
        raise InputError("--pairs", f"{pairs} is no folder", "a cohort or registered pairs")
    if device not in ("auto", "cpu", "cuda"):
        raise InputError("--device", f"'{device}'", "auto, cpu or cuda")
    chosen = choose_device(device)
    if plan.computing.precision == "16" and chosen.type == "cpu":
        raise InputError("computing.precision", "16 on a CPU", "32 or bf16", "fp16 with loss scaling needs a GPU")
    precision = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[plan.computing.precision]
    fabric = Fabric(accelerator=chosen.type, devices=devices, num_nodes=nodes, precision=precision)
    fabric.launch()
    console = Console(stderr=True, quiet=not fabric.is_global_zero)
    console.print(f"training on {fabric.world_size} x {describe_device(fabric.device)}, precision {precision}")
    train_run(
        plan, pairs, out, folds=_folds(fold), stages=stage, resume=resume, fabric=fabric, cache=cache,
        jobs=jobs or default_jobs(), console=console,
    )  # fmt: skip


def _folds(names: list[str]) -> list[int] | None:
    if names == ["all"]:
        return None
    try:
        return sorted({int(n) for name in names for n in name.split(",")})
    except ValueError as error:
        raise InputError("--fold", ", ".join(names), "numbers, or all") from error
