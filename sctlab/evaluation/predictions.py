"""Finding predictions: any of the product's layouts, folders of `sct_<ID>` files, zips; and matching them to cases."""

from __future__ import annotations

import re
import shutil
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sctlab_model.case_output import SPREAD_FOLDER
from sctlab_model.cases import Case, Region, Task
from sctlab_model.errors import InputError, ResourceError
from sctlab_model.io.atomic import writing_error
from sctlab_model.io.paths import SUFFIXES, split_suffix

PREFIX = "sct_"
# Files named for what they are instead of their case: the case is the folder's name (SynthRAD's layout).
GENERIC_STEMS = frozenset(("sct", "synthetic-ct", "synthetic_ct", "prediction"))
CHALLENGE_FOLDERS = ("images", "synthetic-ct")


@dataclass
class Matched:
    """Predictions sorted to cases; keys are task, region and id, as `CaseKey` writes them.

    Args:
        files: Case key and its one file.
        duplicates: Case key and its several files.
        ambiguous: Case key and the files that may be its prediction or that of a namesake in another task or region.
        missing: Keys of cases without a file.
        unknown: Files of no case of the cohort.
        spreads: Case key and the ensemble's standard deviation.
    """

    files: dict[str, Path] = field(default_factory=dict)
    duplicates: dict[str, list[Path]] = field(default_factory=dict)
    ambiguous: dict[str, list[Path]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unknown: list[Path] = field(default_factory=list)
    spreads: dict[str, Path] = field(default_factory=dict)


def check_predictions(predictions: Path) -> None:
    """Refuse what is neither a folder nor a zip.

    Raises:
        InputError: Nothing is there, or another file.
    """
    if predictions.is_dir():
        return
    found = "" if zipfile.is_zipfile(predictions) else "a file that isn't a zip"
    if not predictions.is_file():
        found = "no such folder or zip"
    if found:
        raise InputError(predictions, found=found, expected="a folder of predictions, or a zip of sct_<ID>.mha")


def unpacked(predictions: Path, scratch: Path) -> Path:
    """The folder of the predictions; a zip's images and JSON files are unpacked into `scratch`.

    Raises:
        InputError: No such folder or zip, or a damaged one.
    """
    check_predictions(predictions)
    if predictions.is_dir():
        return predictions
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(predictions) as archive:
            entries = [(entry, _bare_name(entry)) for entry in archive.infolist()]
            entries = [(entry, name) for entry, name in entries if name]
            needed, free = sum(e.file_size for e, _ in entries), shutil.disk_usage(scratch).free
            if needed > free:
                raise ResourceError(
                    predictions,
                    found=f"{needed / 1e9:.1f} GB when unpacked",
                    expected=f"at most {free / 1e9:.1f} GB, which are free in {scratch.parent}",
                )
            for index, (entry, name) in enumerate(entries):
                folder = scratch / str(index) if (scratch / name).exists() else scratch
                folder.mkdir(exist_ok=True)
                with archive.open(entry) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except OSError as error:
        raise writing_error(scratch, error) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: a password is needed
        raise InputError(predictions, found=f"a damaged zip ({error})", expected="a whole one") from error
    return scratch


def _bare_name(entry: zipfile.ZipInfo) -> str:
    """The file name of an image or JSON file in a zip, empty for anything else.

    Folders inside the zip carry no meaning, and could lead outside; Windows' own programs separate them by backslashes.
    """
    name = re.split(r"[/\\]", entry.filename)[-1]
    wanted = name.lower().endswith((*SUFFIXES, ".json")) and not name.startswith(".")
    return name if wanted and not entry.is_dir() else ""


def match_predictions(
    folder: Path, cases: Sequence[Case], known: Sequence[Case] | None = None, tasks: Sequence[Task] = tuple(Task)
) -> Matched:
    """Sort the image files below a folder to the cases.

    The case id is the file's name without `sct_` and suffix; for files called `sct`, it is their folder's name; in
    a Grand Challenge output (`<ID>/images/synthetic-ct/<any>.mha`) the folder above `images`, or the source's file
    name where that is the case id. Where several cases of the cohort share an id, the folders `Task1`, `Task2`, `AB`, `HN`
    and `TH` above the file tell them apart, and then `tasks`.

    Args:
        folder: Predictions.
        cases: The cases to evaluate.
        known: All cases of the cohort: files of those aren't called unknown. The cases themselves by default.
        tasks: What was predicted, as far as the predictions' record says.
    """
    namesakes: dict[str, dict[str, Case]] = defaultdict(dict)
    for case in (*(known or ()), *cases):
        namesakes[case.id][str(case.key)] = case
    wanted = {str(c.key) for c in cases}
    files: dict[str, list[Path]] = defaultdict(list)
    result = Matched()
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith(".") or split_suffix(path)[1] not in SUFFIXES:
            continue
        relative = path.relative_to(folder)
        is_spread = SPREAD_FOLDER in relative.parts[:-1] or split_suffix(path)[0].endswith("_spread")
        name = _case_id(relative, set(namesakes)).removesuffix("_spread" if is_spread else "")
        candidates = _narrowed(namesakes.get(name, {}), relative.parts[:-1], tasks)
        if is_spread:
            if len(candidates) == 1:
                result.spreads[candidates[0]] = path
        elif not candidates:
            result.unknown.append(path)
        elif len(candidates) == 1:
            files[candidates[0]].append(path)
        else:
            for key in candidates:
                result.ambiguous.setdefault(key, []).append(path)
    for key in sorted(wanted):
        paths = files.get(key, [])
        if len(paths) > 1:
            result.duplicates[key] = paths
        elif paths:
            result.files[key] = paths[0]
            result.ambiguous.pop(key, None)
        elif key not in result.ambiguous:
            result.missing.append(key)
    result.ambiguous = {k: v for k, v in result.ambiguous.items() if k in wanted}
    return result


def _narrowed(candidates: dict[str, Case], parts: Sequence[str], tasks: Sequence[Task]) -> list[str]:
    """Keys of the cases that a file below folders `parts` can belong to."""
    left = dict(candidates)
    named_tasks = [t for t in Task if t.folder in parts]
    named_regions = [r for r in Region if r.value in parts]
    if len(candidates) > 1:  # a lone case is known by its id alone, whatever the folders are called
        if named_tasks:
            left = {k: c for k, c in left.items() if c.task in named_tasks}
        if named_regions:
            left = {k: c for k, c in left.items() if c.region in named_regions}
        if len(left) > 1:
            left = {k: c for k, c in left.items() if c.task in tasks}
    return list(left)


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
