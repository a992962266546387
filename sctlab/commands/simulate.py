"""`sctlab simulate`: a cohort whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sctlab.commands.choices import one_of
from sctlab.commands.failures import print_failures
from sctlab.simulation.cohort import simulate_cohort
from sctlab.simulation.settings import SimulationSettings
from sctlab_model.cases import Region, Task
from sctlab_model.errors import InputError
from sctlab_model.monitor import ConsoleMonitor
from sctlab_model.settings import validate


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder of the cohort.")],
    task: Annotated[Task, one_of("--task", Task, "Source image.")] = Task.MRI,
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
    body_variation: Annotated[
        float, typer.Option(min=0, max=2, help="Warp a real CT (--from) into other patients; 1: as adults differ.")
    ] = 0.0,
    iodine: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the cases with a contrast medium in blood and organs.")
    ] = 0.0,
    centre: Annotated[
        str, typer.Option(help="Centre letter of the case ids; another one keeps cohorts of other seeds apart.")
    ] = "S",
    fractions: Annotated[
        bool,
        typer.Option(help="Keep what the MR's voxels are made of (truth/fractions.npz): training can draw contrasts."),
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cases at a time; 1 when left out, on Ray a case a core or GPU.")
    ] = None,
    executor: Annotated[str, one_of("--executor", ("local", "ray"), "Processes here, or a cluster.")] = "local",
) -> int:
    """Simulate pairs of MR or CBCT and CT in the SynthRAD layout, with the truth beside them.

    Cases that are there already are kept: an interrupted run goes on where it stopped.
    """
    settings = validate(
        SimulationSettings,
        {
            "task": task,
            "regions": [Region.parse(r, "--regions") for r in regions.split(",") if r.strip()],
            "cases": cases,
            "centre": centre,
            "case": {
                "spacing_xyz": _triple(spacing, float, "--spacing"),
                "size_xyz": _triple(size, int, "--size") if size else None,
                "amplitude_mm": amplitude,
                "content": content,
                "seed": seed,
                "fractions": fractions,
                "body_variation": body_variation,
                "iodine": iodine,
            },
            "cts": [str(path) for path in from_ct],
            "labels": [str(path) for path in labels],
        },
        "options (--regions, --spacing, --size, --centre, --labels)",
    )
    with ConsoleMonitor(f"simulate {task}") as monitor:
        result = simulate_cohort(out, settings, jobs=jobs, executor=executor, monitor=monitor)
    print_failures(result.outcomes)
    return int(result.exit_code)


def _triple(text: str, kind: type, option: str) -> tuple:
    try:
        values = tuple(kind(v) for v in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise InputError(option, found=f"'{text}'", expected="three numbers x,y,z separated by commas")
    return values
