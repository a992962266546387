"""How a case was scanned: SynthRAD's `overviews/*_parameters.xlsx`, read where they lie beside a cohort.

A spreadsheet (or a CSV of the same name) has a row for each case. SynthRAD's have a sheet CT and one of the source (MR or CBCT), with `ID`,
`Set` and DICOM's keywords as headings (`extract_dicom_tags.py` and `configs/tags_*.txt` of github.com/SynthRAD2025/preprocessing). Columns
keep their names, in snake case and behind the name of their sheet where a file has several. Three strata have names of their own, whatever a file calls them: `field_strength`, `sequence` and
`scanner` (of the source image, not of the CT), and `centre` is the letter of the case id.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sctlab.cohort.pairs import CENTRE_POSITION, Pair
from sctlab_model.errors import InputError
from sctlab_model.io.child import read_in_child

Value = str | float
PLACES = ("overviews", "overview")
SUFFIXES = (".xlsx", ".csv")
UNKNOWN = "unknown"
# `empty`: a tag that the DICOM file lacks, `-`: a case without that image, as SynthRAD's scripts write them.
MISSING = frozenset(("", "-", "empty", "nan", "n/a", "none"))
WORDS = ("sequence", "scanner")  # strata that no number tells: SynthRAD's script writes 1 where the tag has no value
IDENTIFIERS = frozenset(("id", "patient", "patientid", "patientnumber", "case", "caseid", "subject", "subjectid"))
# Endings of the columns' names (letters and digits only) that each stratum is read from, first choice first.
STRATA: dict[str, tuple[str, ...]] = {
    "field_strength": ("magneticfieldstrength", "magneticfieldstrengtht", "fieldstrength", "fieldstrengtht"),
    "sequence": ("sequencename", "pulsesequencename", "sequence", "scanningsequence", "protocolname"),
    "scanner": ("manufacturermodelname", "modelname", "scannermodel", "scanner", "model"),
}
CENTRE = "centre"


def parameter_files(cohort: str | Path) -> list[Path]:
    """The parameter files of a cohort: in `overviews/` of the cohort's folder, of its task folders and of their region folders."""
    cohort = Path(cohort)
    found = [
        p for depth in ("", "*/", "*/*/") for place in PLACES for p in cohort.glob(f"{depth}{place}/*_parameters.*")
    ]
    return sorted(p for p in found if p.suffix.lower() in SUFFIXES and not p.name.startswith(("~", ".")))


def read_parameters(cohort: str | Path) -> dict[str, dict[str, Value]]:
    """Case id and its parameters, of all files of a cohort; empty where there are none.

    Raises:
        InputError: openpyxl isn't installed for a spreadsheet, a damaged file, one without case ids, or two files that disagree.
    """
    found: dict[str, dict[str, Value]] = {}
    for path in parameter_files(cohort):
        for case, row in _read_file(path).items():
            known = found.setdefault(case, {})
            for name, value in row.items():
                if known.setdefault(name, value) != value:
                    raise InputError(
                        path,
                        found=f"{name} '{value}' of {case}, and '{known[name]}' in another file",
                        expected="one value",
                    )
    return found


def stratum(parameters: Mapping[str, Value | None], name: str, case_id: str = "") -> str:
    """Which group of `name` a case belongs to; `unknown` where its row says nothing.

    Args:
        parameters: The case's, as `read_parameters` has them.
        name: A parameter, one of `STRATA`, or `centre`.
        case_id: For `centre`.

    Example:
        >>> stratum({"field_strength": 1.5}, "field_strength"), stratum({}, "scanner"), stratum({}, "centre", "1ABA001")
        ('1.5', 'unknown', 'A')
    """
    value = parameters.get(name)
    if value is None and name == CENTRE and len(case_id) > CENTRE_POSITION:
        value = case_id[CENTRE_POSITION]
    if value is None or value == "":
        return UNKNOWN
    return value if isinstance(value, str) else f"{value:g}"


def strata_of(pairs: Sequence[Pair], names: Sequence[str], folder: str | Path) -> dict[str, str]:
    """Case key and the groups it belongs to, for folds that spread them evenly; empty without names.

    Args:
        pairs: The cases.
        names: Parameters, see `stratum`.
        folder: A cohort with `overviews/`.

    Raises:
        InputError: See `read_parameters` and `check_strata`.
    """
    if not names:
        return {}
    found = read_parameters(folder)
    check_strata(names, found, folder, "data.stratify_by")
    return {p.key: ", ".join(stratum(found.get(p.id, {}), name, p.id) for name in names) for p in pairs}


def check_strata(
    names: Sequence[str], parameters: Mapping[str, Mapping[str, Value]], where: object, option: str = "--by"
) -> None:
    """Refuse a stratum that no case has.

    Raises:
        InputError: With the names that there are.
    """
    known = sorted({name for row in parameters.values() for name in row} | {CENTRE})
    for name in names:
        if name not in known:
            raise InputError(
                option,
                found=f"no parameter '{name}' in {where}",
                expected=f"one of {', '.join(known)}",
                advice="parameters are read from overviews/*_parameters.xlsx of the cohort; --parameters (data.parameters) names another folder",
            )


def tables_in_child(path: str) -> dict[str, Any]:
    """The sheets of a spreadsheet, called by name in the child process: `sheets`, pairs of a name and its rows of text or numbers."""
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise InputError(
            path,
            found="openpyxl isn't installed",
            expected="it, to read spreadsheets",
            advice='pip install "sctlab[clinical]", or save the sheet as CSV beside it',
        ) from error
    book = load_workbook(path, read_only=True, data_only=True)
    rows = {
        sheet.title: [[_plain(v) for v in row] for row in sheet.iter_rows(values_only=True)]
        for sheet in book.worksheets
    }
    return {"sheets": list(rows.items())}


def _plain(value: object) -> str | float | None:
    if value is None or isinstance(value, (str, float)):
        return value
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _read_file(path: Path) -> dict[str, dict[str, Value]]:
    if path.suffix.lower() == ".xlsx":
        sheets = read_in_child("sctlab.cohort.parameters:tables_in_child", path)["sheets"]
    else:
        try:
            text = path.read_text(encoding="utf-8-sig")
            first = next((line for line in text.splitlines() if any(mark in line for mark in ",;\t")), "")
            sheets = [("", list(csv.reader(io.StringIO(text), csv.Sniffer().sniff(first, ",;\t"))))]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(path, found=f"not a CSV ({error})", expected="a row for each case") from error
    tables = [(name, table) for name, rows in sheets if (table := _table(rows))]
    if not tables:
        raise InputError(
            path, found="no column of case ids", expected=f"a heading such as {', '.join(sorted(IDENTIFIERS))}"
        )
    several = len(tables) > 1
    found: dict[str, dict[str, Value]] = {}
    for sheet, table in tables:
        for case, row in table.items():
            prefix = f"{_snake(sheet)}_" if several else ""
            found.setdefault(case, {}).update({f"{prefix}{_snake(name)}": value for name, value in row.items()})
    return {case: _strata(row) | row for case, row in found.items()}


def _table(rows: Sequence[Sequence[Any]]) -> dict[str, dict[str, Value]]:
    """Case id and its values by heading; empty for a sheet without a heading of ids."""
    cells = ((k, c, cell) for k, row in enumerate(rows) for c, cell in enumerate(row) if isinstance(cell, str))
    place = next(((k, c) for k, c, cell in cells if _letters(cell) in IDENTIFIERS), None)
    if place is None:
        return {}
    start, first = place
    heading, table = rows[start], {}
    for row in rows[start + 1 :]:
        if len(row) <= first or row[first] in (None, ""):
            continue
        case = row[first] if isinstance(row[first], str) else f"{row[first]:g}"
        named = enumerate(zip(heading, row, strict=False))
        values = {str(h): _value(v) for k, (h, v) in named if k != first and h not in (None, "")}
        table[case.strip()] = {h: v for h, v in values.items() if v is not None}
    return table


def _strata(row: Mapping[str, Value]) -> dict[str, Value]:
    """The strata that a row's columns tell; a CT's own columns don't count."""
    letters = {name: _letters(name) for name in row if not re.match(r"(planning_)?ct(_|$)", name)}
    found = {}
    for stratum_name, endings in STRATA.items():
        fitting = [row[n] for ending in endings for n, text in letters.items() if text.endswith(ending)]
        if stratum_name in WORDS:
            fitting = [v for v in fitting if isinstance(v, str)]
        if fitting:
            found[stratum_name] = fitting[0]
    return found


def _value(cell: Any) -> Value | None:
    """A number where it is one, `1.5 T` too; None for an empty cell."""
    if cell is None or isinstance(cell, float):
        return None if cell is None or cell != cell else cell
    text = str(cell).strip()
    if text.casefold() in MISSING:
        return None
    number = re.fullmatch(r"([+-]?\d+(?:[.,]\d+)?)\s*T?", text)
    return float(number[1].replace(",", ".")) if number else text


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.casefold())


def _snake(text: str) -> str:
    """`MagneticFieldStrength` and `Magnetic field strength` to `magnetic_field_strength`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text.strip())
    return re.sub(r"[^a-z0-9]+", "_", words.casefold()).strip("_")
