"""Devices and processes of a training: Lightning Fabric, set up as the plan and the launcher want it."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from sctlab.training.plan import TrainingPlan
from sctlab_model.choices import chosen as the_one_of
from sctlab_model.errors import InputError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
}


def launch(plan: TrainingPlan, device: str = "auto", devices: int | None = None, nodes: int | None = None) -> Fabric:
    """Fabric with its processes started.

    Args:
        plan: For precision and batch norm.
        device: `auto`, `cpu` or `cuda`.
        devices: GPUs of a machine, or processes on a CPU; 1, or what the launcher started.
        nodes: Machines; 1, or what the launcher started.

    Raises:
        InputError: Devices that aren't there, or that the plan can't use.
    """
    import torch
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    from sctlab_model.device import choose_device

    device = the_one_of(device, ("auto", "cpu", "cuda"), "--device")
    chosen = choose_device(device)
    if plan.computing.precision == "16" and chosen.type == "cpu":
        raise InputError(
            "computing.precision",
            found="16 on a CPU",
            expected="32 or bf16",
            advice="fp16 with loss scaling needs a GPU",
        )
    devices, nodes = processes(devices, nodes)
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
    # Patches have one size, so cuDNN's choice of algorithms holds from the first step; validation switched it on too late.
    torch.backends.cudnn.benchmark = chosen.type == "cuda"
    # The first process checks and prepares thousands of cases while the others wait for it.
    strategy = DDPStrategy(timeout=timedelta(days=2)) if devices * nodes > 1 else "auto"
    try:
        fabric = Fabric(
            accelerator=chosen.type,
            devices=devices,
            num_nodes=nodes,
            precision=PRECISIONS[plan.computing.precision],
            strategy=strategy,
        )
        fabric.launch()
    except (ValueError, RuntimeError) as error:  # of Lightning: processes that don't fit together
        raise InputError(
            "--devices", found=" ".join(str(error).split())[:300], expected="devices that can be used"
        ) from error
    return fabric


def processes(devices: int | None, nodes: int | None) -> tuple[int, int]:
    """Processes per machine and machines: as asked for, or as torchrun or SLURM started them.

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


def end_others(fabric: Fabric) -> None:
    """End the processes that this one launched: they would wait for it in their next exchange."""
    for process in getattr(fabric.strategy.launcher, "procs", []):
        process.terminate()
