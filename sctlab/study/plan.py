"""StudyPlan: the axes of an experiment, read from YAML; a cell that cannot exist is refused before anything runs."""

from __future__ import annotations

from collections.abc import Collection
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from sctlab.cohort.pairs import patient_of
from sctlab.cohort.parameters import check_strata, read_parameters
from sctlab.registration.methods import check_settings
from sctlab.registration.settings import Convention, Method, RegistrationSettings
from sctlab.simulation.settings import SimulationSettings, case_id
from sctlab.study.real_images import RealImage
from sctlab.training.losses import Loss
from sctlab.training.objective_settings import SupervisedSettings
from sctlab.training.plan import AnyObjective, TrainingPlan, load_plan
from sctlab_model.cases import Task, find_image, is_cohort
from sctlab_model.device import choose_device
from sctlab_model.errors import InputError, ProductError, meant
from sctlab_model.settings import Settings, load_yaml, validate

Exclusion = Literal["none", "failed", "rule", "random"]
PLAN = "plan.json"  # what a study's folder keeps of its plan
DEFAULT_EXCLUSION: Exclusion = "failed"
# What a study says of every training, whatever the recipe says, and by which of its own keys.
SETS: dict[str, dict[str, str]] = {
    "data": {
        "folds": "folds",
        "target": "the kind of the pairs",
        "exclude": "exclude of the cohort, and exclusions",
        "failed": "exclusions",
        "held_out": "every case is predicted, none is held out",
    },
    "computing": {"seed": "seeds"},
}
NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-")


class CohortPlan(Settings):
    """Where the cases come from.

    Args:
        simulate: Simulate them; the truth is known.
        folder: A cohort that is there already; a relative path starts at the working directory.
        task: Which task of the folder.
        exclude: Case ids that are left out of everything, before the split.
    """

    simulate: SimulationSettings | None = None
    folder: Path | None = None
    task: Task | None = None
    exclude: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_origin(self) -> CohortPlan:
        if (self.simulate is None) == (self.folder is None):
            raise ValueError("expected either simulate or folder")
        if self.folder is not None and self.task is None:
            raise ValueError("a folder needs task: mri or cbct")
        return self

    @property
    def of_task(self) -> Task:
        """What the sources are."""
        task = self.simulate.task if self.simulate is not None else self.task
        assert task is not None
        return task


class PairsPlan(Settings):
    """One way to make training pairs, which is a reference to score against, too.

    Args:
        kind: `truth` (aligned by construction), `planted` (the truth, displaced), or how the pair is registered.
        presets: Of the engine, for `impact`.
        variable_mm: RMS of a smooth displacement that is new in every pair.
        systematic_mm: Length of a shift that is the same in every pair.
        direction_xyz: Of that shift, LPS; along the patient's axis when left out, as breathing moves most.
    """

    kind: Literal["truth", "planted", "rigid", "mi", "elastix", "impact"]
    presets: tuple[str, ...] = ()
    variable_mm: float = Field(0.0, ge=0, le=5)
    systematic_mm: float = Field(0.0, ge=0, le=5)
    direction_xyz: tuple[float, float, float] = (0.0, 0.0, 1.0)

    @model_validator(mode="after")
    def _possible(self) -> PairsPlan:
        if self.kind != "planted" and (self.variable_mm or self.systematic_mm):
            raise ValueError(f"variable_mm and systematic_mm belong to kind planted, not to {self.kind}")
        if self.presets and self.kind != "impact":
            raise ValueError(f"presets belong to kind impact, not to {self.kind}")
        if not np.any(self.direction_xyz):
            raise ValueError("direction_xyz has no length")
        return self

    @property
    def registered(self) -> bool:
        """Whether a registration makes the pairs."""
        return self.kind not in ("truth", "planted")

    @property
    def method(self) -> Method:
        """Of the registration."""
        return Method(self.kind)

    @property
    def shift_xyz(self) -> np.ndarray:
        """The systematic displacement, mm."""
        direction = np.array(self.direction_xyz)
        return self.systematic_mm * direction / np.linalg.norm(direction)


class StudyPlan(Settings):
    """The axes of a study; a cell is one choice from each.

    Args:
        title: Of the report.
        cohorts: By name.
        pairs: Training pairs by name; each is a column of the matrix, too. `truth` is a column wherever it is known.
        conventions: Of the registered pairs.
        losses: By name; the recipe's own when left out.
        exclusions: Which registered pairs are not trained on: `none` are left out; those with the verdict `failed`, as
            `sctlab train` does; those that the registration's report proposes (`rule`; failed ones are among them); or as many
            drawn at `random`, whatever their verdict. All are predicted and scored.
        supervision: Objectives by name.
        supervision_changes: Fields of the recipe that go with an objective, such as its learning rate; after `changes`.
        seeds: Of weights and patches.
        folds: Cross-validation; every case is predicted by a network that has not seen its patient.
        split_seed: Of the one division that all cells share.
        stratify_by: Parameters of the scan that the folds spread evenly, see `sctlab.cohort.parameters`.
        features: Extractors whose feature distance is scored beside the other metrics; `lpips` is one.
        segmenter: Of `sctlab evaluate`: labels sCTs and references, for Dice and HD95 of organs; `none` scores neither.
        real: Real images by name, without an aligned CT: every network of their task predicts them, and is judged without any
            registration.
        recipe: What is trained, by task.
        changes: Fields of the recipe that the study changes.
        device: Of registration and training.
    """

    title: str = "What registration does to training and to scores"
    cohorts: dict[str, CohortPlan] = Field(min_length=1)
    pairs: dict[str, PairsPlan] = Field(min_length=1)
    conventions: tuple[Convention, ...] = Field((Convention.CT_TO_SOURCE,), min_length=1)
    losses: dict[str, tuple[Loss, ...]] = Field(default_factory=dict)
    supervision: dict[str, AnyObjective] = Field({"supervised": SupervisedSettings()}, min_length=1)
    supervision_changes: dict[str, dict[str, Any]] = Field(default_factory=dict)
    exclusions: tuple[Exclusion, ...] = Field((DEFAULT_EXCLUSION,), min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    folds: int = Field(3, ge=2, le=20)
    split_seed: int = Field(0, ge=0)
    stratify_by: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    segmenter: str = "none"
    real: dict[str, RealImage] = Field(default_factory=dict)
    recipe: dict[Task, str] = Field({Task.MRI: "small-mri", Task.CBCT: "small-cbct"}, min_length=1)
    changes: dict[str, Any] = Field(default_factory=dict)
    device: str = "auto"

    @model_validator(mode="after")
    def _cells_exist(self) -> StudyPlan:
        for axis in ("seeds", "conventions", "exclusions", "features"):
            values = getattr(self, axis)
            if len(set(values)) < len(values):
                raise ValueError(f"{axis} {', '.join(map(str, values))}: each one once")
        for axis in ("cohorts", "pairs", "losses"):  # the same cell twice would count as two
            named = list(getattr(self, axis).items())
            for index, (name, value) in enumerate(named):
                twin = next((n for n, v in named[:index] if v == value), None)
                if twin is not None:
                    raise ValueError(f"{axis}.{name} is {axis}.{twin} again; each one once")
        for field, keys in SETS.items():
            own = self.changes.get(field)
            taken = [k for k in keys if isinstance(own, dict) and k in own]
            if taken:
                raise ValueError(f"changes.{field}.{taken[0]} is set by the study itself: {keys[taken[0]]}")
        if self.exclusions != (DEFAULT_EXCLUSION,) and not any(p.registered for p in self.pairs.values()):
            raise ValueError(f"exclusions {', '.join(self.exclusions)} leave out registered pairs, and there are none")
        for axis in ("cohorts", "pairs", "losses", "supervision", "real"):
            for name in getattr(self, axis):
                if not name or not set(name) <= NAME_CHARACTERS or name[0] in ".-":
                    raise ValueError(
                        f"{axis}.{name}: the name has other characters than a-z, 0-9, '_', '.' and '-', or starts with '.' or '-'"
                    )
        for name, pairs in self.pairs.items():
            if name == "truth" and pairs.kind != "truth":
                raise ValueError(f"pairs.truth is of kind {pairs.kind}; the name belongs to the truth")
        for name, cohort in self.cohorts.items():
            if cohort.of_task not in self.recipe:
                raise ValueError(f"recipe has none for {cohort.of_task}, the task of cohort {name}")
        tasks = sorted({cohort.of_task for cohort in self.cohorts.values()})
        for name, image in self.real.items():
            if image.task not in tasks:
                raise ValueError(f"real.{name} is of task {image.task}, which no network learns: {', '.join(tasks)}")
        for name in self.supervision_changes:
            if name not in self.supervision:
                raise ValueError(f"supervision_changes.{name} fits none of supervision: {', '.join(self.supervision)}")
        return self

    def training_plan(
        self,
        task: Task,
        pairs: PairsPlan,
        loss: str,
        supervision: str,
        seed: int,
        exclusion: Exclusion = DEFAULT_EXCLUSION,
    ) -> TrainingPlan:
        """What a cell trains.

        Raises:
            InputError: The recipe, or what the study changes in it.
        """
        base = load_plan(self.recipe[task])
        values = base.model_dump(mode="json")
        values = _merged(values, self.changes)
        objective = self.supervision[supervision]
        values["objective"] = objective.model_dump(mode="json")
        values = _merged(values, self.supervision_changes.get(supervision, {}))
        if not objective.takes_losses:
            values["losses"] = []
        elif loss in self.losses:
            values["losses"] = [term.model_dump(mode="json") for term in self.losses[loss]]
        target = "truth" if pairs.kind == "truth" else "ct"
        values["data"] |= {"folds": self.folds, "target": target, "exclude": None, "held_out": 0.0}
        values["data"]["failed"] = "use" if exclusion in ("none", "random") else "leave_out"
        values["computing"] |= {"seed": seed}
        return validate(TrainingPlan, values, f"changes of recipe {self.recipe[task]}")


def plan_names() -> list[str]:
    """The plans that come with the product."""
    folder = resources.files("sctlab.study") / "plans"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_study(name_or_path: str) -> StudyPlan:
    """A plan by name (`quick`) or from a YAML file, with everything checked that can be known before it runs.

    Raises:
        InputError: No such plan, an unknown key, an impossible value, or a cell that cannot exist; with line or key.
        WeightsError: An extractor whose weights are not here.
    """
    path = Path(name_or_path)
    if name_or_path in plan_names():
        path = Path(str(resources.files("sctlab.study") / "plans" / f"{name_or_path}.yaml"))
    elif not path.is_file():
        names = ", ".join(plan_names())
        raise InputError(
            name_or_path,
            found="no such plan or file",
            expected=f"one of {names}, or a YAML file",
            advice=meant(name_or_path, plan_names()),
        )
    plan = load_yaml(StudyPlan, path)
    check_study(plan, path)
    return plan


def check_study(plan: StudyPlan, where: str | Path = "plan") -> None:
    """Refuse cells that cannot exist: truth without truth, an extractor without weights, a cohort that is too small.

    What needs no network is refused first, before PyTorch is imported.
    """
    for name, cohort in plan.cohorts.items():
        if cohort.folder is not None:
            _check_folder(plan, where, name, cohort)
        else:
            _check_size(plan, where, f"cohorts.{name}", cohort)
    tasks = sorted({cohort.of_task for cohort in plan.cohorts.values()})
    for task in tasks:
        try:
            load_plan(plan.recipe[task])
        except ProductError as error:
            raise type(error)(line_of(where, f"recipe.{task}"), found=f"recipe.{task}: {error}") from error
    for name, pairs in plan.pairs.items():
        if pairs.registered:
            try:
                check_settings(RegistrationSettings(method=pairs.method, presets=pairs.presets, device=plan.device))
            except ProductError as error:
                raise type(error)(line_of(where, f"pairs.{name}"), found=f"pairs.{name}: {error}") from error
    for name, image in plan.real.items():
        try:
            image.check()
        except ProductError as error:
            raise type(error)(line_of(where, f"real.{name}"), found=f"real.{name}: {error}") from error
    from sctlab.training.check import check_plan

    try:
        choose_device(plan.device)
    except ProductError as error:
        raise type(error)(line_of(where, "device"), found=f"device: {error}") from error
    _check_measures(plan, where)
    for task in tasks:
        for loss in plan.losses or ("recipe",):
            for supervision in plan.supervision:
                key = f"losses.{loss}" if plan.losses else f"supervision.{supervision}"
                if not plan.model_fields_set & {"losses", "supervision"}:
                    key = "changes"
                try:
                    check_plan(plan.training_plan(task, PairsPlan(kind="rigid"), loss, supervision, 0))
                except ProductError as error:
                    raise type(error)(line_of(where, key), found=f"{key}: {error}") from error


def _check_measures(plan: StudyPlan, where: str | Path) -> None:
    """Extractors and segmenter of the scores: what can't be loaded is said before hours of training."""
    from sctlab.evaluation.closer import extractor_of
    from sctlab.evaluation.segmentation import make_segmenter

    for name in plan.features:
        try:
            extractor_of(name)
        except ProductError as error:
            raise type(error)(line_of(where, "features"), found=f"features, {name}: {error}") from error
    try:
        make_segmenter(plan.segmenter)
    except ProductError as error:
        raise type(error)(line_of(where, "segmenter"), found=f"segmenter {plan.segmenter}: {error}") from error


def _check_size(plan: StudyPlan, where: str | Path, key: str, cohort: CohortPlan) -> None:
    """Every fold needs a case to predict, and another one to train on."""
    made_of = cohort.simulate
    assert made_of is not None
    ids = [case_id(made_of.task, r, k, made_of.centre) for r in made_of.regions for k in range(made_of.cases)]
    _check_excluded(where, key, cohort, ids)
    _check_strata(plan, where, {})
    excluded = len(set(cohort.exclude))
    count, needed = len(ids) - excluded, max(2, plan.folds)
    if count < needed:
        made = f"{len(ids)} cases" + (f" but for {excluded} excluded" if excluded else "")
        raise InputError(
            line_of(where, key),
            found=f"{key}: {made}, too few for {plan.folds} folds",
            expected=f"{needed} cases or more",
            advice="raise simulate.cases or lower folds",
        )


def _check_excluded(where: str | Path, key: str, cohort: CohortPlan, ids: Collection[str]) -> None:
    """A misspelt id would leave a case in that somebody wants out."""
    unknown = [i for i in cohort.exclude if i not in ids]
    if unknown:
        raise InputError(
            line_of(where, f"{key}.exclude"),
            found=f"{key}.exclude: no case {', '.join(unknown)}",
            expected=f"ids of the cohort such as {sorted(ids)[0]}" if ids else "ids of the cohort",
        )


def _check_strata(
    plan: StudyPlan, where: str | Path, parameters: dict[str, Any], folder: Path | str = "simulated"
) -> None:
    try:
        check_strata(plan.stratify_by, parameters, f"cohort {folder}")
    except InputError as error:
        raise InputError(line_of(where, "stratify_by"), found=f"stratify_by: {error}") from error


def _check_folder(plan: StudyPlan, where: str | Path, name: str, cohort: CohortPlan) -> None:
    assert cohort.folder is not None
    key = f"cohorts.{name}"
    if not cohort.folder.is_dir() or not is_cohort(cohort.folder):
        raise InputError(line_of(where, key), found=f"{key}: no cohort in {cohort.folder}", expected="Task1/ or Task2/")
    folders = case_folders(cohort.folder, cohort)
    everybody = case_folders(cohort.folder, cohort.model_copy(update={"exclude": ()}))
    _check_excluded(where, key, cohort, [f.name for f in everybody])
    patients = {patient_of(folder, folder.name) for folder in folders}
    if len(patients) < max(2, plan.folds):
        raise InputError(
            line_of(where, key),
            found=f"{key}: {len(folders)} cases of {len(patients)} patients for {plan.folds} folds",
            expected="a patient a fold",
        )
    if plan.stratify_by:
        _check_strata(plan, where, read_parameters(cohort.folder), cohort.folder)
    needing = [n for n, pairs in plan.pairs.items() if not pairs.registered]
    if needing and not all(find_image(folder / "truth", "ct_aligned") for folder in folders):
        raise InputError(
            line_of(where, f"pairs.{needing[0]}"),
            found=f"pairs.{needing[0]} of kind {plan.pairs[needing[0]].kind}, and cohort {name} has no truth",
            expected="registered pairs, or a simulated cohort",
        )


def case_folders(root: Path, cohort: CohortPlan) -> list[Path]:
    """The cohort's case folders that are not excluded."""
    found = sorted((root / cohort.of_task.folder).glob("*/[!.]*/"))
    return [f for f in found if f.name not in cohort.exclude]


def line_of(where: str | Path, key: str) -> str:
    """`where, line n` of a dotted key of a YAML file; the file alone where it does not have the key."""
    import yaml

    line = None
    if Path(where).is_file():
        node: Any = yaml.compose(Path(where).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        for part in key.split("."):
            entries = node.value if isinstance(node, yaml.MappingNode) else ()
            entry = next(((k, v) for k, v in entries if k.value == part), None)
            if entry is None:
                break
            line, node = entry[0].start_mark.line + 1, entry[1]
    return f"{where}, line {line}" if line else str(where)


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, change in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, change) if isinstance(old, dict) and isinstance(change, dict) else change
    return merged
