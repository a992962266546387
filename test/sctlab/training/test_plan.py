"""Plans: what is in them, and what is refused with line and reason."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from sctlab.training.check import check_plan
from sctlab.training.plan import TrainingPlan, load_plan, recipe_names, write_plan
from sctlab.training.schedule import learning_rate
from sctlab_model.errors import InputError
from sctlab_model.settings import parse_yaml

GOOD = "recipe:\n  task: mri\nstages:\n  - name: all\n    iterations: 100\n"


def test_the_recipes_are_those_promised() -> None:
    kinds = ("{}", "{}-submission", "{}-paper", "demo-{}", "small-{}", "{}-cut", "{}-cyclegan", "{}-reggan")
    assert {k.format(task) for k in kinds for task in ("mri", "cbct")} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_survives_writing(name: str, tmp_path: Path) -> None:
    plan = load_plan(name)
    assert plan.recipe.task.value == name.removeprefix("demo-").removeprefix("small-").split("-")[0]
    write_plan(plan, tmp_path / "plan.yaml")
    assert load_plan(str(tmp_path / "plan.yaml")) == plan


def test_follow_up_and_submission_differ_where_the_publications_do() -> None:
    follow_up, entry = load_plan("cbct"), load_plan("cbct-submission")
    assert (follow_up.recipe.network.slices, entry.recipe.network.slices) == (5, 3)
    assert (follow_up.patch.size_yx, entry.patch.size_yx) == ((320, 320), (256, 256))
    assert follow_up.losses[1].layers == {1: 1.0, 2: 1.0}
    assert entry.losses[1].layers == {0: 1.0, 1: 1.0, 2: 1.0}
    assert [s.name for s in entry.final_stages] == ["AB-TH", "HN"]
    assert follow_up.data.held_out == 0.15
    assert load_plan("mri-submission").recipe.normalisation.kind == "zscore"


@pytest.mark.parametrize(("name", "outside"), [("mri-paper", 0), ("cbct-paper", -1024)])
def test_the_paper_s_protocol(name: str, outside: float) -> None:
    """Whole slices on 512 x 512, padded at the end of each flipped view; percentiles of the blanked volume; float32."""
    plan = load_plan(name)
    normalisation, canvas = plan.recipe.normalisation, plan.recipe.canvas
    assert (normalisation.scope, normalisation.fill) == ("volume", outside)
    assert (normalisation.lower_percentile, normalisation.upper_percentile) == (0, 99.5)
    assert (canvas.crop, canvas.fixed_yx, canvas.padding, canvas.pad_value) == ("none", (512, 512), "end", -1)
    assert (canvas.flip_before_padding, canvas.larger) == (True, "tiles")
    assert (plan.recipe.network.slices, plan.patch.size_yx, plan.patch.batch) == (5, (320, 320), 32)
    assert (plan.stages[0].iterations, plan.data.held_out, plan.computing.precision) == (40_000, 0.15, "32")
    for entry in ("mri-submission", "cbct-submission"):
        assert load_plan(entry).recipe.canvas.flip_before_padding


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (GOOD + "optimizer: {}\n", 6, "unknown key 'optimizer'; expected 'optimiser'"),
        (
            GOOD.replace("task: mri", "task: mri\n  spacing: [1, 1, 3]"),
            3,
            "unknown key 'recipe.spacing'; expected 'spacing_xyz'",
        ),
        (GOOD.replace("100", "-3"), 5, "iterations: -3"),
        (GOOD.replace("100", "many"), 5, "iterations: 'many'"),
        (GOOD.replace("    iterations: 100\n", ""), 4, "iterations: is missing"),
        (GOOD + "patch:\n  batch: 7\n  slab: 2\n", 6, "not a multiple of slab"),
        (GOOD + "patch:\n  size_yx: [100, 320]\n", 6, "multiples of 32"),
        (GOOD + "losses:\n  - kind: l1\n  - kind: impact_synth\n    layers: {0: 1}\n", 8, "extractor: is missing"),
        (GOOD + "losses:\n  - kind: l1\n    over: body\n", 8, "losses.0.over: 'body'"),
        (GOOD + "recipe:\n  task: cbct\n", 6, "'recipe' again"),
        (GOOD + "  - {name: second, start: nowhere, iterations: 5}\n", 1, "no stage before it"),
        (GOOD + "losses: [\n", 7, "not YAML"),
        (GOOD + "losses:\n  - {kind: impact_synth, extractor: mind-2d, statistics_hu: [3071, -1024]}\n", 7, "below"),
        (GOOD + "losses:\n  - {kind: l1, weight: .inf}\n", 7, "finite"),
        (GOOD + "objective:\n  kind: cut\n  layers: [0, -1]\n", 8, "greater than or equal to 0"),
        (GOOD + "objective:\n  kind: cut\n  layers: [1, 1]\n", 6, "layers repeat"),
        (GOOD.replace("iterations: 100", "regions: []\n    iterations: 100"), 5, "regions"),
        (GOOD + "optimiser: {clip_norm: 1.0}\ncomputing: {precision: '16', fused: true}\n", 1, "set fused: false"),
    ],
)
def test_impossible_plans_are_refused_with_line_and_reason(text: str, line: int, words: str) -> None:
    with pytest.raises(InputError) as error:
        parse_yaml(TrainingPlan, text, "plan.yaml")
    assert words in str(error.value)
    assert f"plan.yaml, line {line}:" in str(error.value) or (line == 1 and "plan.yaml" in str(error.value))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("task: mri", "task: mri\n  network: {encoder: resnet99}"), "resnet99"),
        (GOOD + "losses: [{kind: impact_synth, extractor: nothing}]\n", "unknown name 'nothing'"),
        (GOOD + "losses: [{kind: impact_synth, extractor: mind-2d, layers: {3: 1.0}}]\n", "layer 3"),
        (GOOD + "losses: [{kind: impact_synth, extractor: mind}]\n", "patch.slab is 1"),
        (GOOD + "losses: [{kind: l1}, {kind: l1}]\n", "two terms l1"),
        # The first validation would have told, thousands of steps later.
        (
            GOOD.replace("task: mri", "task: mri\n  canvas: {multiple: 16}"),
            "canvas.multiple is 16; expected a multiple of 32",
        ),
        (GOOD + "patch: {batch: 1, size_yx: [32, 32]}\n", "patch.batch: 1, and .* a batch of 2 at least"),
    ],
)
def test_what_cannot_be_built_is_refused_before_cases_are_prepared(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_plan(parse_yaml(TrainingPlan, text, "plan.yaml"))
    check_plan(parse_yaml(TrainingPlan, GOOD, "plan.yaml"))
    volumes = "task: mri\n  canvas: {multiple: 16}\n  network: {architecture: residual_unet_3d}"  # halved four times
    check_plan(parse_yaml(TrainingPlan, GOOD.replace("task: mri", volumes) + "patch: {batch: 1}\n", "plan.yaml"))
    check_plan(
        parse_yaml(
            TrainingPlan, GOOD.replace("task: mri", "task: mri\n  network: {encoder: tu-regnety_002}"), "plan.yaml"
        )
    )


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(InputError, match="demo-mri"):
        load_plan("mir")


def test_relative_exclusion_lists_start_at_the_plan(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(GOOD + "data: {exclude: list.txt}\n")
    assert load_plan(str(tmp_path / "plan.yaml")).data.exclude == str(tmp_path / "list.txt")


def test_schedules() -> None:
    plan = parse_yaml(TrainingPlan, GOOD + "schedule: {kind: step, every: 10, factor: 0.5, warmup: 4}\n", "plan")
    stage = plan.stages[0]
    assert [learning_rate(plan, stage, i) for i in (0, 3, 4, 9, 10, 25)] == pytest.approx(
        [2.5e-4, 1e-3, 1e-3, 1e-3, 5e-4, 2.5e-4]
    )
    plan = parse_yaml(TrainingPlan, GOOD + "schedule: {kind: cosine, final: 0.1}\n", "plan")
    rates = [learning_rate(plan, plan.stages[0], i) for i in range(101)]
    assert rates[0] == 1e-3
    assert rates[100] == pytest.approx(1e-4)
    assert all(a > b for a, b in itertools.pairwise(rates))
