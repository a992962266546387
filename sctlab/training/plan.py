"""TrainingPlan: a recipe plus everything that only training needs; read from YAML and refused with line and reason."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import yaml
from pydantic import Field, model_validator

from sctlab.cohort.pairs import Failed
from sctlab.training.contrast import ContrastSettings
from sctlab.training.densities import DensitySettings
from sctlab.training.losses import L1, Loss
from sctlab.training.objective_settings import ObjectiveSettings, SupervisedSettings, settings_types
from sctlab_model.cases import Region, Task
from sctlab_model.errors import InputError, meant
from sctlab_model.io.atomic import write_text
from sctlab_model.recipe import Recipe
from sctlab_model.settings import Settings, load_yaml

Positive = Annotated[int, Field(gt=0)]


class Data(Settings):
    """Which pairs, and how they are divided.

    Args:
        target: `ct` is the registered CT; `truth` is the aligned CT of a simulated case.
        failed: Pairs whose registration has the verdict `failed`: `leave_out`, or `use`.
        folds: Number of folds.
        held_out: Share of the patients that no fold sees.
        seed: Of the folds.
        stratify_by: Parameters of the scan that are spread evenly over the folds, beside region and centre:
            `field_strength`, `sequence`, `scanner`, or a column of the cohort's `overviews/*_parameters.xlsx`.
        parameters: Cohort folder with `overviews/`, where the pairs lie elsewhere.
        exclude: File with case ids to leave out; a relative path starts at the plan's folder.
        validation_cases: At most so many validation cases each time; all when left out.
        contrast: Draw some of the MR patches of a simulated cohort with another contrast; never when left out.
        densities: Give tissues other densities in some of the CBCT patches, in both images; never when left out.
        workers: Processes that cut patches beside each training process; 0 cuts them in it.
    """

    target: Literal["ct", "truth"] = "ct"
    failed: Failed = "leave_out"
    folds: int = Field(5, ge=1, le=50)
    held_out: float = Field(0.0, ge=0, lt=0.9)
    seed: int = Field(0, ge=0)
    stratify_by: tuple[str, ...] = ()
    parameters: str | None = None
    exclude: str | None = None
    validation_cases: Positive | None = None
    contrast: ContrastSettings | None = None
    densities: DensitySettings | None = None
    workers: int = Field(4, ge=0, le=128)


class Patch(Settings):
    """What one sample is.

    Args:
        size_yx: In-plane size; multiples of 32.
        batch: Slices in a batch over all devices.
        slab: Adjacent slices that are drawn together (for 3D extractors); divides the batch.
        flip_x: Probability of a flip left-right.
        flip_y: Probability of a flip anterior-posterior.
        cut_field_of_view: Share of the draws from a scan that ends in the body: a random box of the case, in the plane
            and at one end, and nothing beyond it, as inference has it. Without, a cut edge is taken for skin or bone.
    """

    size_yx: tuple[Positive, Positive] = (320, 320)
    batch: int = Field(32, ge=1, le=4096)
    slab: int = Field(1, ge=1, le=128)
    flip_x: float = Field(0.5, ge=0, le=1)
    flip_y: float = Field(0.5, ge=0, le=1)
    cut_field_of_view: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _possible(self) -> Patch:
        if any(n % 32 for n in self.size_yx):
            raise ValueError(f"size_yx is {self.size_yx}; both must be multiples of 32, the encoder's stride")
        if self.batch % self.slab:
            raise ValueError(f"batch {self.batch} is not a multiple of slab {self.slab}")
        return self


class Optimiser(Settings):
    """AdamW."""

    learning_rate: float = Field(1e-3, gt=0, le=1)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    weight_decay: float = Field(1e-3, ge=0)
    clip_norm: float | None = Field(None, gt=0)


class StepSchedule(Settings):
    """Multiply the learning rate by `factor` every `every` iterations."""

    kind: Literal["step"] = "step"
    every: Positive = 25_000
    factor: float = Field(0.75, gt=0, le=1)
    warmup: int = Field(0, ge=0)


class CosineSchedule(Settings):
    """Half a cosine from the learning rate to `final` times it, over the stage's iterations."""

    kind: Literal["cosine"] = "cosine"
    final: float = Field(0.01, ge=0, le=1)
    warmup: int = Field(0, ge=0)


Schedule = Annotated[StepSchedule | CosineSchedule, Field(discriminator="kind")]


class EarlyStopping(Settings):
    """Stop after `patience` validations without an improvement of the MAE."""

    patience: Positive = 30


class Stage(Settings):
    """One training of a network on the cases of some regions.

    Args:
        name: Folder name; for stages that go into a bundle also the region group's.
        start: Stage whose best network of the same fold is the start; random weights when left out.
        start_bundle: Bundle whose networks are the start: fold k goes on from its fold k, counted round. A folder (a relative
            path starts at the plan's) or the name of weights that are here. Its network must be the plan's, its task may be
            the other.
        regions: Regions trained on; all of them when left out.
        iterations: Optimiser steps.
        learning_rate: Where it differs from the optimiser's.
        schedule: Where it differs from the plan's.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_+-]+$")
    start: str | None = None
    start_bundle: str | None = None
    regions: tuple[Region, ...] | None = Field(None, min_length=1)
    iterations: Positive
    learning_rate: float | None = Field(None, gt=0, le=1)
    schedule: Schedule | None = None


class Computing(Settings):
    """How the step is computed; none of it belongs to the function that is learnt.

    Args:
        precision: `32`, `bf16` or `16` (mixed, the latter with loss scaling). On a CPU only 32 is exact to resume.
        channels_last: Memory layout of the network and its input.
        compile: torch.compile.
        fused: The fused optimiser.
        batch_norm: Statistics of each process (`local`), of all (`synchronised`, GPUs), or never updated (`frozen`).
        seed: Of weights, patches and flips.
    """

    precision: Literal["32", "bf16", "16"] = "32"
    channels_last: bool = True
    compile: bool = False
    fused: bool = False
    batch_norm: Literal["local", "synchronised", "frozen"] = "local"
    seed: int = Field(0, ge=0)


if TYPE_CHECKING:
    AnyObjective = ObjectiveSettings
else:  # those that are registered
    AnyObjective = Annotated[Union[settings_types()], Field(discriminator="kind")]  # noqa: UP007 (built from a tuple)


class TrainingPlan(Settings):
    """A recipe and how to train it.

    Args:
        recipe: What inference needs; goes into the bundle.
        losses: Of pairs; objectives that learn from unpaired images take none.
        objective: What is learnt and how.
        selection: What chooses the best network: `mae` against the validation cases' CT, or `unpaired`, which looks at
            no pair (see `sctlab.training.validation`); by the objective when left out.
        stages: In order; a stage may start from one before it.
        validate_every: Iterations between validations; the last iteration always validates.
        checkpoint_every: Iterations between checkpoints; each validation writes one too.
        ema: Decay of the moving average of the weights, which then validates and is packed.
    """

    recipe: Recipe
    data: Data = Data()
    patch: Patch = Patch()
    losses: tuple[Loss, ...] = (L1(),)
    objective: AnyObjective = SupervisedSettings()
    selection: Literal["mae", "unpaired"] | None = None
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = StepSchedule()
    stages: tuple[Stage, ...] = Field(min_length=1)
    validate_every: Positive = 2500
    checkpoint_every: Positive = 500
    early_stopping: EarlyStopping | None = None
    ema: float | None = Field(None, gt=0, lt=1)
    computing: Computing = Computing()

    @model_validator(mode="before")
    @classmethod
    def _no_losses_without_pairs(cls, value: Any) -> Any:
        """Objectives without pairs have no losses by default."""
        if isinstance(value, dict) and "losses" not in value:
            objective = value.get("objective")
            kind = objective.get("kind") if isinstance(objective, dict) else getattr(objective, "kind", None)
            unpaired = {t.model_fields["kind"].default for t in settings_types() if t.takes_losses is False}
            if kind in unpaired:
                return value | {"losses": ()}
        return value

    @model_validator(mode="after")
    def _possible(self) -> TrainingPlan:
        if bool(self.losses) != self.objective.takes_losses:
            raise ValueError(
                f"objective {self.objective.kind} needs losses: at least one"
                if self.objective.takes_losses
                else f"objective {self.objective.kind} learns from unpaired images: it takes no losses"
            )
        if self.data.contrast and (self.recipe.task is not Task.MRI or self.data.target != "truth"):
            raise ValueError("data.contrast draws MR from what simulated voxels are made of: task mri, target truth")
        if self.data.densities:
            kind = self.recipe.normalisation.kind
            if self.recipe.task is not Task.CBCT or kind != "range":
                raise ValueError(f"data.densities adds HU to both images: a CBCT, normalisation range (it is {kind})")
            if self.pairing == "shuffled":
                raise ValueError(f"data.densities changes pairs alike: objective {self.objective.kind} has none")
        seen: dict[str, Stage] = {}
        for stage in self.stages:
            if stage.name in seen:
                raise ValueError(f"two stages are named {stage.name}")
            if stage.start is not None and stage.start not in seen:
                raise ValueError(f"stage {stage.name} starts from '{stage.start}', which is no stage before it")
            if stage.start is not None and stage.start_bundle is not None:
                raise ValueError(f"stage {stage.name} starts from stage {stage.start} and from a bundle: one of them")
            seen[stage.name] = stage
        if self.computing.precision == "16" and self.computing.fused and self.optimiser.clip_norm is not None:
            raise ValueError(
                "clip_norm with precision 16 and fused: the fused optimiser takes the loss' scale off "
                "itself, after clipping; set fused: false"
            )
        return self

    def shortened(self, iterations: int | None) -> TrainingPlan:
        """This plan with no stage longer than so many iterations."""
        if iterations is None:
            return self
        return self.changed(stages=tuple(s.changed(iterations=min(s.iterations, iterations)) for s in self.stages))

    def excluding(self, path: Path) -> TrainingPlan:
        """This plan with a list of cases to leave out."""
        return self.changed(data=self.data.changed(exclude=str(path.resolve())))

    @property
    def pairing(self) -> Literal["paired", "shuffled"]:
        """Whether a sample's target is its own patient's or another's."""
        return self.objective.pairing

    @property
    def selected_by(self) -> Literal["mae", "unpaired"]:
        """What chooses the best network."""
        return self.selection or ("mae" if self.pairing == "paired" else "unpaired")

    @property
    def final_stages(self) -> tuple[Stage, ...]:
        """The stages whose networks go into a bundle: those that no other stage starts from."""
        starts = {s.start for s in self.stages}
        return tuple(s for s in self.stages if s.name not in starts)

    def ancestors(self, stage: Stage) -> tuple[Stage, ...]:
        """A stage, the one that it starts from, and so on to the first."""
        chain = [stage]
        while chain[-1].start is not None:
            chain.append(next(s for s in self.stages if s.name == chain[-1].start))
        return tuple(chain)


def recipe_names() -> list[str]:
    """The recipes that come with the product."""
    return sorted(
        p.name.removesuffix(".yaml") for p in resources.files("sctlab.recipes").iterdir() if p.name.endswith(".yaml")
    )


def load_plan(name_or_path: str) -> TrainingPlan:
    """A plan by name (`mri`) or from a YAML file.

    Raises:
        InputError: No such plan, not YAML, an unknown key or an impossible value; with line and reason.
    """
    path = Path(name_or_path)
    if name_or_path in recipe_names():
        path = Path(str(resources.files("sctlab.recipes") / f"{name_or_path}.yaml"))
    elif not path.is_file():
        raise InputError(
            name_or_path,
            found="no such recipe or file",
            expected="one of " + ", ".join(recipe_names()) + ", or a YAML file",
            advice=meant(name_or_path, recipe_names()),
        )
    plan = load_yaml(TrainingPlan, path)
    exclude = plan.data.exclude
    if exclude is not None and not Path(exclude).is_absolute():
        data = plan.data.model_copy(update={"exclude": str((path.parent / exclude).resolve())})
        plan = plan.model_copy(update={"data": data})
    stages = tuple(
        s.changed(start_bundle=str((path.parent / s.start_bundle).resolve()))
        if s.start_bundle is not None and (path.parent / s.start_bundle).is_dir()
        else s
        for s in plan.stages
    )
    return plan.changed(stages=stages) if stages != plan.stages else plan


def write_plan(plan: TrainingPlan, path: Path) -> None:
    """Write a plan as YAML; `load_plan` of it is the same plan."""
    write_text(path, yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
