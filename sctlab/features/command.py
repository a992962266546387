"""`sctlab features`: which extractors there are, and how to get their weights."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sctlab.features.weights import SOURCES, download, local_weights

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="List or download the frozen feature extractors of the registration metric and the training loss.",
)


@app.command("list")
def list_extractors() -> None:
    """List the extractors: what each is, where its weights come from and whether they are here."""
    table = Table("name", "weights", "from", box=None, pad_edge=False)
    table.add_row("mind, mind-2d", "none needed", "built in: self-similarity; mind-r2-d3 sets radius and dilation")
    for name, source in SOURCES.items():
        state = "here" if local_weights(name) else ("download" if source.pinned else "needs a pin")
        table.add_row(name, state, f"{source.repository}/{source.file}; {source.note}")
    table.add_row("FILE.pt", "the file", "TorchScript: forward(x, nb_layers, stats, direction)")
    table.add_row("FILE.safetensors", "the file", "written by save_extractor (VGG, SAM, TotalSegmentator)")
    console = Console()
    console.print(table)
    console.print("needs a pin: no revision and hash were verified; give --revision and --sha256", highlight=False)


@app.command("download")
def download_extractor(
    name: Annotated[str, typer.Argument(help="Name from `sctlab features list`.")],
    revision: Annotated[str | None, typer.Option(help="Commit on the hub, instead of the recorded one.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Expected SHA-256 of the file.")] = None,
) -> None:
    """Download an extractor's weights from the Hugging Face hub and check their SHA-256."""
    path = download(name, revision=revision, sha256=sha256)
    Console().print(str(path), soft_wrap=True, highlight=False)
