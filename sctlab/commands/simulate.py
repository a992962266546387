"""`sctlab simulate`: a cohort whose truth is known."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sctlab.simulation.case import Options, case_id, simulate_case
from sctlab.workflow.jobs import run_jobs, summarise
from sctlab_model.cases import Region, Task
from sctlab_model.errors import InputError


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder of the cohort.")],
    task: Annotated[Task, typer.Option(help="Source image: mri or cbct.")] = Task.MRI,
    regions: Annotated[str, typer.Option(help="AB, TH, HN, separated by commas.")] = "AB,TH,HN",
    cases: Annotated[int, typer.Option(min=1, help="Cases per region.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    spacing: Annotated[str, typer.Option(help="Voxel pitch x,y,z in mm.")] = "1,1,3",
    size: Annotated[str, typer.Option(help="Voxels x,y,z of the source image; default: what the region covers.")] = "",
    amplitude: Annotated[
        float, typer.Option(min=0, max=40, help="Motion between CT and source, mm (95th percentile).")
    ] = 8.0,
    content: Annotated[float, typer.Option(min=0, max=2, help="How much bowel content changes; 0: none.")] = 1.0,
    from_ct: Annotated[
        list[Path], typer.Option("--from", help="Start from this CT (image file or DICOM folder); may be repeated.")
    ] = [],  # noqa: B006
    labels: Annotated[
        list[Path], typer.Option(help="Labels of the CT (TotalSegmentator ids), one for each --from.")
    ] = [],  # noqa: B006
    centre: Annotated[
        str, typer.Option(help="Centre letter of the case ids; another one keeps cohorts of other seeds apart.")
    ] = "S",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cases at a time; 1 when left out, on Ray a case a core or GPU.")
    ] = None,
    executor: Annotated[str, typer.Option(help="local or ray.")] = "local",
) -> int:
    """Simulate pairs of MR or CBCT and CT in the SynthRAD layout, with the truth beside them.

    Cases that are there already are kept: an interrupted run goes on where it stopped.
    """
    chosen = [Region.parse(r, "--regions") for r in regions.split(",") if r.strip()]
    if not chosen:
        raise InputError("--regions", found=f"'{regions}'", expected="AB, TH, HN, separated by commas")
    if not (len(centre) == 1 and centre.isalpha() and centre.isupper()):
        raise InputError("--centre", found=f"'{centre}'", expected="one capital letter")
    spacing_xyz = _triple(spacing, float, "--spacing")
    size_xyz = _triple(size, int, "--size") if size else None
    if min(spacing_xyz) < 0.3 or max(spacing_xyz) > 10:
        raise InputError("--spacing", found=spacing, expected="0.3 to 10 mm")
    if size_xyz and (min(size_xyz) < 8 or max(size_xyz) > 1024):
        raise InputError("--size", found=size, expected="8 to 1024 voxels")
    if labels and len(labels) != len(from_ct):
        raise InputError(
            "--labels", found=f"{len(labels)} label files", expected=f"one for each of the {len(from_ct)} --from"
        )
    work = []
    for region in chosen:
        for index in range(cases):
            ct = from_ct[index % len(from_ct)] if from_ct else None
            label = labels[index % len(from_ct)] if labels else None
            options = Options(
                spacing_xyz, size_xyz, amplitude, content, seed, str(ct) if ct else None, str(label) if label else None
            )
            folder = out / task.folder / region / case_id(task, region, index, centre)
            if not _finished(folder, options, task, index):
                work.append((folder.name, (folder, task, region, index, options)))
    console = Console(stderr=True)
    there = len(chosen) * cases - len(work)
    if there:
        console.print(f"{there} cases are there already")
    outcomes = run_jobs(simulate_case, work, title=f"simulate {task}", processes=jobs, executor=executor)
    return int(summarise(outcomes))


def _triple(text: str, kind: type, option: str) -> tuple:
    try:
        values = tuple(kind(v) for v in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise InputError(option, found=f"'{text}'", expected="three numbers x,y,z separated by commas")
    return values


def _finished(folder: Path, options: Options, task: Task, index: int) -> bool:
    """Whether the case is there and was made with these options.

    Raises:
        InputError: It was made with others.
    """
    path = folder / "truth" / "truth.json"
    if not path.is_file():
        return False
    found = json.loads(path.read_text(encoding="utf-8")).get("options")
    wanted = json.loads(json.dumps(asdict(options) | {"task": str(task), "index": index}))
    if found != wanted:
        other = {k: v for k, v in (found or {}).items() if wanted.get(k) != v}
        raise InputError(
            folder,
            found=f"a case made with {other}",
            expected="the options of this run",
            advice="choose another folder",
        )
    return True
