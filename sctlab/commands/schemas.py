"""`sctlab schemas`: JSON schemas of every record and of all settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def schemas(folder: Annotated[Path, typer.Argument(help="Where they go; docs/schemas in a checkout.")]) -> None:
    """Write the JSON schemas of every record on disk and of all settings."""
    from sctlab.workflow.schemas import write_schemas

    print(f"{len(write_schemas(folder))} files in {folder}")
