"""A repository of weights as the tests publish it: its files, its recipe, and the command that fetches them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

from sctlab.commands.weights import app
from sctlab_model.bundle import installed_weights

RECIPE = """
recipe: {task: mri, canvas: {crop: none, fixed_yx: [512, 512]}, network: {encoder: resnet18}}
stages: [{name: all, iterations: 1}]
"""
PATHS = [f"models/Task_1/CV_{k}.pt" for k in range(2)]

MakeRegistry = Callable[..., Path]


def fetch(registry: Path, *options: str) -> Path:
    result = CliRunner().invoke(app, ["fetch", "short", "--registry", str(registry), *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return installed_weights() / "short"
