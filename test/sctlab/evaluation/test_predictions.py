"""Layouts of predictions."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from sctlab.evaluation.predictions import match_predictions, unpacked
from sctlab_model.cases import Case, Region, Task
from sctlab_model.errors import InputError, ResourceError

CASES = [Case(i, Task.MRI, Path("mr.mha"), region=Region.AB) for i in ("1ABA001", "1ABA002")]


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


@pytest.mark.parametrize(
    "name",
    [
        "AB/1ABA001.mha",
        "1ABA001.nii.gz",
        "sct_1ABA001.mha",
        "Task1/AB/1ABA001/sct.mha",
        "1ABA001/images/synthetic-ct/0f3c.mha",
        "images/synthetic-ct/1ABA001.mha",
    ],
)
def test_every_layout_finds_the_case(tmp_path: Path, name: str) -> None:
    matched = match_predictions(_touch(tmp_path, name), CASES)
    assert matched.files == {"Task1/AB/1ABA001": tmp_path / name}
    assert matched.missing == ["Task1/AB/1ABA002"]
    assert matched.unknown == []


def test_duplicates_strangers_and_spreads(tmp_path: Path) -> None:
    _touch(
        tmp_path,
        "AB/1ABA001.mha",
        "sct_1ABA001.nii.gz",
        "AB/1ABA009.mha",
        "AB/1ABA002.mha",
        "uncertainty/AB/1ABA002.mha",
        ".1ABA002.part.mha",
        "predictions.json",
    )
    matched = match_predictions(tmp_path, CASES)
    assert list(matched.duplicates) == ["Task1/AB/1ABA001"]
    assert len(matched.duplicates["Task1/AB/1ABA001"]) == 2
    assert matched.files == {"Task1/AB/1ABA002": tmp_path / "AB/1ABA002.mha"}
    assert matched.spreads == {"Task1/AB/1ABA002": tmp_path / "uncertainty/AB/1ABA002.mha"}
    assert matched.unknown == [tmp_path / "AB/1ABA009.mha"]


def test_cases_outside_the_choice_are_not_strangers(tmp_path: Path) -> None:
    matched = match_predictions(_touch(tmp_path, "1ABA001.mha", "1ABA002.mha"), CASES[:1], CASES)
    assert list(matched.files) == ["Task1/AB/1ABA001"]
    assert matched.unknown == []


def test_a_zip_is_unpacked_without_its_folders(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("../../sct_1ABA001.mha", b"a")
        archive.writestr("x/sct_1ABA002.mha", b"b")
        archive.writestr("y/sct_1ABA002.mha", b"c")
        archive.writestr("readme.txt", b"d")
    folder = unpacked(tmp_path / "p.zip", tmp_path / "in" / "scratch")
    assert not (tmp_path / "sct_1ABA001.mha").exists()
    matched = match_predictions(folder, CASES)
    assert list(matched.files) == ["Task1/AB/1ABA001"]
    assert len(matched.duplicates["Task1/AB/1ABA002"]) == 2


def test_no_predictions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        unpacked(tmp_path / "none", tmp_path / "s")
    (tmp_path / "text").write_text("no zip")
    with pytest.raises(InputError, match="isn't a zip"):
        unpacked(tmp_path / "text", tmp_path / "s")


def test_zips_of_other_systems_and_damaged_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        entry = zipfile.ZipInfo("x")
        entry.filename = "predictions\\AB\\sct_1ABA001.MHA"  # as programs of Windows store it
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, bytes(range(256)) * 40)
        archive.writestr("..\\..\\evil\\sct_1ABA002.mha", b"b")
    folder = unpacked(path, tmp_path / "a")
    assert sorted(p.name for p in folder.rglob("*.*")) == ["sct_1ABA001.MHA", "sct_1ABA002.mha"]
    monkeypatch.setattr("shutil.disk_usage", lambda folder: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(ResourceError, match="when unpacked"):
        unpacked(path, tmp_path / "b")
    monkeypatch.undo()
    raw = bytearray(path.read_bytes())
    raw[70] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(InputError, match="damaged zip"):
        unpacked(path, tmp_path / "c")
