"""The training loop of one stage of one fold: step, validate, keep the best, resume exactly."""

from __future__ import annotations

import time
from copy import copy
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from sctlab.training.checkpoint import has_checkpoint, read_values
from sctlab.training.interrupts import Interrupts
from sctlab.training.job import Progress, StageJob
from sctlab.training.log import RunLog
from sctlab.training.schedule import learning_rate
from sctlab.training.trainer import Trainer
from sctlab_model.errors import InputError, ProductError, ResourceError
from sctlab_model.monitor import Monitor

LOG_EVERY = 10  # iterations between looks at the loss; each one waits for the device


def train_stage(job: StageJob, fabric: Fabric, monitor: Monitor) -> dict[str, Any]:
    """Train a stage to its end, from its last checkpoint where there is one.

    Returns:
        The values of the best checkpoint (iteration, metrics).

    Raises:
        InputError: The loss became NaN; the last checkpoint stays usable.
        ResourceError: Memory or disk ran out; the last checkpoint stays usable.
        WeightsError: A checkpoint is altered or belongs to other data.
        KeyboardInterrupt: Ctrl-C or SIGTERM; a checkpoint of what was done by then was written before.
    """
    if has_checkpoint(job.folder, "last") and read_values(job.folder, "last")["finished"]:
        return read_values(job.folder, "best")
    progress = Progress()
    try:
        trainer = Trainer(job, fabric)
        progress = trainer.restore()
        active = fabric.is_global_zero
        with RunLog(job.folder, job.name, job.stage.iterations, progress.iteration, monitor, active) as log:
            _Loop(job, trainer, progress, log, monitor).run()
    except (torch.OutOfMemoryError, MemoryError) as error:
        advice = "lower patch.batch or patch.size_yx, or set computing.precision: bf16"
        raise _ending(ResourceError, job, progress, "out of memory", "a batch that fits", advice) from error
    except RuntimeError as error:
        if "not enough memory" not in str(error) and "out of memory" not in str(error):
            raise
        advice = "lower patch.batch or patch.size_yx"
        raise _ending(ResourceError, job, progress, "out of memory", "a batch that fits", advice) from error
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        reason = f"a file{where} can't be read or written ({error.strerror or error})"
        raise _ending(ResourceError, job, progress, reason, "readable pairs and a folder with room") from error
    return read_values(job.folder, "best")


class _Loop:
    """Steps, validations and checkpoints of a stage, in order."""

    def __init__(self, job: StageJob, trainer: Trainer, progress: Progress, log: RunLog, monitor: Monitor) -> None:
        self.job, self.trainer, self.progress, self.log, self.monitor = job, trainer, progress, log, monitor
        self.interrupts = Interrupts(shared=trainer.fabric.world_size > 1)

    def run(self) -> None:
        """Iterate to the stage's end, or until the user stops it."""
        plan, stage, progress = self.job.plan, self.job.stage, self.progress
        began, before = time.perf_counter(), progress.seconds
        stream = self.trainer.batches(progress.iteration)
        with self.interrupts:
            try:
                while not progress.finished:
                    if not progress.validation_due:
                        waited = time.perf_counter()
                        batch = next(stream)
                        waited = time.perf_counter() - waited
                        with self.interrupts.step():
                            terms = self.trainer.step(batch, progress.iteration)
                            progress.iteration += 1
                            progress.seconds = before + time.perf_counter() - began
                            self.log.add(terms, waited)
                    last = progress.iteration >= stage.iterations
                    validating = last or progress.iteration % plan.validate_every == 0
                    saving = validating or progress.iteration % plan.checkpoint_every == 0
                    looking = saving or progress.iteration % LOG_EVERY == 0
                    if looking and not progress.validation_due:
                        self._look(saving)
                    if self._stopping(looking):
                        progress.validation_due = validating
                        raise self.interrupts.error
                    if validating:
                        self._validate()
                        patience = plan.early_stopping.patience if plan.early_stopping else None
                        progress.finished = last or (
                            patience is not None and progress.validations_without_gain >= patience
                        )
                    if saving:
                        with self.interrupts.step():
                            self._save("last", progress)
            except KeyboardInterrupt:
                self._stop()
                raise
        if self.interrupts.wanted:  # while the last checkpoint was written: nothing is left to keep
            raise self.interrupts.error

    def _look(self, saving: bool) -> None:
        """Write the log, and end all processes where a number isn't finite."""
        rate = learning_rate(self.job.plan, self.job.stage, self.progress.iteration - 1)
        values = self.log.flush(self.progress.iteration, rate)
        broken = "" if np.isfinite(values["loss"]) else f"the loss is {values['loss']:g}"
        if not broken and saving and not self.trainer.finite():
            broken = "a weight isn't finite"
        if self.trainer.anywhere(bool(broken)):
            if not self.trainer.fabric.is_global_zero:
                raise SystemExit(0)  # the first process says it, once
            raise _ending(
                InputError,
                self.job,
                self.progress,
                broken or "the loss of another process isn't finite",
                "finite numbers",
                "lower the learning rate, or set optimiser.clip_norm or computing.precision: 32",
            )

    def _validate(self) -> None:
        """Validate and keep the network where it is the best; progress changes only once all of it is done."""
        progress = self.progress
        progress.validation_due = True
        picture = self.job.folder / "pictures" / f"iteration_{progress.iteration:07d}.png"
        scores = self.trainer.validate(picture)
        if not np.isfinite(scores.score):
            raise _ending(
                InputError,
                self.job,
                progress,
                f"the validation's score is {scores.score:g} ({scores.rule})",
                "a number",
                "the network's values exceed what fp16 holds: lower the learning rate, or set optimiser.clip_norm "
                "or ema",
            )
        after = copy(progress)
        after.validation_due = False
        with self.interrupts.step():
            self.log.validated(progress.iteration, scores.mean, picture)
            if progress.best_score is None or scores.score < progress.best_score:
                after.best_score, after.best_iteration = scores.score, progress.iteration
                after.validations_without_gain = 0
                extra = {
                    "metrics": scores.mean,
                    "cases": scores.cases,
                    "measured": scores.measured,
                    "selected_by": scores.rule,
                }
                self._save("best", after, extra)
            else:
                after.validations_without_gain += 1
            vars(progress).update(vars(after))

    def _save(self, name: str, progress: Progress, extra: dict[str, Any] | None = None) -> None:
        try:
            self.trainer.save(name, progress, extra)
        except ProductError as error:
            found = f"{error.where} {error.found}"
            raise _ending(ResourceError, self.job, self.progress, found, "a folder with room") from error

    def _stopping(self, looking: bool) -> bool:
        """Whether the user wants to stop. Several processes ask each other only now and then."""
        if not self.interrupts.shared:
            return self.interrupts.wanted
        return looking and self.trainer.anywhere(self.interrupts.wanted)

    def _stop(self) -> None:
        """Keep what was done since the last checkpoint."""
        if self.progress.iteration == 0:
            return
        self._save("last", self.progress)
        self.monitor.warning(
            f"{self.job.name}: stopped after iteration {self.progress.iteration}; its checkpoint is written: "
            "the same command with --resume goes on exactly there"
        )


def _ending(
    kind: type[ProductError],
    job: StageJob,
    progress: Progress,
    found: str,
    expected: str,
    advice: str = "free space",
) -> ProductError:
    kept = "no checkpoint was written yet"
    if has_checkpoint(job.folder, "last"):
        kept = f"the checkpoint of iteration {read_values(job.folder, 'last')['iteration']} is kept: --resume"
    return kind(
        f"{job.name}, iteration {progress.iteration}", found=found, expected=expected, advice=f"{advice}; {kept}"
    )


__all__ = ["train_stage"]
