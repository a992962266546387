"""What `sctlab register` is asked for, looked at before what computes is imported: that takes seconds."""

from __future__ import annotations

from pathlib import Path

from sctlab.registration.records import FAILURE, PAIR
from sctlab_model.case_output import check_writable
from sctlab_model.cases import Region, Task, is_cohort
from sctlab_model.errors import InputError
from sctlab_model.io.paths import not_a_file
from sctlab_model.io.reading import read_header


def check_cohort(cohort: Path, out: Path) -> None:
    """Refuse a cohort that is none, or that its own result would replace.

    Raises:
        InputError: No such folder, no cohort, the same folder twice, or one that can't be written to.
    """
    if not cohort.is_dir():
        raise InputError(cohort, found="no such folder", expected="a cohort with Task1/ or Task2/")
    if not is_cohort(cohort):
        raise InputError(cohort, found="neither Task1/ nor Task2/ in it", expected="a SynthRAD cohort")
    if cohort.resolve() == out.resolve():
        raise InputError(out, found="the cohort's own folder", expected="another folder for the registered pairs")
    check_writable(out)


def check_images(*paths: Path | None) -> None:
    """Refuse images by what their headers give away; None is left out.

    Raises:
        InputError: No such file, or none of a format that is read.
    """
    for path in paths:
        if path is not None:
            if not path.is_file():
                raise InputError(path, found=not_a_file(path), expected="an image")
            read_header(path)


def check_results(folder: Path) -> None:
    """Refuse a folder without registered cases.

    Raises:
        InputError: No such folder, or nothing registered in it.
    """
    places = [f"{task.folder}/{region}/*/" for task in Task for region in Region] + [""]
    if not any(True for place in places for name in (PAIR, FAILURE) for _ in folder.glob(f"{place}{name}")):
        raise InputError(
            folder,
            found="no registered case",
            expected=f"Task{{1,2}}/{{AB,HN,TH}}/<ID>/{PAIR} or a pair's own {PAIR}, as `sctlab register` writes it",
        )
