"""Options that choose among names, in every command: as people write them, and refused in one sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sctlab import cli
from sctlab_model import main as program


@pytest.mark.parametrize(
    "line",
    [
        "predict NOTHING --out out --task MR --region thorax --runtime Torch --precision FP32",
        "register NOTHING out --task CBCT --region Head-and-Neck --method Impact --convention CT-to-source --executor LOCAL",
        "evaluate predictions --cohort NOTHING --out out --task MR --region ab",
        "simulate NOTHING/file/below --task MR --regions Thorax,hn --executor Local",
        "pack NOTHING out --from-konfai --task MR --storage Float16",
        "export-onnx NOTHING --precision FP16",
        "study run NOTHING out --executor LOCAL",
    ],
)
def test_capitals_and_usual_words_are_taken(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is refused then is the folder that isn't there."""
    monkeypatch.chdir(tmp_path)
    if "/file" in line:
        Path("NOTHING").write_text("", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        cli.main(line.split())
    said = capsys.readouterr().err
    assert ended.value.code in (2, 3)
    assert "NOTHING" in said or "predictions" in said
    assert "--" not in said.replace("--fixed", "").replace("--moving", "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("predict x --out out --task CT", "--task: 'CT'; expected mri or cbct"),
        ("predict x --out out --runtime tensorrt", "--runtime: 'tensorrt'; expected torch, onnx or openvino"),
        ("register x out --method impct", "--method: 'impct'; expected .*; is 'impact' meant?"),
        ("register x out --executor slurm", "--executor: 'slurm'; expected local or ray"),
        ("pack x out --storage float8", "--storage: 'float8'; expected float16 or float32"),
    ],
)
def test_other_words_are_refused_in_one_sentence(line: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(line.split())
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip()
    assert re.search(expected.replace("?", r"\?"), said)
    assert len(said.splitlines()) == 1


def test_process_takes_them_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--task", "MR", "--region", "Head-and-Neck", "--runtime", "ONNX", "--precision", "FP32", "--device", "CPU"]
    assert program.main(["--input", str(tmp_path / "nothing"), "--output", str(tmp_path / "out"), *words]) == 2
    assert "nothing: no such" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        program.main(["--task", "CT"])
    assert "--task: 'CT'; expected mri or cbct" in capsys.readouterr().err
