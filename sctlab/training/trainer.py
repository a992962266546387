"""The trainer: devices, batches, learning rates, averages, validation and checkpoints of any objective."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sctlab.training.batch import Batch, on_device
from sctlab.training.checkpoint import (
    has_checkpoint,
    load_checkpoint,
    pack_networks,
    pack_optimisers,
    part,
    read_values,
    restore_networks,
    restore_optimisers,
    save_checkpoint,
)
from sctlab.training.contrast import ContrastDrawer
from sctlab.training.dataset import PatchDataset, batches
from sctlab.training.densities import DensityDrawer
from sctlab.training.job import Progress, StageJob
from sctlab.training.objectives import build_objective
from sctlab.training.objectives.base import GENERATOR
from sctlab.training.schedule import learning_rate
from sctlab.training.start import START, first_weights
from sctlab.training.validation import Scores, UnpairedReference, validate
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import write_json
from sctlab_model.revision import describe_software

EXTRACTORS = "extractors.json"  # what the objective's extractors are and how they normalise


class Trainer:
    """An objective on the run's devices, and everything that a checkpoint holds.

    Args:
        job: What is trained on what.
        fabric: Launched.
    """

    def __init__(self, job: StageJob, fabric: Fabric) -> None:
        plan = job.plan
        self.job, self.fabric = job, fabric
        torch.manual_seed(_number(*job.seed))  # the initial weights
        self.objective = build_objective(plan)
        if job.start_folder is not None:
            tensors, _ = load_checkpoint(job.start_folder, "best")
            self.objective.networks[GENERATOR].load_state_dict(part(tensors, "model"))
        elif job.stage.start_bundle is not None and not has_checkpoint(job.folder, "last"):
            weights, origin = first_weights(plan, job.stage, job.fold)
            self.objective.networks[GENERATOR].load_state_dict(weights)
            if fabric.is_global_zero:
                write_json(job.folder / START, origin)
        self.objective.attach(fabric)
        self.average: dict[str, Tensor] | None = None
        if plan.ema is not None:
            self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        # The rate that each optimiser begins with; the schedule multiplies it.
        self._rates = {
            name: [group["lr"] for group in optimiser.param_groups]
            for name, optimiser in self.objective.optimisers.items()
        }
        if fabric.is_global_zero:
            write_json(job.folder / EXTRACTORS, self.objective.describe())
        self.dataset = PatchDataset(
            job.training,
            plan.patch,
            plan.recipe.network.slices,
            job.seed,
            fabric.global_rank,
            fabric.world_size,
            plan.pairing,
            plan.recipe.canvas,
            ContrastDrawer(plan.data.contrast, plan.recipe) if plan.data.contrast else None,
            DensityDrawer(plan.data.densities, plan.recipe) if plan.data.densities else None,
            self.objective.source_type,
        )
        self._reference: UnpairedReference | None = None

    @property
    def network(self) -> torch.nn.Module:
        """The network that validates and goes into a bundle."""
        return self.objective.networks[GENERATOR]

    def batches(self, start: int) -> Iterator[Batch]:
        """The batches from an iteration on, on the device."""
        plan, device = self.job.plan, self.fabric.device
        pin = device.type == "cuda"
        stream = batches(self.dataset, start, self.job.stage.iterations, workers=plan.data.workers, pin=pin)
        return on_device(stream, device, channels_last=plan.computing.channels_last)

    def step(self, batch: Batch, iteration: int) -> dict[str, Tensor]:
        """One step of the objective on a batch of `batches`; its numbers for the log, on the device."""
        plan = self.job.plan
        # What is random in the networks themselves (dropout of some encoders) depends on the iteration alone.
        torch.manual_seed(_number(*self.job.seed, iteration, self.fabric.global_rank))
        for network in self.objective.networks.values():
            network.train()
            if plan.computing.batch_norm == "frozen":
                for module in network.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        rate = learning_rate(plan, self.job.stage, iteration)
        for name, optimiser in self.objective.optimisers.items():
            for group, begin in zip(optimiser.param_groups, self._rates[name], strict=True):
                same = begin == plan.optimiser.learning_rate
                group["lr"] = rate if same else rate * begin / plan.optimiser.learning_rate
        logs = self.objective.step(batch)
        if self.average is not None:
            self._update_average(iteration)
        return logs

    @torch.no_grad()
    def _update_average(self, iteration: int) -> None:
        assert self.job.plan.ema is not None
        assert self.average is not None
        # Young averages forget the random start faster.
        decay = min(self.job.plan.ema, (1 + iteration) / (10 + iteration))
        for key, value in self.network.state_dict().items():
            kept = self.average[key]
            kept.lerp_(value, 1 - decay) if kept.is_floating_point() else kept.copy_(value)

    @torch.no_grad()
    def finite(self) -> bool:
        """Whether every weight of every network is a number."""
        weights = [p for network in self.objective.networks.values() for p in network.parameters()]
        return bool(torch.stack([p.isfinite().all() for p in weights]).all())

    def weights(self) -> dict[str, Tensor]:
        """The weights that validate and go into a bundle: the moving average where there is one."""
        return self.average if self.average is not None else self.network.state_dict()

    def anywhere(self, here: bool) -> bool:
        """Whether something is so in any process: all of them must end alike, or the others wait for ever."""
        if self.fabric.world_size == 1:
            return here
        flag = torch.tensor(float(here), device=self.fabric.device)
        total = self.fabric.all_reduce(flag, reduce_op="sum")
        assert isinstance(total, Tensor)
        return bool(total > 0)

    def _share_weights(self) -> None:
        """The first process' weights everywhere: batch norms' running statistics drift apart, and one is saved."""
        if self.fabric.world_size > 1:
            for tensor in self.weights().values():
                torch.distributed.broadcast(tensor, src=0)

    def validate(self, picture: Path) -> Scores:
        """Score the validation cases."""
        self._share_weights()
        if self.job.plan.selected_by == "unpaired" and self._reference is None:
            self._reference = UnpairedReference.of(self.job.training, self.job.plan.recipe)
        return validate(
            self.weights(),
            self.job.validation,
            self.job.plan.recipe,
            self.fabric.device,
            reference=self._reference,
            picture=picture,
            gather=self._gather,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
        )

    def _gather(self, table: np.ndarray) -> np.ndarray:
        if self.fabric.world_size == 1:
            return table
        # float32: not every device has float64
        tensor = torch.from_numpy(table.astype(np.float32)).to(self.fabric.device)
        total = self.fabric.all_reduce(tensor, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total.cpu().numpy()

    def save(self, name: str, progress: Progress, extra: dict[str, Any] | None = None) -> None:
        """Write checkpoint `last` (everything) or `best` (weights only); the first process writes.

        Raises:
            InputError: It can't be written; the one before stays.
        """
        if self.fabric.is_global_zero:
            if name == "best":
                tensors = {f"model.{k}": v for k, v in self.weights().items()}
            else:
                tensors = pack_networks(self.objective.networks) | pack_optimisers(self.objective.optimisers)
                tensors |= {f"average.{k}": v for k, v in (self.average or {}).items()}
            values = {
                **progress.values(),
                **(extra or {}),
                "cohort": self.job.cohort_digest,
                "scaler": self.fabric.strategy.precision.state_dict(),
                "made_with": describe_software(),
            }
            save_checkpoint(self.job.folder, name, tensors, values)
        self.fabric.barrier()

    def restore(self) -> Progress:
        """Go on from checkpoint `last`, if there is one.

        Raises:
            InputError: It was trained on other pairs.
            WeightsError: It is altered, or of another objective, or the best network that it tells of is gone.
        """
        folder = self.job.folder
        if not has_checkpoint(folder, "last"):
            return Progress()
        tensors, values = load_checkpoint(folder, "last")
        if values["cohort"] != self.job.cohort_digest:
            raise InputError(
                folder,
                found="its checkpoint was trained on other pairs",
                expected="the cohort of the run",
                advice="start a new run",
            )
        restore_networks(self.objective.networks, tensors, folder)
        restore_optimisers(self.objective.optimisers, tensors)
        if self.average is not None:
            self.average = {k: v.to(self.fabric.device) for k, v in part(tensors, "average").items()}
        if values["scaler"]:
            self.fabric.strategy.precision.load_state_dict(values["scaler"])
        progress = Progress.of(values)
        if progress.best_score is not None:
            read_values(folder, "best")  # a later network that isn't better would leave the stage without any
        return progress


def _number(*parts: int) -> int:
    """A 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
