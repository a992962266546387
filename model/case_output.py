"""Where a case's results lie, what they say of themselves, and what is asked of the folder before hours are spent."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sctlab_model.cases import Case
from sctlab_model.errors import InputError, ProductError, ResourceError
from sctlab_model.io.atomic import remove_stale_parts, writing_error
from sctlab_model.io.paths import split_suffix
from sctlab_model.predictions import RECORD_SUFFIX, BundleUse, CaseResult

SPREAD_FOLDER = "uncertainty"
MEGABYTE = 1_000_000
SPARE_BYTES = 50 * MEGABYTE  # records, and what a nearly full disk refuses before it is full


def output_paths(case: Case, output: Path) -> tuple[Path, Path]:
    """Where a case's sCT is written, and the ensemble's spread."""
    name = Path(case.output_name)
    return output / name, output / SPREAD_FOLDER / (name.name if "images" in name.parts else name)


def record_path(case: Case, output: Path) -> Path:
    """Where a case's record is written."""
    path = output / case.output_name
    return path.with_name(split_suffix(path)[0] + RECORD_SUFFIX)


def header_texts(result: CaseResult, use: BundleUse) -> dict[str, str]:
    """What the sCT's own header says: short keys, ASCII, nothing of the patient."""
    implausible = {"sCT_Implausible": "accepted by the user"} if result.implausible else {}
    demonstration = {"sCT_Demonstration": "demonstration weights, not for clinical use"} if use.demonstration else {}
    texts = {
        "sCT_Software": f"sctlab {result.software.revision}",
        "sCT_Weights": use.id,
        "sCT_Folds": " ".join(map(str, result.folds)),
        "sCT_SourceSHA256": result.input_sha256.get("source", ""),
        **demonstration,
        **implausible,
    }
    return {key: text.encode("ascii", "replace").decode()[:200] for key, text in texts.items()}


def private(result: CaseResult, case: Case) -> CaseResult:
    """A result whose texts hold no folder of this machine."""
    folders = tuple({p for f in case.input_files for p in (f.parent, f.resolve().parent)})
    return result.model_copy(
        update={
            "warnings": [without_paths(w, folders) for w in result.warnings],
            "notes": [without_paths(n, folders) for n in result.notes],
            "error": without_paths(result.error, folders),
        }
    )


def without_paths(text: str, folders: tuple[Path, ...] = ()) -> str:
    """A message without folder names: what a record keeps is none of the next reader's business."""
    for folder in sorted({str(f) for f in folders if str(f) not in (".", "/")}, key=len, reverse=True):
        text = text.replace(f"{folder}/", "").replace(folder, Path(folder).name)
    return re.sub(r"(?<![\w.])/(?:[^/\s:;,()']+/)+", "", text)


def prepare_output(cases: Sequence[Case], out: Path, *, spread: bool = False, archive: bool = False) -> None:
    """Find out what is wrong with an output folder before hours are spent, and clear what killed runs left in it.

    Raises:
        InputError: The folder, or one below it, is a file or can't be written to.
        ResourceError: The disk hasn't the room that the results will take.
    """
    for folder in dict.fromkeys((out, *(path.parent for case in cases for path in output_paths(case, out)))):
        check_writable(folder)
    if out.is_dir():
        remove_stale_parts(out)
    needed = SPARE_BYTES + sum(_expected_bytes(case, spread=spread) for case in cases) * (2 if archive else 1)
    free = shutil.disk_usage(_existing(out)).free
    if needed > free:
        raise ResourceError(
            out,
            found=f"{free / MEGABYTE:,.0f} MB are free",
            expected=f"about {needed / MEGABYTE:,.0f} MB for {len(cases)} results",
            advice="free space or choose another --output",
        )


def check_writable(folder: Path) -> None:
    """Refuse a folder that can't be written to, or that can't be made. Nothing stays behind.

    Raises:
        InputError: It can't; with the part of the path that is in the way.
        ResourceError: The disk is full.
    """
    existing = _existing(folder)
    if not existing.is_dir():
        raise InputError(existing, found="can't be written (a file where a folder belongs)", expected="a folder")
    probe = existing / f".probe.{os.urandom(4).hex()}.part"
    try:
        with probe.open("wb") as handle:
            handle.write(b"\0" * 4096)
    except OSError as error:
        raise writing_error(folder, error) from error
    finally:
        with suppress(OSError):  # a read-only file system refuses this too, and would name the probe
            probe.unlink(missing_ok=True)


def refuse_replacing_inputs(cases: Sequence[Case], out: Path) -> None:
    """Refuse an output folder where a result would take the place of an input image.

    Raises:
        InputError: It would.
    """
    inputs = {p.resolve() for c in cases for p in c.input_files}
    for case in cases:
        for path in output_paths(case, out):
            if path.resolve() in inputs:
                raise InputError(
                    path,
                    found="the result would replace this input image",
                    expected="another folder",
                    advice="change --output",
                )


def is_full(folder: Path) -> bool:
    try:
        check_writable(folder)
        return shutil.disk_usage(folder).free < MEGABYTE
    except ProductError:
        return True
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _expected_bytes(case: Case, *, spread: bool) -> int:
    """A guess from above at what a case's results take: an sCT compresses like its source."""
    sizes = [p.stat().st_size for p in case.input_files[:1] if p.is_file()]
    size = max(sum(sizes), MEGABYTE)
    return size * (2 if spread else 1)


def _existing(path: Path) -> Path:
    """The path itself, or the nearest parent that is there."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists() or p.is_symlink())
