"""Tables and the figure of the real images of a study."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sctlab.reporting import number
from sctlab.study.cells import StudyFiles
from sctlab.study.figures import Row, real_figure
from sctlab.study.names import digits_of, label_of
from sctlab.study.plan import StudyPlan
from sctlab.study.real import OWN_CT, QUANTITIES, case_of, own_ct, real_folder
from sctlab.study.scoring import prediction_files
from sctlab_model.body import body_mask
from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_volume
from sctlab_model.volume import Volume

KEYS = ("train", "image", "seed", "fold")


def columns_of(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Of `real.csv`: the measures that are there, then those of single organs."""
    there = dict.fromkeys(key for row in rows for key in row if key not in KEYS)
    return (*KEYS, *(q for q in QUANTITIES if q in there), *(q for q in there if q not in QUANTITIES))


def real_tables(rows: Sequence[dict[str, Any]], plan: StudyPlan) -> list[dict[str, Any]]:
    """A table an image, and another one of its organs' HU: trainings down, measures across; the mean over networks and, of
    several, the lowest and the highest. An image is one patient: there is no interval over cases."""
    tables = []
    for name, image in plan.real.items():
        own = [row for row in rows if row["image"] == name]
        organs = {f"hu_{o}": _organ(o, organ.hu) for o, organ in image.organs.items()}
        dices = {f"dice_{o}": f"Dice, {o.replace('_', ' ')}" for o in image.organs}
        for title, heads in (
            (name, {q: label_of(q) for q in QUANTITIES}),
            (f"{name}: organs", organs | dices),
        ):
            there = [key for key in heads if any(key in row for row in own)]
            if not there:
                continue
            trainings = dict.fromkeys(str(row["train"]) for row in own)
            lines = [
                [train, *(_cell([r[key] for r in own if r["train"] == train and key in r], key) for key in there)]
                for train in trainings
            ]
            tables.append({"title": title, "columns": [heads[key] for key in there], "rows": lines})
    return tables


def real_picture(files: StudyFiles) -> bytes | None:
    """A line an image: the source, every training's sCT by its first network, and the patient's own CT."""
    lines = []
    for name in files.plan.real:
        with suppress(InputError):  # the image is not here: its failures say so
            lines.append(_line(files, name))
    return real_figure([line for line in lines if line.images])


def _line(files: StudyFiles, name: str) -> Row:
    image = files.plan.real[name]
    source = read_volume(image.source)
    ct, _ = own_ct(image, source)
    made: dict[str, Volume] = {}
    for cell in files.cells:
        if files.plan.cohorts[cell.cohort].of_task is image.task and files.train_name(cell) not in made:
            with suppress(InputError):  # not predicted
                path, _ = prediction_files(real_folder(files, cell, 0, name), case_of(image))
                made[files.train_name(cell)] = read_volume(path)
    if made and ct is not None:
        made[OWN_CT] = ct
    return Row(name, source, body_mask(source, image.task).array > 0, made)


def _organ(name: str, hu: tuple[float, float] | None) -> str:
    """Head of a column."""
    expected = f", expected {hu[0]:g} to {hu[1]:g}" if hu is not None else ""
    return f"{name.replace('_', ' ')} (HU{expected})"


def _cell(values: Sequence[float], key: str) -> str:
    if not values:
        return "–"
    digits = 0 if key.startswith("hu_") and key not in QUANTITIES else 2 if key.startswith("dice_") else digits_of(key)
    text = number(sum(values) / len(values), digits)
    return text if len(values) == 1 else f"{text} ({number(min(values), digits)} to {number(max(values), digits)})"
