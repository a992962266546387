"""Layouts of input: each finds its cases. A new layout is one file that defines a `Layout` and registers it.

Modules of this folder are imported when a folder is first looked at. Layouts of other packages (a DICOM series, say)
call `register` when they are imported; this package knows nothing of them.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from sctlab_model.cases.types import Case, Region, Task
from sctlab_model.errors import InputError

if TYPE_CHECKING:
    from sctlab_model.volume import Volume


@dataclass(frozen=True)
class Selection:
    """Which cases are wanted, and what the input itself may not say.

    Args:
        task: Only this task; for flat folders and single images: what they are.
        region: Only this region; for flat folders and single images: the region where no file says it.
        mask: Body mask of a single image.
    """

    task: Task | None = None
    region: Region | None = None
    mask: Path | Volume | None = None


@dataclass(frozen=True)
class LeftOut:
    """Something that looks like input and was not taken, with the reason."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True)
class CaseList:
    """What a layout found.

    Args:
        cases: Sorted by task, region and id.
        left_out: What was left out without being asked to: commands name it and end with exit code 1.
        notes: Lines worth a warning, such as links that were followed.
        layout: Name of the layout.
    """

    cases: tuple[Case, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    layout: str = ""


class Layout(ABC):
    """One way in which cases lie in a folder.

    `order` says when it is asked: the first layout that recognises a path reads it. `several` is False where a path
    of this layout is always one case.
    """

    name: ClassVar[str]
    order: ClassVar[int]
    several: ClassVar[bool] = True

    @abstractmethod
    def recognises(self, root: Path) -> bool:
        """Whether this layout reads `root`, which exists."""

    @abstractmethod
    def find(self, root: Path, selection: Selection) -> CaseList:
        """The cases below `root`.

        Raises:
            InputError: No case, or input that can't be used as a whole.
        """


Registered = TypeVar("Registered", bound=type[Layout])
_layouts: dict[str, Layout] = {}


def register(layout: Registered) -> Registered:
    """Add a layout (a class decorator)."""
    _layouts[layout.name] = layout()
    return layout


def layouts() -> list[Layout]:
    """Every layout, in the order in which they are asked."""
    package = importlib.import_module("sctlab_model.cases")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"sctlab_model.cases.{module.name}")
    return sorted(_layouts.values(), key=lambda layout: layout.order)


def layout_of(root: Path) -> Layout:
    """The layout that reads a path.

    Raises:
        InputError: No such path.
    """
    if not root.exists():
        found = "a link to nothing" if root.is_symlink() else "no such file or folder"
        raise InputError(root, found=found, expected="a case, a cohort, a folder of images or an image")
    return next(layout for layout in layouts() if layout.recognises(root))


def find_cases(root: str | Path, selection: Selection | None = None) -> CaseList:
    """The cases of a file or folder, by the layout that it has.

    Raises:
        InputError: No such path, no case, or options that the layout needs or has no use for.
    """
    root, selection = Path(root), selection or Selection()
    layout = layout_of(root)
    if selection.mask is not None and layout.name != "image":
        raise InputError("--mask", found=f"given for the folder {root}", expected="a single image as --input")
    return replace(layout.find(root, selection), layout=layout.name)
