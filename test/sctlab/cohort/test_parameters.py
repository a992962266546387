"""SynthRAD's parameter files: several sheets, headings by any name, strata; and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sctlab.cohort.parameters import check_strata, parameter_files, read_parameters, stratum
from sctlab_model.errors import InputError

MR = [
    ["MR acquisition"],
    ["ID", "MagneticFieldStrength", "ManufacturerModelName", "SequenceName", "EchoTime"],
    ["1ABA001", 1.5, "Unity", "T2 3D", 100],
    ["1ABB002", "3 T", "Ingenia", None, "nan"],
    [None, None, None, None, None],
]
CT = [["ID", "ManufacturerModelName", "KVP"], ["1ABA001", "Brilliance", 120], ["1ABB002", "SOMATOM", 140]]


def write_workbook(path: Path, sheets: dict[str, list[list]]) -> Path:
    openpyxl = pytest.importorskip("openpyxl", reason='needs openpyxl: pip install "sctlab[clinical]"')
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    return path


def test_every_sheet_s_columns_and_the_source_s_strata(tmp_path: Path) -> None:
    write_workbook(tmp_path / "Task1/AB/overviews/1_AB_train_parameters.xlsx", {"CT": CT, "MR": MR})
    write_workbook(tmp_path / "Task1/AB/overviews/~1_AB_train_parameters.xlsx", {"CT": []})
    found = read_parameters(tmp_path)
    assert found["1ABA001"] == {
        "field_strength": 1.5,
        "sequence": "T2 3D",
        "scanner": "Unity",
        "ct_manufacturer_model_name": "Brilliance",
        "ct_kvp": 120,
        "mr_magnetic_field_strength": 1.5,
        "mr_manufacturer_model_name": "Unity",
        "mr_sequence_name": "T2 3D",
        "mr_echo_time": 100,
    }
    assert found["1ABB002"]["field_strength"] == 3
    assert found["1ABB002"]["scanner"] == "Ingenia"
    assert "mr_echo_time" not in found["1ABB002"]
    groups = [stratum(found[c], "field_strength", c) for c in found]
    assert groups == ["1.5", "3"]
    assert stratum(found["1ABB002"], "sequence", "1ABB002") == "unknown"
    assert stratum({}, "centre", "1ABB002") == "B"


def test_the_challenge_s_own_sheets(tmp_path: Path) -> None:
    """Headings and marks of its scripts: DICOM's keywords, `empty`, `-`, and 1 for a tag without a value."""
    mr = [
        [
            "ID",
            "Set",
            "PatientSex",
            "MagneticFieldStrength",
            "ScanningSequence",
            "SequenceName",
            "ManufacturerModelName",
        ],
        ["1HNA001", "Train", "M", "1.5", "['GR', 'IR']", "1", "Ingenia"],
        ["1HNC002", "Train", "F", "3", "SE", "*tse2d1_17", "empty"],
        ["1HNA003", "-", "-", "-", "-", "-", "-"],
    ]
    ct = [["ID", "Set", "ManufacturerModelName"], *([name, "Train", "Brilliance"] for name in ("1HNA001", "1HNA003"))]
    write_workbook(tmp_path / "Task1/HN/overviews/1_HN_train_parameters.xlsx", {"CT": ct, "MR": mr})
    found = read_parameters(tmp_path)
    groups = {c: [stratum(found[c], n, c) for n in ("field_strength", "sequence", "scanner", "centre")] for c in found}
    assert groups == {
        "1HNA001": ["1.5", "['GR', 'IR']", "Ingenia", "A"],
        "1HNC002": ["3", "*tse2d1_17", "unknown", "C"],
        "1HNA003": ["unknown", "unknown", "unknown", "A"],
    }
    cbct = [["ID", "Set", "KVP", "ManufacturerModelName"], ["2HNA001", "Train", "100", "XVI"]]
    write_workbook(tmp_path / "Task2/HN/overviews/2_HN_train_parameters.xlsx", {"CT": ct[:1], "CBCT": cbct})
    assert read_parameters(tmp_path)["2HNA001"]["scanner"] == "XVI"


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_csv_is_read_without_a_spreadsheet_library(tmp_path: Path, separator: str) -> None:
    folder = tmp_path / "overviews"
    folder.mkdir()
    rows = [["Patient ID", "Field strength (T)", "Scanner"], ["2THC003", "0.35", "MRIdian"]]
    text = "MR acquisition\n" + "".join(separator.join(row) + "\n" for row in rows)
    (folder / "2_TH_parameters.csv").write_text(text, encoding="utf-8-sig")
    row = read_parameters(tmp_path)["2THC003"]
    assert (row["field_strength"], row["scanner"]) == (0.35, "MRIdian")


def test_a_cohort_without_parameters_has_none(tmp_path: Path) -> None:
    assert parameter_files(tmp_path) == []
    assert read_parameters(tmp_path) == {}


def test_what_is_refused(tmp_path: Path) -> None:
    first = write_workbook(tmp_path / "a/overviews/1_parameters.xlsx", {"MR": MR})
    write_workbook(tmp_path / "a/overviews/2_parameters.xlsx", {"MR": [MR[1], ["1ABA001", 3, "Unity", "T2 3D", 100]]})
    with pytest.raises(InputError, match=r"of 1ABA001, and '1.5' in another file"):
        read_parameters(tmp_path / "a")
    write_workbook(tmp_path / "b/overviews/1_parameters.xlsx", {"MR": [["name", "x"], ["1ABA001", 2]]})
    with pytest.raises(InputError, match="no column of case ids"):
        read_parameters(tmp_path / "b")
    (tmp_path / "c/overviews").mkdir(parents=True)
    (tmp_path / "c/overviews/1_parameters.xlsx").write_bytes(first.read_bytes()[:800])
    with pytest.raises(InputError, match="can't be read"):
        read_parameters(tmp_path / "c")
    with pytest.raises(InputError, match="one of centre, field_strength, magnetic"):
        check_strata(["strength"], {"1ABA001": {"field_strength": 3.0, "magnetic": 3.0}}, tmp_path)
