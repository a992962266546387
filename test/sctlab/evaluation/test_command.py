"""`sctlab evaluate` and `sctlab compare` from files to files, through the command line."""

from __future__ import annotations

import csv
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from evaluation_cohort import write_cohort, write_provenance
from evaluation_command import alter, details_of, evaluate, other_shape

from sctlab.cli import app, run
from sctlab.features.trust import trust_file
from sctlab_model.errors import ExitCode
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume


def test_all_files_of_a_whole_evaluation(root: Path) -> None:
    assert evaluate(root, "--labels", str(root / "labels"), "--round-trip") == ExitCode.OK
    challenge = json.loads((root / "out/metrics.json").read_text())
    assert set(challenge) == {"results", "aggregates"}
    assert len(challenge["results"]) == 3
    assert list(challenge["results"][0]) == ["mae", "psnr", "ms_ssim", "DICE", "HD95"]
    assert set(challenge["aggregates"]["mae"]) == {"mean", "max", "min", "std", "25pc", "50pc", "75pc", "count"}
    assert challenge["aggregates"]["DICE"]["count"] == 3
    with (root / "out/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["case"], r["region"]) for r in rows] == [("1ABA001", "AB"), ("1ABA002", "AB"), ("1HNA001", "HN")]
    assert float(rows[0]["mae"]) == pytest.approx(challenge["results"][0]["mae"])
    case = details_of(root)["cases"][0]
    assert case["metrics"]["mae_truth"] < case["metrics"]["mae"]  # the reference was moved, the truth wasn't
    assert case["metrics"]["bias"] > 0
    assert case["metrics"]["dice_input"] == case["metrics"]["DICE"]  # both label sets are the aligned ones
    assert 1 < case["metrics"]["nmi_input"] <= 2
    assert 0 < case["metrics"]["edge_agreement_input"] <= 1
    assert any("no transform" in n for n in case["notes"])
    assert {"tissues", "depth", "slices", "banding"} <= set(case)


def test_the_report_is_one_offline_file(root: Path) -> None:
    evaluate(root, "--labels", str(root / "labels"), report=True)
    page = (root / "out/report.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "http" not in re.sub(r'src="data:[^"]+"', "", page)
    assert page.count('src="data:image/png') == 3  # worst 2 of AB, the one of HN
    assert "Registration bias" in page
    assert "agree in origin" in page


def test_the_mismatch_of_registrations_is_at_the_top(root: Path, capsys: pytest.CaptureFixture) -> None:
    write_provenance(root / "predictions", method="impact")
    evaluate(root, "--challenge-only", report=True)
    page = (root / "out/report.html").read_text(encoding="utf-8")
    assert page.index("trained on pairs registered by impact") < page.index("Scores by region")
    assert "trained on pairs registered by impact" in " ".join(capsys.readouterr().err.split())


def test_a_case_name_cannot_inject_html(root: Path) -> None:
    shutil.copy(root / "predictions/AB/1ABA001.mha", root / "predictions/AB/<script>alert(1)<.mha")
    assert evaluate(root, "--challenge-only", report=True) == ExitCode.SOME_CASES_FAILED
    assert "<script>alert" not in (root / "out/report.html").read_text(encoding="utf-8")


def test_seen_cases_are_refused_unless_told(root: Path) -> None:
    write_provenance(root / "predictions", training={"AB+HN+TH/0": ["1ABA002"]})
    assert evaluate(root, "--challenge-only") == ExitCode.SOME_CASES_FAILED
    assert "trained on it" in details_of(root)["left_out"]["Task1/AB/1ABA002"]
    assert len(details_of(root)["cases"]) == 2
    assert evaluate(root, "--challenge-only", "--allow-seen") == ExitCode.OK
    assert "say nothing about new patients" in details_of(root)["mismatches"][0]


def test_a_choice_of_cases(root: Path) -> None:
    (root / "predictions/HN/1HNA001.mha").unlink()
    assert evaluate(root, "--region", "AB", "--challenge-only") == ExitCode.OK
    assert evaluate(root, "--only", "1ABA002", "--challenge-only") == ExitCode.OK
    assert [c["id"] for c in details_of(root)["cases"]] == ["1ABA002"]


def test_a_zip_scores_like_its_folder(root: Path) -> None:
    evaluate(root, "--challenge-only")
    with zipfile.ZipFile(root / "p.zip", "w") as archive:
        for path in (root / "predictions").rglob("*.mha"):
            archive.write(path, f"sct_{path.name}")
    assert evaluate(root, "--challenge-only", predictions="p.zip", out="zipped") == ExitCode.OK
    assert (root / "zipped/metrics.json").read_text() == (root / "out/metrics.json").read_text()
    assert "unknown" in details_of(root, "zipped")["mismatches"][0]  # a zip of images says nothing of the weights


@pytest.mark.heavy
def test_two_processes_give_the_same_numbers(root: Path) -> None:
    evaluate(root, "--challenge-only")
    assert evaluate(root, "--challenge-only", "--jobs", "2", out="parallel") == ExitCode.OK
    assert (root / "parallel/metrics.json").read_text() == (root / "out/metrics.json").read_text()


def test_another_reference(root: Path) -> None:
    evaluate(root, "--challenge-only", "--reference", "truth/ct_aligned")
    case = details_of(root)["cases"][0]
    assert case["registration"]["convention"] == "aligned"
    assert evaluate(root, "--reference", "ct_nowhere") == ExitCode.BAD_INPUT


def test_geometry_is_ignored_and_said(root: Path) -> None:
    evaluate(root, "--challenge-only")
    path = root / "predictions/AB/1ABA001.mha"
    volume = read_volume(path)
    moved = type(volume.geometry)(volume.geometry.size_xyz, volume.geometry.spacing_xyz, (500.0, 0.0, 0.0))
    write_volume(type(volume)(volume.array, moved), path)
    before = details_of(root)["cases"][0]["metrics"]["mae"]
    assert evaluate(root, "--challenge-only") == ExitCode.OK
    case = details_of(root)["cases"][0]
    assert case["metrics"]["mae"] == before
    assert any("voxel by voxel" in n for n in case["notes"])


def test_labels_and_input_on_another_geometry_are_said(root: Path) -> None:
    case = root / "cohort/Task1/AB/1ABA001"
    arguments = ("--only", "1ABA001", "--labels", str(root / "labels"))
    evaluate(root, *arguments)
    before = details_of(root)["cases"][0]["metrics"]
    files = (root / "labels/1ABA001.mha", case / "labels.mha", case / "truth/labels_source.mha", case / "mr.mha")
    for path in files:
        volume = read_volume(path)
        moved = type(volume.geometry)(volume.geometry.size_xyz, (1.0, 1.0, 1.0), (500.0, 0.0, 0.0))
        write_volume(type(volume)(volume.array, moved), path)
    assert evaluate(root, *arguments) == ExitCode.OK
    after = details_of(root)["cases"][0]
    assert after["metrics"] == before
    notes = [n for n in after["notes"] if "voxel by voxel" in n]
    assert len(notes) == len(files)
    assert all(any(str(p) in n for n in notes) for p in files[:3])


def test_a_missing_dice_input_is_explained(root: Path) -> None:
    def notes(*more: str) -> str:
        assert evaluate(root, "--only", "1ABA001", *more) == ExitCode.OK
        return " ".join(n for n in details_of(root)["cases"][0]["notes"] if "no Dice against them" in n)

    labels = ("--labels", str(root / "labels"))
    assert notes(*labels) == ""
    assert "none of the prediction" in notes()
    (root / "empty").mkdir()
    assert "no labels 1ABA001" in notes(*labels, "--input-labels", str(root / "empty"))
    other_shape(root / "cohort/Task1/AB/1ABA001/truth/labels_source.mha")
    assert "another grid" in notes(*labels)


def test_a_volume_of_one_slice(tmp_path: Path) -> None:
    write_cohort(tmp_path, ("1ABA001",))
    for path in tmp_path.rglob("*.mha"):
        volume = read_volume(path)
        grid = volume.geometry.cropped((0, 0, 12), (*volume.geometry.size_xyz[:2], 1))
        write_volume(type(volume)(volume.array[12:13], grid), path)
    assert evaluate(tmp_path, "--labels", str(tmp_path / "labels"), report=True) == ExitCode.OK
    case = details_of(tmp_path)["cases"][0]
    assert all(
        case["metrics"][k] is not None for k in ("mae", "psnr", "ms_ssim", "DICE", "HD95", "edge_agreement_input")
    )
    assert not any("failed" in n for n in case["notes"])


def test_an_extra_that_fails_costs_no_number_of_the_challenge(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sctlab.evaluation import closer as module

    def fail(*args, **kwargs):
        raise ValueError("too small an array")

    for place, name in ((module, "edge_agreement"), (module.tissues, "tissue_errors"), (module.profiles, "banding")):
        monkeypatch.setattr(place, name, fail)
    (root / "cohort/Task1/AB/1ABA001/truth/ct_aligned.mha").write_bytes(b"no image")
    assert evaluate(root, "--only", "1ABA001", "--labels", str(root / "labels"), report=True) == ExitCode.OK
    case = details_of(root)["cases"][0]
    assert {"mae", "psnr", "ms_ssim", "DICE", "HD95", "wepl_mean", "dice_input"} <= set(case["metrics"])
    failed = [n.split(" failed")[0] for n in case["notes"] if " failed" in n]
    assert failed == ["tissues", "profiles", "input", "truth"]


def test_the_spread_is_calibrated(root: Path) -> None:
    sct, ct = (read_volume(root / p) for p in ("predictions/AB/1ABA001.mha", "cohort/Task1/AB/1ABA001/ct.mha"))
    error = np.abs(sct.array.astype(np.float32) - ct.array)
    write_volume(sct.with_array(error), root / "predictions/uncertainty/AB/1ABA001.mha")
    assert evaluate(root, "--only", "1ABA001", report=True) == ExitCode.OK
    metrics = details_of(root)["cases"][0]["metrics"]
    assert metrics["spread_calibration"] == pytest.approx(0, abs=1e-6)
    assert metrics["spread_rank"] == pytest.approx(1)
    assert "predict the error" in (root / "out/report.html").read_text(encoding="utf-8")


def test_the_floor_of_a_registered_pair(root: Path) -> None:
    from sctlab.transforms.data import AffineTransform
    from sctlab.transforms.itk_files import write_itk

    write_itk(AffineTransform(np.eye(3), (2.0, 0.0, 0.0)), root / "cohort/Task1/AB/1ABA001/transform.h5")
    evaluate(root, "--only", "1ABA001", "--round-trip")
    assert 0 < details_of(root)["cases"][0]["metrics"]["round_trip"] < 100


def test_rays_to_a_labelled_target(root: Path) -> None:
    assert evaluate(root, "--only", "1ABA001", "--target", "5") == ExitCode.OK
    assert details_of(root)["cases"][0]["metrics"]["wepl_p95"] > 0
    evaluate(root, "--only", "1ABA001", "--target", "117")
    assert any("nothing of label 117" in n for n in details_of(root)["cases"][0]["notes"])


def test_compare(root: Path, capsys: pytest.CaptureFixture) -> None:
    evaluate(root, "--challenge-only", "--labels", str(root / "labels"))
    for path in (root / "predictions").rglob("*.mha"):
        alter(path, lambda a: (a + 25).astype(np.int16))
    evaluate(root, "--challenge-only", "--labels", str(root / "labels"), out="worse")
    arguments = ["compare", str(root / "out"), str(root / "worse"), "--out", str(root / "c")]
    assert run(lambda: app.main(arguments, prog_name="sctlab", standalone_mode=False), debug=True) == ExitCode.OK
    differences = {
        (d["region"], d["metric"]): d for d in json.loads((root / "c/comparison.json").read_text())["differences"]
    }
    assert differences["all", "mean_error"]["difference"] == pytest.approx(25)
    assert differences["all", "mae"]["difference"] > 0
    assert differences["all", "mae"]["b_better"] == 0
    assert differences["AB", "mae"]["count"] == 2
    assert differences["all", "DICE"]["difference"] == 0
    assert differences["all", "DICE"]["p_value"] is None
    page = (root / "c/comparison.html").read_text(encoding="utf-8")
    assert "data:image/svg+xml" in page
    assert "Wilcoxon" in capsys.readouterr().out


def test_compare_needs_shared_cases(root: Path) -> None:
    evaluate(root, "--challenge-only", "--only", "1ABA001")
    evaluate(root, "--challenge-only", "--only", "1ABA002", out="other")
    for second in ("other", "nowhere"):
        arguments = ["compare", str(root / "out"), str(root / second)]
        assert run(lambda a=arguments: app.main(a, prog_name="sctlab", standalone_mode=False)) == ExitCode.BAD_INPUT


def test_a_cohort_without_labels_or_truth(tmp_path: Path) -> None:
    write_cohort(tmp_path, ("1THA001",), truth=False)
    (tmp_path / "cohort/Task1/TH/1THA001/labels.mha").unlink()
    assert evaluate(tmp_path, "--labels", str(tmp_path / "labels")) == ExitCode.OK
    challenge = json.loads((tmp_path / "out/metrics.json").read_text())
    assert list(challenge["results"][0]) == ["mae", "psnr", "ms_ssim"]
    case = details_of(tmp_path)["cases"][0]
    assert any("no organ metrics" in n for n in case["notes"])
    assert "bias" not in case["metrics"]


def test_a_segmenter_labels_both_images(root: Path) -> None:
    import torch

    class Bone(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x > 150).squeeze(1).to(torch.uint8) * 5

    torch.jit.script(Bone()).save(str(root / "bone.pt"))
    trust_file(root / "bone.pt")
    for path in (root / "cohort").rglob("labels.mha"):
        path.unlink()
    assert evaluate(root, "--only", "1ABA001", "--segmenter", str(root / "bone.pt")) == ExitCode.OK
    (organ,) = details_of(root)["cases"][0]["organs"]
    assert organ["name"] == "liver"
    assert 0 < organ["dice"] < 1


def test_the_product_s_own_report_of_predictions_is_understood(root: Path) -> None:
    """`predictions.json` as predicting writes it: a real bundle, results of cases by their keys."""
    from sctlab.evaluation.provenance import read_prediction_provenance
    from sctlab_model.cases import Case, Region, Task
    from sctlab_model.prediction_merging import merge_predictions
    from sctlab_model.predictions import CaseResult
    from sctlab_model.synthesiser import Synthesiser

    use = Synthesiser(device="cpu").bundle_use(Task.MRI)
    result = CaseResult(output="AB/1ABA001.mha", bundle=use.id, folds=[0])
    merge_predictions(root / "predictions", {"Task1/AB/1ABA001": result}, {use.id: use})
    provenance = read_prediction_provenance(root / "predictions")
    case = Case("1ABA001", Task.MRI, Path("mr.mha"), region=Region.AB)
    assert provenance.folds_of(case) == (0,)
    assert provenance.folds_of(Case("1ABA001", Task.CBCT, Path("cbct.mha"), region=Region.AB)) is None
    assert [w.name for w in provenance.weights] == [use.name]


def test_scores_by_a_scan_parameter(root: Path, capsys: pytest.CaptureFixture) -> None:
    (root / "cohort/Task1/AB/overviews").mkdir()
    text = "ID,MagneticFieldStrength\n1ABA001,1.5\n1ABA002,3\n"
    (root / "cohort/Task1/AB/overviews/1_AB_train_parameters.csv").write_text(text)
    assert evaluate(root, "--challenge-only", "--by", "field_strength", report=True) == ExitCode.OK
    cases = details_of(root)["cases"]
    assert [c["parameters"].get("field_strength") for c in cases] == [1.5, 3.0, None]
    page = (root / "out/report.html").read_text(encoding="utf-8")
    table = page[page.index("Scores by field strength") :]
    assert [f"{g} <span" in table for g in ("1.5", "3", "unknown", "all")] == [True] * 4
    assert "field_strength" in (root / "out/metrics.csv").read_text().splitlines()[0]
    assert "by field_strength" in capsys.readouterr().out
    assert evaluate(root, "--challenge-only", "--by", "colour") == ExitCode.BAD_INPUT
    assert "no parameter 'colour'" in capsys.readouterr().err
