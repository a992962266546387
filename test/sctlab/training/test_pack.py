"""From runs to bundles: what a manifest tells, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from sctlab import cli
from sctlab.training.card import model_card
from sctlab.training.checkpoint import load_checkpoint, part, read_values
from sctlab.training.cohort import train_cohort
from sctlab.training.pack import pack_runs, registration_of
from sctlab.training.plan import write_plan
from sctlab.training.run import Run
from sctlab_model.bundle import load_fold, read_bundle
from sctlab_model.cases import Region, read_json
from sctlab_model.errors import InputError, WeightsError
from sctlab_model.io.atomic import write_json
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.revision import describe_software


@pytest.fixture(scope="module")
def run_folder(make_plan: Callable, cohort_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds in two stages, the second per region group."""
    stages = (
        {"name": "all", "iterations": 2},
        {"name": "AB-TH", "start": "all", "regions": ("AB", "TH"), "iterations": 1},
        {"name": "HN", "start": "all", "regions": ("HN",), "iterations": 1},
    )
    plan = make_plan(stages=stages, data={"folds": 2, "workers": 0}, validate_every=1)
    out = tmp_path_factory.mktemp("pack") / "run"
    torch.set_num_threads(1)
    train_cohort(plan, cohort_folder, out, fabric=Fabric(accelerator="cpu", devices=1))
    return out


@pytest.fixture(scope="module")
def bundle_folder(run_folder: Path) -> Path:
    out = run_folder.parent / "two-stages"
    pack_runs([run_folder], out)
    return out


def test_groups_folds_and_weights(run_folder: Path, bundle_folder: Path) -> None:
    bundle, run = read_bundle(bundle_folder), Run(run_folder)
    assert [g.regions for g in bundle.groups] == [(Region.AB, Region.TH), (Region.HN,)]
    assert [len(g.folds) for g in bundle.groups] == [2, 2]
    for group, stage in zip(bundle.groups, ("AB-TH", "HN"), strict=True):
        for index, fold in enumerate(group.folds):
            wanted = part(load_checkpoint(run.stage_folder(index, stage), "best")[0], "model")
            found = load_fold(bundle_folder, fold)
            assert all(torch.equal(found[k].to(wanted[k].dtype), wanted[k]) for k in wanted)


def test_provenance(run_folder: Path, bundle_folder: Path) -> None:
    bundle, run = read_bundle(bundle_folder), Run(run_folder)
    division = run.folds
    hn = bundle.groups[1].folds[1]
    # Its first stage saw every region: those cases are seen, though the second stage trains on HN alone.
    assert set(hn.training_cases) == {k.rsplit("/", 1)[-1] for k in division.training_keys(1)}
    assert set(hn.validation_cases) == {k.rsplit("/", 1)[-1] for k in division.validation[1]}
    assert (bundle.registration.method, bundle.registration.convention) == ("bspline", "ct_to_source")
    assert bundle.provenance["cohort"]["digest"] == run.cohort.digest
    assert bundle.provenance["plan"]["stages"][1]["name"] == "AB-TH"
    assert {"revision", "python", "versions"} <= set(bundle.provenance)
    (extractor,) = bundle.provenance["extractors"]
    assert extractor["normalisation"] == "min-max"
    assert extractor["statistics_hu"]["maximum"] == 3071
    values = read_values(run.stage_folder(1, "HN"), "best")
    assert hn.metrics["mae_hu"] == values["metrics"]["mae_hu"]
    assert hn.metrics["HN"]["mae_hu"] == pytest.approx(np.mean([s["mae_hu"] for s in values["cases"].values()]))
    assert "AB" not in hn.metrics


def test_all_water_is_the_mean_of_the_absolute_ct(run_folder: Path, bundle_folder: Path, cohort_folder: Path) -> None:
    fold = read_bundle(bundle_folder).groups[1].folds[0]
    errors = []
    for key in Run(run_folder).folds.validation[0]:
        if "/HN/" in key:
            folder = cohort_folder / key
            ct, mask = read_volume(folder / "ct.mha").array, read_mask(folder / "mask.mha").array
            errors.append(np.abs(ct[mask].clip(-1024, 3071)).mean())
    assert fold.metrics["mae_all_water_hu"] == pytest.approx(np.mean(errors), abs=0.01)


def test_the_manifest_keeps_what_the_output_gate_saw_of_the_validation(run_folder: Path, bundle_folder: Path) -> None:
    seen = read_bundle(bundle_folder).validation
    run = Run(run_folder)
    measured = [
        values
        for fold in range(2)
        for stage in ("AB-TH", "HN")
        for values in read_values(run.stage_folder(fold, stage), "best")["measured"].values()
    ]
    assert seen.cases == len(measured) == 6
    for name in ("gas_share", "fat_share", "soft_tissue_peak_hu"):
        values = [m[name] for m in measured]
        assert (seen.ranges[name].low, seen.ranges[name].high) == (min(values), max(values))
    assert measured[0]["voxels"] > 100
    assert measured[0]["non_finite"] == 0


def test_runs_that_measured_nothing_say_nothing(run_folder: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(run_folder, old, ignore=shutil.ignore_patterns("cache"))
    for path in old.glob("fold_*/*/best.json"):
        values = read_json(path)
        del values["measured"]
        write_json(path, values)
    assert pack_runs([old], tmp_path / "bundle").validation is None


def test_a_demonstration_holds_no_patient_to_its_few_simulated_ones(run_folder: Path, tmp_path: Path) -> None:
    assert pack_runs([run_folder], tmp_path / "bundle").validation is not None
    assert pack_runs([run_folder], tmp_path / "demonstration", demonstration=True).validation is None


def test_the_card_says_what_the_manifest_says(bundle_folder: Path) -> None:
    bundle = read_bundle(bundle_folder)
    text = (bundle_folder / "MODEL_CARD.md").read_text()
    assert text == model_card(bundle)
    for words in (
        "bspline, ct_to_source",
        "AB, TH (2 folds); HN (2 folds)",
        f"{bundle.groups[0].folds[1].metrics['mae_hu']:.1f}",
    ):
        assert words in text


def test_the_card_says_whether_validation_chose_the_network(bundle_folder: Path) -> None:
    """The first stage validated twice and started the others; where each validates once, nothing is chosen."""
    bundle = read_bundle(bundle_folder)
    assert "the best one was kept" in model_card(bundle)
    plan = bundle.provenance["plan"] | {"validate_every": 2}
    once = model_card(bundle.model_copy(update={"provenance": bundle.provenance | {"plan": plan}}))
    assert "nothing was chosen" in once
    assert "best one was kept" not in once
    imported = {k: v for k, v in bundle.provenance.items() if k != "plan"}
    assert "isn't recorded" in model_card(bundle.model_copy(update={"provenance": imported}))


def test_half_precision_storage(run_folder: Path, tmp_path: Path, bundle_folder: Path) -> None:
    half = pack_runs([run_folder], tmp_path / "half", storage="float16").groups[0].folds[0]
    full = read_bundle(bundle_folder).groups[0].folds[0]
    sizes = [
        (folder / f.weights.file).stat().st_size for folder, f in ((tmp_path / "half", half), (bundle_folder, full))
    ]
    assert sizes[0] < 0.6 * sizes[1]


def test_folds_trained_apart_are_packed_together(run_folder: Path, tmp_path: Path) -> None:
    copies = []
    for keep in (0, 1):
        copies.append(tmp_path / f"run{keep}")
        shutil.copytree(run_folder, copies[-1], ignore=shutil.ignore_patterns("cache"))
        shutil.rmtree(copies[-1] / f"fold_{1 - keep}")
    assert len(pack_runs(copies, tmp_path / "bundle").groups[0].folds) == 2
    assert len(pack_runs(copies[1:], tmp_path / "one").groups[0].folds) == 1


def test_reasons_in_a_bundle_do_not_say_where_the_cohort_lay(run_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_folder, run, ignore=shutil.ignore_patterns("cache"))
    record = read_json(run / "cohort.json")
    record["left_out"] = {"Task1/AB/1ABX001": f"{record['folder']}/Task1/AB/1ABX001/ct.mha: is empty"}
    write_json(run / "cohort.json", record)
    bundle = pack_runs([run], tmp_path / "bundle")
    assert bundle.provenance["cohort"]["left_out"]["Task1/AB/1ABX001"] == "Task1/AB/1ABX001/ct.mha: is empty"
    assert record["folder"] not in (tmp_path / "bundle/bundle.json").read_text()


def test_what_does_not_fit_together_is_refused(run_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run_folder, other, ignore=shutil.ignore_patterns("cache"))
    text = (other / "folds.json").read_text()
    (other / "folds.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(InputError, match="other folds"):
        pack_runs([run_folder, other], tmp_path / "bundle")
    shutil.rmtree(other / "fold_0")
    shutil.rmtree(other / "fold_1")
    with pytest.raises(InputError, match="no finished fold"):
        pack_runs([other], tmp_path / "bundle")
    assert not (tmp_path / "bundle" / "bundle.json").exists()
    with pytest.raises(InputError, match="no plan"):
        pack_runs([tmp_path], tmp_path / "bundle")


def test_a_pack_that_is_refused_leaves_the_bundle_as_it_was(run_folder: Path, tmp_path: Path) -> None:
    bundle, other = tmp_path / "bundle", tmp_path / "other"
    pack_runs([run_folder], bundle)
    before = {p.name: p.read_bytes() for p in bundle.iterdir()}
    shutil.copytree(run_folder, other, ignore=shutil.ignore_patterns("cache"))
    next((other / "fold_1" / "HN").glob("best-*.safetensors")).write_bytes(b"cut")
    with pytest.raises(WeightsError, match="SHA-256"):
        pack_runs([other], bundle, storage="float16")
    assert {p.name: p.read_bytes() for p in bundle.iterdir()} == before


def test_runs_of_other_losses_are_not_one_bundle(run_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run_folder, other, ignore=shutil.ignore_patterns("cache"))
    plan = Run(other).plan
    write_plan(plan.model_copy(update={"ema": 0.9}), other / "plan.yaml")
    with pytest.raises(InputError, match="another plan"):
        pack_runs([run_folder, other], tmp_path / "bundle")


def test_the_manifest_names_the_revision_that_trained(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sctlab.training.pack.describe_software", lambda: {"revision": "later", "versions": {}})
    told = pack_runs([run_folder], tmp_path / "bundle").provenance
    trained = describe_software()["revision"]
    assert (told["revision"], told["packed_by"]) == (trained, "later")
    assert {n["revision"] for n in told["networks"]} == {trained}
    assert trained != "later"


def test_registrations() -> None:
    assert registration_of([], "truth").convention == "aligned"
    told = registration_of([{"method": "as delivered", "convention": "unknown", "cases": 3}], "ct")
    assert told.convention == "ct_to_source"
    assert "assumed" in told.method
    with pytest.raises(InputError, match="several conventions"):
        registration_of(
            [{"method": "a", "convention": "ct_to_source"}, {"method": "b", "convention": "source_to_ct"}], "ct"
        )


def test_out_of_fold_prediction(bundle_folder: Path, cohort_folder: Path, tmp_path: Path) -> None:
    """Each case by the one fold that did not train on it."""
    code = cli.run(
        lambda: cli.app.main(
            [
                "predict",
                str(cohort_folder),
                "--weights",
                str(bundle_folder),
                "--out",
                str(tmp_path),
                "--zip",
                "--device",
                "cpu",
            ],
            standalone_mode=False,
        )
    )
    assert code == 0
    import json
    import zipfile

    report = json.loads((tmp_path / "predictions.json").read_text())
    bundle = read_bundle(bundle_folder)
    assert len(report["cases"]) == 6
    ids = []
    for key, case in report["cases"].items():
        region, case_id = key.split("/")[1:]
        ids.append(case_id)
        group = next(g for g in bundle.groups if region in g.regions)
        assert case["folds"] == [k for k, f in enumerate(group.folds) if case_id not in f.training_cases]
        assert len(case["folds"]) == 1
        assert (tmp_path / region / f"{case_id}.mha").is_file()
    with zipfile.ZipFile(tmp_path / "predictions.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f"sct_{case_id}.mha" for case_id in ids)


def test_cases_that_every_fold_saw_are_refused(
    bundle_folder: Path, cohort_folder: Path, run_folder: Path, tmp_path: Path
) -> None:
    pack_runs([run_folder], tmp_path / "one", folds=[0])
    code = cli.run(
        lambda: cli.app.main(
            [
                "predict",
                str(cohort_folder),
                "--weights",
                str(tmp_path / "one"),
                "--out",
                str(tmp_path / "out"),
                "--device",
                "cpu",
            ],
            standalone_mode=False,
        )
    )
    assert code == 1
    written = {p.stem for p in (tmp_path / "out").rglob("*.mha")}
    assert written == {key.rsplit("/", 1)[-1] for key in Run(run_folder).folds.validation[0]}
