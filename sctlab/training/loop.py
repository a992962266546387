"""The training loop of one stage of one fold: step, validate, keep the best, resume exactly."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sctlab.training.cache import PreparedCase
from sctlab.training.checkpoint import (
    has_checkpoint,
    load_checkpoint,
    pack_state,
    part,
    read_values,
    restore_optimiser,
    save_checkpoint,
)
from sctlab.training.dataset import Batch, PatchDataset, batches
from sctlab.training.log import RunLog
from sctlab.training.losses import SynthesisLoss
from sctlab.training.plan import Stage, TrainingPlan
from sctlab.training.provenance import versions
from sctlab.training.schedule import learning_rate
from sctlab.training.validation import average, validate
from sctlab_model.errors import InputError
from sctlab_model.io.writing import write_json
from sctlab_model.network import build_network

EXTRACTORS = "extractors.json"  # what the loss' extractors are and how they normalise
LOG_EVERY = 10  # iterations between looks at the loss; each one waits for the device


@dataclass(frozen=True)
class StageJob:
    """One stage of one fold.

    Args:
        plan: The resolved plan.
        stage: Which of its stages.
        fold: Number of the fold.
        training: Prepared training cases.
        validation: Prepared validation cases.
        folder: Where checkpoints and logs go.
        start_folder: Folder of the stage whose best network is the start.
        cohort_digest: Of the pairs; a checkpoint of other data isn't resumed.
    """

    plan: TrainingPlan
    stage: Stage
    fold: int
    training: Sequence[PreparedCase]
    validation: Sequence[PreparedCase]
    folder: Path
    start_folder: Path | None
    cohort_digest: str

    @property
    def name(self) -> str:
        """For messages."""
        return f"fold {self.fold}, stage {self.stage.name}"

    @property
    def seed(self) -> tuple[int, int, int]:
        """Numbers that no other fold or stage of the run shares."""
        return (self.plan.computing.seed, self.fold, self.plan.stages.index(self.stage))


@dataclass
class Progress:
    """What a checkpoint keeps besides tensors."""

    iteration: int = 0
    best_mae_hu: float | None = None
    best_iteration: int = 0
    validations_without_gain: int = 0
    seconds: float = 0.0
    finished: bool = False


def train_stage(job: StageJob, fabric: Fabric, console: Console) -> dict[str, Any]:
    """Train a stage to its end, from its last checkpoint where there is one.

    Returns:
        The values of the best checkpoint (iteration, metrics).

    Raises:
        InputError: Memory or disk ran out, or the loss became NaN; the last checkpoint stays usable.
        WeightsError: A checkpoint is altered or belongs to other data.
    """
    stage = job.stage
    if has_checkpoint(job.folder, "last") and read_values(job.folder, "last")["finished"]:
        return read_values(job.folder, "best")
    progress = Progress()
    try:
        trainer = _Trainer(job, fabric)
        trainer.restore(progress)
        with RunLog(job.folder, job.name, stage.iterations, progress.iteration, console, fabric.is_global_zero) as log:
            _iterate(job, trainer, progress, log)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _ending(
            job,
            progress,
            "out of memory",
            "a batch that fits",
            "lower patch.batch or patch.size_yx, or set computing.precision: bf16",
        ) from error
    except RuntimeError as error:
        if "not enough memory" not in str(error) and "out of memory" not in str(error):
            raise
        raise _ending(
            job, progress, "out of memory", "a batch that fits", "lower patch.batch or patch.size_yx"
        ) from error
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise _ending(
            job,
            progress,
            f"a file{where} can't be read or written ({error.strerror or error})",
            "readable pairs and a folder with room",
        ) from error
    return read_values(job.folder, "best")


def _iterate(job: StageJob, trainer: _Trainer, progress: Progress, log: RunLog) -> None:
    plan, stage = job.plan, job.stage
    began, before = time.perf_counter(), progress.seconds
    stream = trainer.batches(progress.iteration)
    while progress.iteration < stage.iterations:
        waited = time.perf_counter()
        batch = next(stream)
        waited = time.perf_counter() - waited
        terms = trainer.step(batch, progress.iteration)
        progress.iteration += 1
        progress.seconds = before + time.perf_counter() - began
        log.add(terms, waited)
        last = progress.iteration == stage.iterations
        validating = last or progress.iteration % plan.validate_every == 0
        saving = validating or progress.iteration % plan.checkpoint_every == 0
        if saving or progress.iteration % LOG_EVERY == 0:
            values = log.flush(progress.iteration, learning_rate(plan, stage, progress.iteration - 1))
            broken = "" if np.isfinite(values["loss"]) else f"the loss is {values['loss']:g}"
            if not broken and saving and not trainer.finite():
                broken = "a weight isn't finite"
            if trainer.anywhere(bool(broken)):
                if not trainer.fabric.is_global_zero:
                    raise SystemExit(0)  # the first process tells it, once
                raise _ending(
                    job,
                    progress,
                    broken or "the loss of another process isn't finite",
                    "finite numbers",
                    "lower the learning rate, or set optimiser.clip_norm or computing.precision: 32",
                )
        if validating:
            _validate(job, trainer, progress, log)
            patience = plan.early_stopping.patience if plan.early_stopping else None
            progress.finished = last or (patience is not None and progress.validations_without_gain >= patience)
        if saving:
            trainer.save("last", progress)
        if progress.finished:
            break


def _validate(job: StageJob, trainer: _Trainer, progress: Progress, log: RunLog) -> None:
    picture = job.folder / "pictures" / f"iteration_{progress.iteration:07d}.png"
    scores = trainer.validate(picture)
    mean = average(scores)
    if not np.isfinite(mean["mae_hu"]):
        raise _ending(
            job,
            progress,
            f"the validation's MAE is {mean['mae_hu']:g} HU",
            "a number",
            "the network's values exceed what fp16 holds: lower the learning rate, or set optimiser.clip_norm or ema",
        )
    log.validated(progress.iteration, mean, picture)
    if progress.best_mae_hu is None or mean["mae_hu"] < progress.best_mae_hu:
        progress.best_mae_hu, progress.best_iteration = mean["mae_hu"], progress.iteration
        progress.validations_without_gain = 0
        trainer.save("best", progress, {"metrics": mean, "cases": scores})
    else:
        progress.validations_without_gain += 1


def _ending(job: StageJob, progress: Progress, found: str, expected: str, advice: str = "free space") -> InputError:
    kept = "no checkpoint was written yet"
    if has_checkpoint(job.folder, "last"):
        kept = f"the checkpoint of iteration {read_values(job.folder, 'last')['iteration']} is kept: --resume"
    return InputError(
        f"{job.name}, iteration {progress.iteration}", found=found, expected=expected, advice=f"{advice}; {kept}"
    )


class _Trainer:
    """Network, optimiser and loss on the run's devices; everything that a checkpoint holds."""

    def __init__(self, job: StageJob, fabric: Fabric) -> None:
        plan, computing = job.plan, job.plan.computing
        self.job, self.fabric = job, fabric
        torch.manual_seed(_number(*job.seed))  # the initial weights
        self.network = build_network(plan.recipe.network)
        self.network.start_at(0, plan.recipe.target_range_hu)
        if job.start_folder is not None:
            tensors, _ = load_checkpoint(job.start_folder, "best")
            self.network.load_state_dict(part(tensors, "model"))
        if computing.batch_norm == "synchronised" and fabric.world_size > 1:
            from timm.layers import convert_sync_batchnorm  # torch's own would drop timm's fused activations

            self.network = convert_sync_batchnorm(self.network)
        layout = self.network.memory_format if computing.channels_last else torch.contiguous_format
        self.network.to(fabric.device, memory_format=layout)
        optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=plan.optimiser.learning_rate,
            betas=plan.optimiser.betas,
            weight_decay=plan.optimiser.weight_decay,
            fused=computing.fused or None,
        )
        self.average: dict[str, Tensor] | None = None
        if plan.ema is not None:
            self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        compiled = torch.compile(self.network) if computing.compile else self.network
        self.model, self.optimiser = fabric.setup(compiled, optimiser)
        self.loss = SynthesisLoss(plan.losses, plan.recipe, plan.patch.slab).to(fabric.device)
        if fabric.is_global_zero:
            write_json(job.folder / EXTRACTORS, self.loss.describe())
        self.dataset = PatchDataset(
            job.training,
            plan.patch,
            plan.recipe.network.slices,
            job.seed,
            fabric.global_rank,
            fabric.world_size,
            plan.recipe.canvas,
        )

    def batches(self, start: int) -> Iterator[Batch]:
        """The batches from an iteration on."""
        pin = self.fabric.device.type == "cuda"
        return batches(self.dataset, start, self.job.stage.iterations, workers=self.job.plan.data.workers, pin=pin)

    def step(self, batch: Batch, iteration: int) -> dict[str, Tensor]:
        """One optimiser step; the loss and its terms, on the device."""
        plan = self.job.plan
        # What is random in the network itself (dropout of some encoders) depends on the iteration alone.
        torch.manual_seed(_number(*self.job.seed, iteration, self.fabric.global_rank))
        self.network.train()
        if plan.computing.batch_norm == "frozen":
            for module in self.network.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        rate = learning_rate(plan, self.job.stage, iteration)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        batch = batch.to(self.fabric.device, plan.computing.channels_last)
        prediction = self.model(batch.source)
        with self.fabric.autocast():
            total, terms = self.loss(prediction, batch.target, batch.mask)
        self.optimiser.zero_grad()
        self.fabric.backward(total)
        if plan.optimiser.clip_norm is not None:
            self.fabric.clip_gradients(
                self.model, self.optimiser, max_norm=plan.optimiser.clip_norm, error_if_nonfinite=False
            )
        self.optimiser.step()
        if self.average is not None:
            self._update_average(iteration)
        return {"loss": total.detach(), **terms}

    @torch.no_grad()
    def _update_average(self, iteration: int) -> None:
        assert self.job.plan.ema is not None
        # Young averages forget the random start faster.
        decay = min(self.job.plan.ema, (1 + iteration) / (10 + iteration))
        for key, value in self.network.state_dict().items():
            kept = self.average[key]
            kept.lerp_(value, 1 - decay) if kept.is_floating_point() else kept.copy_(value)

    @torch.no_grad()
    def finite(self) -> bool:
        """Whether every weight is a number."""
        return bool(torch.stack([p.isfinite().all() for p in self.network.parameters()]).all())

    def weights(self) -> dict[str, Tensor]:
        """The weights that validate and go into a bundle: the moving average where there is one."""
        return self.average if self.average is not None else self.network.state_dict()

    def anywhere(self, here: bool) -> bool:
        """Whether something is so in any process: all of them must end alike, or the others wait for ever."""
        if self.fabric.world_size == 1:
            return here
        flag = torch.tensor(float(here), device=self.fabric.device)
        return bool(self.fabric.all_reduce(flag, reduce_op="sum") > 0)

    def _share_weights(self) -> None:
        """The first process' weights everywhere: batch norms' running statistics drift apart, and one is saved."""
        if self.fabric.world_size > 1:
            for tensor in self.weights().values():
                torch.distributed.broadcast(tensor, src=0)

    def validate(self, picture: Path) -> dict[str, dict[str, float]]:
        """Score the validation cases."""
        self._share_weights()
        scores = validate(
            self.weights(),
            self.job.validation,
            self.job.plan.recipe,
            self.fabric.device,
            picture=picture,
            gather=self._gather,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
        )
        return scores

    def _gather(self, table: np.ndarray) -> np.ndarray:
        if self.fabric.world_size == 1:
            return table
        # float32: not every device has float64
        tensor = torch.from_numpy(table.astype(np.float32)).to(self.fabric.device)
        return self.fabric.all_reduce(tensor, reduce_op="sum").cpu().numpy()

    def save(self, name: str, progress: Progress, extra: dict[str, Any] | None = None) -> None:
        """Write checkpoint `last` (everything) or `best` (weights only); the first process writes."""
        if self.fabric.is_global_zero:
            if name == "best":
                tensors = {f"model.{k}": v for k, v in self.weights().items()}
            else:
                tensors = pack_state(self.network, self.optimiser.optimizer)
                tensors |= {f"average.{k}": v for k, v in (self.average or {}).items()}
            values = {**vars(progress), **(extra or {}), "cohort": self.job.cohort_digest,
                      "scaler": self.fabric.strategy.precision.state_dict(), "made_with": versions()}  # fmt: skip
            try:
                save_checkpoint(self.job.folder, name, tensors, values)
            except InputError as error:
                raise _ending(self.job, progress, f"{error.where} {error.found}", "a folder with room") from error
        self.fabric.barrier()

    def restore(self, progress: Progress) -> None:
        """Go on from checkpoint `last`, if there is one."""
        folder = self.job.folder
        if not has_checkpoint(folder, "last"):
            return
        tensors, values = load_checkpoint(folder, "last")
        if values["cohort"] != self.job.cohort_digest:
            raise InputError(
                folder,
                found="its checkpoint was trained on other pairs",
                expected="the cohort of the run",
                advice="start a new run",
            )
        self.network.load_state_dict(part(tensors, "model"))
        restore_optimiser(self.optimiser.optimizer, tensors)
        if self.average is not None:
            self.average = {k: v.to(self.fabric.device) for k, v in part(tensors, "average").items()}
        if values["scaler"]:
            self.fabric.strategy.precision.load_state_dict(values["scaler"])
        for key in vars(progress):
            setattr(progress, key, values[key])


def _number(*parts: int) -> int:
    """A 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


__all__ = ["Progress", "StageJob", "train_stage"]
