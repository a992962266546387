"""`sctlab train`: the folds of a recipe."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sctlab_model.errors import InputError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def train(
    recipe: Annotated[
        str, typer.Argument(help="mri, cbct, mri-submission, cbct-submission, demo-mri, demo-cbct, or a YAML file.")
    ],
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
) -> None:
    """Train the folds of a recipe on registered pairs."""
    import torch
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy
    from rich.console import Console

    from sctlab.training.losses import check_plan
    from sctlab.training.plan import load_plan
    from sctlab.training.run import default_jobs, train_run
    from sctlab_model.device import choose_device, describe_device

    plan = load_plan(recipe)
    if iterations is not None:
        stages = tuple(s.model_copy(update={"iterations": min(s.iterations, iterations)}) for s in plan.stages)
        plan = plan.model_copy(update={"stages": stages})
    if exclude is not None:
        data = plan.data.model_copy(update={"exclude": str(exclude.resolve())})
        plan = plan.model_copy(update={"data": data})
    if not pairs.is_dir():
        raise InputError("--pairs", found=f"{pairs} is no folder", expected="a cohort or registered pairs")
    if device not in ("auto", "cpu", "cuda"):
        raise InputError("--device", found=f"'{device}'", expected="auto, cpu or cuda")
    chosen = choose_device(device)
    if plan.computing.precision == "16" and chosen.type == "cpu":
        raise InputError(
            "computing.precision",
            found="16 on a CPU",
            expected="32 or bf16",
            advice="fp16 with loss scaling needs a GPU",
        )
    devices, nodes = _processes(devices, nodes)
    if chosen.type == "cuda" and devices > torch.cuda.device_count():
        raise InputError(
            "--devices",
            found=f"{devices}, and {torch.cuda.device_count()} CUDA devices here",
            expected="no more than that",
        )
    if plan.computing.batch_norm == "synchronised" and chosen.type == "cpu" and devices * nodes > 1:
        raise InputError(
            "computing.batch_norm", found="synchronised on a CPU", expected="local or frozen", advice="it needs GPUs"
        )
    check_plan(plan)
    precision = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[plan.computing.precision]
    # The first process checks and prepares thousands of cases while the others wait for it.
    strategy = DDPStrategy(timeout=timedelta(days=2)) if devices * nodes > 1 else "auto"
    try:
        fabric = Fabric(
            accelerator=chosen.type, devices=devices, num_nodes=nodes, precision=precision, strategy=strategy
        )
        fabric.launch()
    except (ValueError, RuntimeError) as error:  # of Lightning: processes that don't fit together
        raise InputError(
            "--devices", found=" ".join(str(error).split())[:300], expected="devices that can be used"
        ) from error
    console = Console(stderr=True, quiet=not fabric.is_global_zero)
    console.print(f"training on {fabric.world_size} x {describe_device(fabric.device)}, precision {precision}")
    try:
        train_run(
            plan,
            pairs,
            out,
            folds=_folds(fold),
            stages=stage,
            resume=resume,
            fabric=fabric,
            cache=cache,
            jobs=jobs or default_jobs(),
            console=console,
        )
    except BaseException:
        _end_others(fabric)
        raise


def _processes(devices: int | None, nodes: int | None) -> tuple[int, int]:
    """Processes a machine and machines: as asked for, or as torchrun or SLURM started them.

    Raises:
        InputError: The options contradict the launcher, whose processes would each train alone then.
    """
    started = None
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        started = ("torchrun", local, world // local)
    elif int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        machines = int(os.environ.get("SLURM_NNODES", "1"))
        started = ("SLURM", int(os.environ["SLURM_NTASKS"]) // machines, machines)
    if started is None:
        return devices or 1, nodes or 1
    launcher, *found = started
    asked = (devices or found[0], nodes or found[1])
    if asked != tuple(found):
        raise InputError(
            "--devices, --nodes",
            found=f"{asked[0]} x {asked[1]}, and {launcher} started {found[0]} x {found[1]}",
            expected="the same",
            advice="leave both options out",
        )
    return asked


def _end_others(fabric: Fabric) -> None:
    """End the processes that this one launched: they would wait for it in their next exchange."""
    for process in getattr(fabric.strategy.launcher, "procs", []):
        process.terminate()


def _folds(names: list[str]) -> list[int] | None:
    if names == ["all"]:
        return None
    try:
        return sorted({int(n) for name in names for n in name.split(",")})
    except ValueError as error:
        raise InputError("--fold", found=", ".join(names), expected="numbers, or all") from error
