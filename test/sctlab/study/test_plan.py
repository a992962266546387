"""Plans of studies: what is refused, what a change touches, what a cell trains."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sctlab.cohort.splits import FoldsRecord
from sctlab.registration.records import ExclusionsRecord, PairRecord
from sctlab.registration.settings import Convention
from sctlab.study.cells import StudyFiles, estimate
from sctlab.study.folds import left_out
from sctlab.study.plan import PairsPlan, StudyPlan, load_study, plan_names
from sctlab.study.report import read_rows
from sctlab.study.run import PLAN, run_study
from sctlab.workflow.locking import one_at_a_time
from sctlab_model.cases import Task
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import write_json
from sctlab_model.monitor import Monitor


@pytest.mark.parametrize("name", ["quick", "registration", "extractors", "supervision"])
def test_shipped_plans_can_run(name: str, tmp_path: Path) -> None:
    assert name in plan_names()
    files = StudyFiles(load_study(name), tmp_path)
    assert len({cell.name for cell in files.cells}) == len(files.cells) >= 5
    assert all(cost.seconds > 0 and cost.done == 0 for cost in estimate(files))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("systematic_mm: 5", "systematic_mm: 9", "line 7: pairs.shift.systematic_mm"),
        ("kind: truth", "kind: rigid", "pairs.truth is of kind rigid"),
        ("kind: planted", "kind: mi", "belong to kind planted"),
        ("cases: 2", "cases: 1", "line 3: cohorts.made: 1 cases, too few for 2 folds"),
        ("  shift: {", "  other: {kind: impact, presets: [no-such]}\n  shift: {", "line 7: pairs.other"),
        ("device: cpu", "exclusions: [rule, rule]", "each one once"),
        ("folds: 2", "fold: 2", "expected 'folds'"),
        ("  shift:", "  Shift/x:", "line 7: settings: pairs.Shift/x: the name has other characters"),
        ("iterations: 3", "iterations: 0", "stages.0.iterations"),
        ("kind: l1", "kind: l3", "changes of recipe"),
        ("device: cpu", "seeds: [1, 1]", "each one once"),
        ("device: cpu", "features: [mind, mind]", "each one once"),
        ("device: cpu", "features: [no-such-network]", "line 15: features, no-such-network"),
        ("device: cpu", "segmenter: no-such.pt", "line 15: segmenter no-such.pt"),
        ("device: cpu", "device: abacus", "line 15: device"),
        ("device: cpu", "seeds: [-1]", "line 15: seeds.0"),
        ("device: cpu", "stratify_by: [scanner]", "line 15: stratify_by"),
        (
            "device: cpu",
            "exclusions: [none, rule]",
            "line 15: settings: exclusions none, rule leave out registered pairs",
        ),
        ("device: cpu", "recipe: {mri: none-such}", "line 15: recipe.mri"),
        ("device: cpu", "losses: {a: [{kind: l1}], b: [{kind: l1}]}", "line 15: settings: losses.b is losses.a again"),
        ("  shift: {", "  gold: {kind: truth}\n  shift: {", "line 7: settings: pairs.gold is pairs.truth again"),
        ("seed: 5}}", "seed: 5}}\n    exclude: [1HNT009]", "line 5: cohorts.made.exclude: no case 1HNT009"),
        ("seed: 5}}", "seed: 5}}\n    exclude: [1HNT002, 1HNT002]", "but for 1 excluded"),
        ("validate_every: 3", "data: {folds: 5}", "line 14: settings: changes.data.folds is set by the study itself"),
        ("device: cpu", "real: {mr: {source: gone.nii, task: mri}}", "line 15: real.mr: gone.nii"),
        (
            "device: cpu",
            "real: {mr: {source: gone.nii, task: cbct}}",
            "real.mr is of task cbct, which no network learns",
        ),
        ("device: cpu", "real: {mr: {source: a, task: mri, labels: b}}", "labels and organs belong together"),
        ("device: cpu", "real: {mr: {source: a, task: mri, segmenter: anatomy}}", "has no labels of the source"),
        (
            "device: cpu",
            "real: {mr: {source: a, task: mri, labels: b, organs: {livr: {labels: [5]}}}}",
            "is 'liver' meant?",
        ),
        (
            "device: cpu",
            "real: {mr: {source: a, task: mri, labels: b, organs: {liver: {labels: [5], hu: [60, 40]}}}}",
            "the lower one first",
        ),
        (
            "device: cpu",
            "losses:\n  none: [{kind: impact_synth, extractor: no-such-network}]",
            "line 16: losses.none",
        ),
    ],
)
def test_cells_that_cannot_exist_are_refused(
    tmp_path: Path, old: str, new: str, message: str, tiny: Callable[..., Path]
) -> None:
    path = tiny((old, new))
    with pytest.raises(InputError) as caught:
        load_study(str(path))
    assert message in str(caught.value)
    assert "plan.yaml" in str(caught.value)


def test_truth_without_truth_is_refused_with_its_line(tmp_path: Path, tiny: Callable[..., Path]) -> None:
    for name in ("1HNA001", "1HNA002"):
        (tmp_path / "real" / "Task1" / "HN" / name).mkdir(parents=True)
        (tmp_path / "real" / "Task1" / "HN" / name / "mr.mha").write_bytes(b"")
    simulate = next(line for line in tiny().read_text(encoding="utf-8").splitlines() if "simulate" in line)
    real = f"    folder: {tmp_path / 'real'}\n    task: mri"
    with pytest.raises(InputError, match=r"line 7: pairs.truth of kind truth, and cohort made has no truth"):
        load_study(str(tiny((simulate, real))))


def test_a_changed_axis_touches_only_its_own(tmp_path: Path, tiny: Callable[..., Path]) -> None:
    plan = load_study(str(tiny()))
    more = plan.changed(pairs={**plan.pairs, "shift": PairsPlan(kind="planted", systematic_mm=4)})
    old, new = StudyFiles(plan, tmp_path), StudyFiles(more, tmp_path)
    assert old.cohort_folder("made") == new.cohort_folder("made")
    same = [old.fold_key(a, 0) == new.fold_key(b, 0) for a, b in zip(old.cells, new.cells, strict=True)]
    assert same == [True, False]
    reseeded = StudyFiles(plan.changed(seeds=(0, 1)), tmp_path)
    assert {old.fold_key(c, 0) for c in old.cells} < {reseeded.fold_key(c, 0) for c in reseeded.cells}


def test_conventions_multiply_registered_pairs_only() -> None:
    plan = StudyPlan(
        cohorts={"a": {"simulate": {"cases": 4}}},
        pairs={"truth": {"kind": "truth"}, "mi": {"kind": "mi"}},
        conventions=tuple(Convention),
    )
    names = [p.name for p in StudyFiles(plan, Path("x")).pair_sets]
    assert names == ["truth", "mi@ct_to_source", "mi@source_to_ct"]


def test_exclusions_multiply_registered_pairs_and_keep_their_keys(tmp_path: Path, tiny: Callable[..., Path]) -> None:
    plan = load_study(str(tiny(("folds: 2", "  mi: {kind: mi}\nfolds: 2"))))
    more = plan.changed(exclusions=("failed", "none", "rule", "random"))
    old, new = StudyFiles(plan, tmp_path), StudyFiles(more, tmp_path)
    assert {old.fold_key(c, 0) for c in old.cells} < {new.fold_key(c, 0) for c in new.cells}
    names = [new.train_name(c) for c in new.cells]
    assert names == ["truth", "shift", "mi", "mi+with-failed", "mi+without-rule", "mi+without-random"]
    assert len({new.fold_key(c, 0) for c in new.cells}) == 6
    assert [new.training_plan(c).data.failed for c in new.cells[2:]] == ["leave_out", "use", "leave_out", "use"]
    rule, chance = new.cells[4:]
    FoldsRecord(
        validation=(("Task1/HN/a", "Task1/HN/b"), ("Task1/HN/c",)),
        patients={f"Task1/HN/{k}": k for k in "abc"},
    ).write(tmp_path / "splits" / f"made-{new.split_key('made')[:12]}.json")
    assert left_out(new, rule) == set()
    before = new.fold_key(rule, 0)
    ExclusionsRecord(exclude={"b": "folds"}).write(new.pairs_folder("made", rule.pairs) / "exclusions.json")
    assert left_out(new, rule) == {"Task1/HN/b"}
    after = new.fold_key(rule, 0)
    ExclusionsRecord(exclude={"b": "other words"}).write(new.pairs_folder("made", rule.pairs) / "exclusions.json")
    assert new.fold_key(rule, 0) == after != before  # what is left out makes the network, not the rule's name
    assert len(left_out(new, chance)) == 1
    assert left_out(new, new.cells[3]) == set()


def test_an_objective_can_have_values_of_its_own(tmp_path: Path, tiny: Callable[..., Path]) -> None:
    tail = (
        "supervision: {supervised: {kind: supervised}, cut: {kind: cut}}\n"
        "supervision_changes: {cut: {optimiser: {learning_rate: 2.0e-4}}}\ndevice: cpu"
    )
    plan = load_study(str(tiny(("device: cpu", tail))))
    rates = [
        plan.training_plan(Task.MRI, plan.pairs["truth"], "recipe", name, 0).optimiser.learning_rate
        for name in ("supervised", "cut")
    ]
    assert rates == [3e-3, 2e-4]
    with pytest.raises(InputError, match=r"supervision_changes\.cat"):
        load_study(str(tiny(("device: cpu", tail.replace("{cut: {opt", "{cat: {opt")))))


def test_what_lacks_a_pair_is_made_again_once_it_is_there(tmp_path: Path, tiny: Callable[..., Path]) -> None:
    files = StudyFiles(load_study(str(tiny(("folds: 2", "  mi: {kind: mi}\nfolds: 2")))), tmp_path)
    shift, mi = (next(c for c in files.cells if c.pairs.name == name) for name in ("shift", "mi"))

    def keys() -> list[object]:
        return [files.fold_key(shift, 0), files.fold_key(mi, 0), files.scores_key(shift), files.references_file("made")]

    planned = keys()
    pairs = files.pairs_folder("made", mi.pairs) / "Task1" / "HN"
    for name in ("a", "b"):
        (files.cohort_folder("made") / "Task1" / "HN" / name).mkdir(parents=True)
        (pairs / name).mkdir(parents=True)
    (pairs / "a" / "pair.json").touch()
    lost = keys()
    assert [x == y for x, y in zip(planned, lost, strict=True)] == [True, False, False, False]
    (pairs / "b" / "pair.json").touch()
    assert keys() == planned


def test_cases_of_two_cohorts_with_one_id_are_two_patients(tmp_path: Path, tiny: Callable[..., Path]) -> None:
    second = "  more:\n    simulate: {task: mri, regions: [HN], cases: 2, centre: T, case: {spacing_xyz: [6, 6, 9], seed: 6}}\n"
    files = StudyFiles(load_study(str(tiny(("pairs:", second + "pairs:")))), tmp_path)
    for index, cell in enumerate(files.cells):
        row = {"case": "Task1/HN/1HNT001", "region": "HN", "evaluate": "truth", "mae": 50.0 + index}
        write_json(files.scores_file(cell), {"rows": [row]})
    rows = read_rows(files)
    assert [(r.train, r.case.partition("/")[0]) for r in rows] == [
        ("truth+made", "made"), ("shift+made", "made"), ("truth+more", "more"), ("shift+more", "more"),
    ]  # fmt: skip
    assert files.scored_cohorts == ["made", "more"]
    files.scores_file(files.cells[0]).unlink()
    files.scores_file(files.cells[1]).unlink()
    assert files.scored_cohorts == ["more"]


def test_folds_need_patients_not_cases(tmp_path: Path, tiny: Callable[..., Path]) -> None:
    for name in ("1HNA001", "1HNA002"):
        folder = tmp_path / "real" / "Task1" / "HN" / name
        folder.mkdir(parents=True)
        PairRecord(case=name, patient="one").write(folder / "pair.json")
    text = f"cohorts: {{made: {{folder: {tmp_path / 'real'}, task: mri}}}}\npairs: {{mi: {{kind: mi}}}}\nfolds: 2\n"
    with pytest.raises(InputError, match="2 cases of 1 patients for 2 folds"):
        load_study(str(tiny(text=text)))


def test_two_runs_in_one_folder_take_turns(tmp_path: Path, tiny: Callable[..., Path]) -> None:
    """They would train the same folds into the same files."""
    waits = threading.Event()

    class Heard(Monitor):
        def info(self, text: str) -> None:
            if "another run" in text:
                waits.set()

    plan = load_study(str(tiny())).changed(cohorts={"gone": {"folder": tmp_path / "gone", "task": "mri"}})
    out, ended = tmp_path / "out", []

    def second() -> None:
        with pytest.raises(InputError, match="no cell could be scored"):
            run_study(plan, out, monitor=Heard())
        ended.append(True)

    other = threading.Thread(target=second)
    with one_at_a_time(out / "study"):
        other.start()
        assert waits.wait(30)
        assert not (out / PLAN).exists()
    other.join(60)
    assert ended
    assert (out / PLAN).is_file()
