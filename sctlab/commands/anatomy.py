"""`sctlab anatomy`: train the anatomy network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sctlab_model.case_output import check_writable
from sctlab_model.monitor import ConsoleMonitor
from sctlab_model.settings import load_yaml

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The network that segments, registers and judges (`sctlab segment` uses it).",
)


@app.callback()
def _group() -> None:
    """Keeps `train` a subcommand."""


@app.command("train")
def train(
    plan: Annotated[Path, typer.Argument(help="YAML with the fields of AnatomySettings: sources, iterations, seed …")],
    out: Annotated[Path, typer.Argument(help="Folder of the run; a run that stopped there goes on.")],
) -> int:
    """Train an anatomy network on bodies drawn and warped, seen as CT, CBCT and MR of any contrast.

    Result: OUT/anatomy.safetensors, for `sctlab segment --weights` and as an extractor in presets and recipes.
    """
    from sctlab.anatomy.settings import AnatomySettings

    settings = load_yaml(AnatomySettings, plan)  # refused before what trains is imported
    check_writable(out)
    from sctlab.anatomy.training import train_anatomy

    with ConsoleMonitor("anatomy") as monitor:
        result = train_anatomy(settings, out, monitor)
    Console().print(str(result.weights), soft_wrap=True, highlight=False)
    return 0
