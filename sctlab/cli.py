"""`sctlab`: one command, one subcommand a part; each is imported only when it is called."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import click
import typer
from rich.console import Console

from sctlab.workflow.signals import Terminated, sigterm_as_interrupt
from sctlab_model.errors import ExitCode, InputError, ProductError, meant
from sctlab_model.io.atomic import file_error
from sctlab_model.io.paths import expand_home
from sctlab_model.processors import start_process

# name → (module, attribute, one line for the listing). The attribute is a function or a typer.Typer.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "simulate": ("sctlab.commands.simulate", "simulate", "Make a cohort whose truth is known."),
    "register": ("sctlab.commands.register", "app", "Register pairs, or apply a registration."),
    "train": ("sctlab.commands.train", "train", "Train the folds of a recipe."),
    "pack": ("sctlab.commands.pack", "pack", "Turn runs into a weights bundle."),
    "export-onnx": ("sctlab.commands.pack", "export_onnx", "Add ONNX files to a bundle."),
    "predict": ("sctlab.commands.predict", "predict", "Synthesise a cohort with folds that did not see it."),
    "evaluate": ("sctlab.commands.evaluate", "evaluate", "Score predictions as the challenge does, and beyond."),
    "compare": ("sctlab.commands.compare", "compare", "Compare two evaluations case by case."),
    "rank": ("sctlab.commands.rank", "rank", "Rank methods by the challenge's scheme."),
    "gamma": ("sctlab.commands.gamma", "gamma", "Compare two dose files by the gamma index."),
    "study": ("sctlab.commands.study", "app", "Experiments on registration, and their tables."),
    "weights": ("sctlab.commands.weights", "app", "List, fetch and verify published weights."),
    "segment": ("sctlab.commands.segment", "segment", "Label the anatomy of a CT, CBCT, MR or sCT."),
    "anatomy": ("sctlab.commands.anatomy", "app", "Train the anatomy network."),
    "features": ("sctlab.commands.features", "app", "List or download feature extractors."),
    "schemas": ("sctlab.commands.schemas", "schemas", "Write the JSON schemas of records and settings."),
    "info": ("sctlab.commands.info", "info", "Versions, devices and the bundles that are here."),
}


# What `--help` ends with. A test follows every line.
EXAMPLES: dict[str, str] = {
    "simulate": "sctlab simulate cohort --task mri --regions AB,TH --cases 5 --spacing 2,2,3 --seed 1",
    "register": "sctlab register cohort registered --method impact",
    "register pairs": "sctlab register pairs out --fixed mr.nii.gz --moving ct.nii.gz --task mri --region AB",
    "register apply": "sctlab register apply transform.h5 ct.nii.gz moved.nii.gz --like mr.nii.gz",
    "register report": "sctlab register report registered/impact",
    "train": "sctlab train small-mri --pairs registered/impact --out runs/small --fold 0",
    "pack": "sctlab pack runs/small weights/my-weights",
    "export-onnx": "sctlab export-onnx weights/my-weights",
    "predict": "sctlab predict cohort --weights weights/my-weights --out predictions",
    "evaluate": "sctlab evaluate predictions --cohort cohort --out evaluation",
    "compare": "sctlab compare evaluation-a evaluation-b --out comparison",
    "rank": "sctlab rank evaluation-a evaluation-b --out ranking",
    "gamma": "sctlab gamma dose_sct.mha dose_ct.mha",
    "study run": "sctlab study run quick out/quick --dry-run",
    "study report": "sctlab study report out/quick",
    "study tables": "sctlab study tables scores.csv out/tables --against truth/truth",
    "weights fetch": "sctlab weights fetch impact-mri",
    "segment": "sctlab segment mr.nii.gz labels.nii.gz",
    "features download": "sctlab features download sam2.1-small --revision COMMIT",
}


# Typer has carried its own copy of click since 0.26: a command's endings and the group's are different classes.
_EXITS = (click.exceptions.Exit, typer.Exit)
_ABORTS = (KeyboardInterrupt, click.Abort, typer.Abort)
_USAGE_ERRORS: Any = (click.ClickException, typer.BadParameter.__mro__[2])


class _LazyGroup(click.Group):
    """Lists every command, imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[name]
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, typer.Typer):
            single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            single.command(name)(command)
            command = single
        made: Any = typer.main.get_command(command)  # of Typer's own copy of click
        made.name = name
        for words, example in EXAMPLES.items():
            first, _, rest = words.partition(" ")
            if first == name:
                (made.commands[rest] if rest else made).epilog = f"Example: {example}"
        return made

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            ctx.fail(f"No such command '{args[0]}'. {meant(args[0], COMMANDS)}".rstrip())
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the trace of an internal error.")
def app(debug: bool) -> None:
    """Synthetic CT laboratory: simulate, register, train, pack, predict, evaluate."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run a command and end with the product's exit codes."""
    start_process()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name that is no UTF-8 must not end the run that names it
            stream.reconfigure(errors="backslashreplace")
    arguments = expand_home(sys.argv[1:] if arguments is None else arguments)
    sys.exit(run(lambda: app.main(arguments, prog_name="sctlab", standalone_mode=False), debug="--debug" in arguments))


def run(command: Callable[[], object], *, debug: bool = False) -> int:
    """Call `command` and turn its ending into an exit code, with one line on stderr for an error."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if not debug:
        # Libraries' deprecation notes would stand between the lines meant for the user; workers inherit this.
        warnings.filterwarnings("ignore")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")
    try:
        with sigterm_as_interrupt():
            result = command()
        return int(result) if isinstance(result, int) else ExitCode.OK
    except ProductError as error:
        console.print(f"error: {error}", style="red", markup=False)
        return error.exit_code
    except _EXITS as error:
        return error.exit_code
    except _USAGE_ERRORS as error:
        error.message = error.message.replace("Value error, ", "")  # pydantic's word for it
        error.show()
        return ExitCode.BAD_INPUT
    except _ABORTS as error:
        terminated = isinstance(error, Terminated) or isinstance(error.__cause__, Terminated)  # click's Abort wraps it
        console.print(f"interrupted by {'SIGTERM' if terminated else 'Ctrl-C'}", style="red")
        return 128 + (signal.SIGTERM if terminated else signal.SIGINT)
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, OSError) and (known := file_error(error)) is not None:
            console.print(f"error: {known}", style="red", markup=False)
            return known.exit_code
        console.print(f"internal error: {type(error).__name__}: {error} (--debug shows the trace)", markup=False)
        return ExitCode.INTERNAL


__all__ = ["COMMANDS", "InputError", "app", "main", "run"]

if __name__ == "__main__":
    main()
