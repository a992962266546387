"""The learning rate as a pure function of the iteration, whatever validates or restarts in between."""

from __future__ import annotations

import math

from sctlab.training.plan import CosineSchedule, Stage, TrainingPlan


def learning_rate(plan: TrainingPlan, stage: Stage, iteration: int) -> float:
    """Learning rate of the step that follows `iteration` steps of a stage.

    Example:
        >>> from sctlab.training.plan import TrainingPlan
        >>> from sctlab_model.settings import parse_yaml
        >>> plan = parse_yaml(TrainingPlan, "{recipe: {task: mri}, stages: [{name: all, iterations: 50000}]}", "example")
        >>> learning_rate(plan, plan.stages[0], 25_000)
        0.00075
    """
    schedule = stage.schedule or plan.schedule
    start = stage.learning_rate or plan.optimiser.learning_rate
    if iteration < schedule.warmup:
        return start * (iteration + 1) / schedule.warmup
    if isinstance(schedule, CosineSchedule):
        done = (iteration - schedule.warmup) / max(1, stage.iterations - schedule.warmup)
        return start * (schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
    return start * schedule.factor ** (iteration // schedule.every)
