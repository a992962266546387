"""`sctlab weights`: published weights by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sctlab.weights.registry import read_registry
from sctlab_model.bundle import MANIFEST, installed_bundle, installed_weights, weights_path
from sctlab_model.errors import ExitCode, WeightsError
from sctlab_model.monitor import ConsoleMonitor

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="List, fetch and verify published weights. A fetched name is a value of --weights.",
)
STATES = ("yes", "damaged", "no")
RegistryFile = Annotated[Path | None, typer.Option(help="A registry of your own instead of the product's.")]


@app.command("list")
def list_weights(registry: RegistryFile = None) -> None:
    """List the published weights: what they are, where they come from and whether they are here."""
    known = read_registry(registry)
    short = {name: alias for alias, name in known.aliases.items()}
    table = Table(
        "name", "task", "regions", "folds", "download", "pairs", "recipe", "licence", "from", "here", box=None
    )
    for w in known.weights:
        size = f"{w.bytes / 1e9:.1f} GB" if w.bytes else "?"
        names = " = ".join(filter(None, (short.get(w.name), w.name)))
        here = {_state(n) for n in (w.name, short.get(w.name, w.name))}
        regions = " ".join(str(r) for group in w.groups for r in group.regions)
        revision = f"@{w.revision}" if w.revision else ", needs --revision"
        table.add_row(
            names, w.task, regions, str(len(w.files) or "?"), size, w.registration.method, w.recipe, w.licence,
            f"{w.repository}{revision}", next(s for s in STATES if s in here),
        )  # fmt: skip
    Console(width=200 if not Console().is_terminal else None).print(table)


@app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="Name from `sctlab weights list`.")],
    from_: Annotated[
        str, typer.Option("--from", help="Folder that holds the files, or address of a mirror of the hub.")
    ] = "",
    revision: Annotated[str | None, typer.Option(help="Commit of 40 digits, instead of the recorded one.")] = None,
    registry: RegistryFile = None,
) -> None:
    """Fetch weights, check their SHA-256 and convert them into a bundle; run it again to go on after a break."""
    from sctlab.weights.install import install

    weights = read_registry(registry).find(name)
    with ConsoleMonitor(f"fetching {name}") as monitor:
        folder = install(weights, name=name, origin=from_, revision=revision, monitor=monitor)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{folder}\nuse it: --weights {name}")


@app.command("verify")
def verify_installed(
    names: Annotated[list[str] | None, typer.Argument(help="Installed names; all when left out.")] = None,
    registry: RegistryFile = None,
) -> int:
    """Check every file of the installed bundles against its hash, and their origin against the registry."""
    from sctlab.weights.install import unnamed_files, verify

    known = read_registry(registry)
    entries = {w.name: w for w in known.weights}
    here = names or _installed()
    console, errors = (Console(stderr=stderr, soft_wrap=True, highlight=False) for stderr in (False, True))
    failed = False
    for given in here:
        name = Path(given).name
        try:
            folder = installed_bundle(given) or weights_path(given)
            bundle = verify(folder, entries.get(known.aliases.get(name, name)))
            more = ", ".join(unnamed_files(folder, bundle))
            folds = sum(len(g.folds) for g in bundle.groups)
            console.print(
                f"{name}: {folds} {'fold' if folds == 1 else 'folds'}, ok" + (f" (unused: {more})" if more else ""),
                markup=False,
            )
        except WeightsError as error:
            failed = True
            errors.print(f"error: {name}: {error}", style="red", markup=False)
    if not here:
        console.print(f"no weights in {installed_weights()}")
    return int(ExitCode.BAD_WEIGHTS if failed else ExitCode.OK)


def _installed() -> list[str]:
    """Folders of installed weights, those that lost their manifest as well."""
    root = installed_weights()
    if (root / MANIFEST).is_file():
        return [str(root)]
    return sorted(str(p) for p in root.glob("[!.]*") if p.is_dir()) if root.is_dir() else []


def _state(name: str) -> str:
    """Whether weights are here, as one of `STATES`."""
    try:
        return "yes" if installed_bundle(name) else "no"
    except WeightsError:
        return "damaged"
