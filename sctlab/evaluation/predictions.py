"""Finding predictions: any of the product's layouts, folders of `sct_<ID>` files, zips; and matching them to cases."""

from __future__ import annotations

import shutil
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sctlab_model.cases import Case
from sctlab_model.errors import InputError
from sctlab_model.io.writing import SUFFIXES, split_suffix
from sctlab_model.synthesiser import SPREAD_FOLDER

PREFIX = "sct_"
# Files named for what they are instead of their case: the case is the folder's name (SynthRAD's layout).
GENERIC_STEMS = frozenset(("sct", "synthetic-ct", "synthetic_ct", "prediction"))
CHALLENGE_FOLDERS = ("images", "synthetic-ct")


@dataclass
class Matched:
    """Predictions sorted to cases.

    Args:
        found: Case id → its one file.
        duplicates: Case id → its several files.
        missing: Cases without a file.
        unknown: Files of no case of the cohort.
        spreads: Case id → the ensemble's standard deviation.
    """

    found: dict[str, Path] = field(default_factory=dict)
    duplicates: dict[str, list[Path]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unknown: list[Path] = field(default_factory=list)
    spreads: dict[str, Path] = field(default_factory=dict)


def unpacked(predictions: Path, scratch: Path) -> Path:
    """The folder of the predictions; a zip's images and JSON files are unpacked into `scratch`.

    Raises:
        InputError: No such folder or zip, or a damaged one.
    """
    if predictions.is_dir():
        return predictions
    if not predictions.is_file():
        raise InputError(
            predictions, found="no such folder or zip", expected="a folder of predictions, or a zip of sct_<ID>.mha"
        )
    if not zipfile.is_zipfile(predictions):
        raise InputError(
            predictions, found="a file that isn't a zip", expected="a folder of predictions, or a zip of sct_<ID>.mha"
        )
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(predictions) as archive:
            for index, entry in enumerate(archive.infolist()):
                name = Path(entry.filename).name  # folders inside the zip carry no meaning, and could lead outside
                if entry.is_dir() or not (name.endswith(SUFFIXES) or name.endswith(".json")) or name.startswith("."):
                    continue
                folder = scratch / str(index) if (scratch / name).exists() else scratch
                folder.mkdir(exist_ok=True)
                with archive.open(entry) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, OSError, RuntimeError) as error:
        raise InputError(predictions, found=f"a damaged zip ({error})", expected="a whole one") from error
    return scratch


def match_predictions(folder: Path, cases: Sequence[Case], known: Sequence[Case] | None = None) -> Matched:
    """Sort the image files below a folder to the cases.

    The case id is the file's name without `sct_` and suffix; for files called `sct`, it is their folder's name; in
    a Grand Challenge output (`<ID>/images/synthetic-ct/<any>.mha`) the folder above `images`, or the source's file
    name where that is the case id.

    Args:
        folder: Predictions.
        cases: The cases to evaluate.
        known: All cases of the cohort: files of those aren't called unknown. The cases themselves by default.
    """
    ids = {c.id for c in cases}
    known_ids = ids | {c.id for c in known or ()}
    files: dict[str, list[Path]] = defaultdict(list)
    result = Matched()
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith(".") or split_suffix(path)[1] not in SUFFIXES:
            continue
        relative = path.relative_to(folder)
        name = _case_id(relative, known_ids)
        if SPREAD_FOLDER in relative.parts[:-1] or split_suffix(path)[0].endswith("_spread"):
            result.spreads[name.removesuffix("_spread")] = path
        elif name in ids:
            files[name].append(path)
        elif name not in known_ids:
            result.unknown.append(path)
    for name in sorted(ids):
        paths = files.get(name, [])
        if not paths:
            result.missing.append(name)
        elif len(paths) > 1:
            result.duplicates[name] = paths
        else:
            result.found[name] = paths[0]
    return result


def _case_id(relative: Path, known: set[str]) -> str:
    stem = split_suffix(relative)[0]
    if stem not in known and stem.removeprefix(PREFIX) in known:
        return stem.removeprefix(PREFIX)
    if stem in known:
        return stem
    parts = relative.parts[:-1]
    if parts[-2:] == CHALLENGE_FOLDERS and len(parts) > 2:
        return parts[-3]
    if stem.lower() in GENERIC_STEMS and parts:
        return parts[-1]
    return stem
