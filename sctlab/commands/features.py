"""`sctlab features`: which extractors there are, and how to get their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sctlab.features.weights import SOURCES, download, local_weights
from sctlab_model.errors import InputError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="List, download or import the frozen feature extractors of the registration metric and the training loss.",
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
    table.add_row("FILE.safetensors", "the file", "written by `sctlab features import` (nnU-Net, TotalSegmentator)")
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


@app.command("import")
def import_extractor(
    plans: Annotated[Path, typer.Argument(help="plans.json of nnU-Net.")],
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint_final.pth beside it.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    configuration: Annotated[str, typer.Option(help="Configuration of the plans.")] = "3d_fullres",
) -> None:
    """Make an extractor of an nnU-Net model (TotalSegmentator's are): its encoder, decoder and head."""
    from sctlab.features.registry import import_nnunet, load_extractor

    if out.suffix != ".safetensors":
        raise InputError(str(out), found=f"suffix '{out.suffix}'", expected=".safetensors")
    extractor = load_extractor(import_nnunet(plans, checkpoint, out, configuration=configuration))
    table = Table("layer", "name", "channels", "stride", box=None, pad_edge=False)
    for index, layer in enumerate(extractor.layers):
        table.add_row(str(index), layer.name, str(layer.channels), str(layer.stride))
    console = Console()
    console.print(table)
    console.print(str(out), soft_wrap=True, highlight=False)
