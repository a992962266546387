"""`sctlab info`: what is installed, which devices there are."""

from __future__ import annotations

import platform
from importlib import metadata

from rich.console import Console
from rich.table import Table

from sctlab.jobs import available_cpus


def info() -> None:
    """Print versions and devices."""
    import torch

    table = Table("what", "found")
    table.add_row("Python", platform.python_version())
    for name in ("torch", "segmentation-models-pytorch", "SimpleITK", "itk-elastix", "itk-rtk", "onnxruntime-gpu"):
        try:
            table.add_row(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            table.add_row(name, "not installed")
    table.add_row("processors", str(available_cpus()))
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    table.add_row("CUDA devices", ", ".join(names) or "none")
    Console().print(table)
