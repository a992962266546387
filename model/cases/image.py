"""A single image file as a case."""

from __future__ import annotations

from pathlib import Path

from sctlab_model.cases.files import refuse_dicom, result_name, unreadable_name
from sctlab_model.cases.layouts import CaseList, Layout, Selection, register
from sctlab_model.cases.types import Case, Region, Task
from sctlab_model.errors import InputError
from sctlab_model.io.paths import not_a_file, split_suffix


@register
class ImageLayout(Layout):
    """One file."""

    name, order, several = "image", 30, False

    def recognises(self, root: Path) -> bool:
        """It is a file."""
        return root.is_file()

    def find(self, root: Path, selection: Selection) -> CaseList:
        """The file, with the mask and region that were given."""
        refuse_dicom(root)
        if selection.task is None:
            raise InputError(
                "--task", found="not given", expected="mri or cbct, because a single image doesn't say what it is"
            )
        mask = selection.mask
        if mask is not None and not isinstance(mask, Path):
            raise InputError("--mask", found="an image in memory", expected="a file")
        return CaseList((single_case(root, selection.task, mask, selection.region),))


def single_case(source: str | Path, task: Task, mask: str | Path | None = None, region: Region | None = None) -> Case:
    """One image file as a case.

    Raises:
        InputError: No such image or mask.
    """
    source = Path(source)
    if not source.is_file():
        raise InputError(source, found=not_a_file(source), expected="an image")
    mask = Path(mask) if mask is not None else None
    if mask is not None and not mask.is_file():
        raise InputError(mask, found=not_a_file(mask), expected="a body mask")
    return Case(
        id=split_suffix(source)[0],
        task=task,
        source=source,
        mask=mask,
        region=region,
        output_name=result_name(source),
        problem=unreadable_name(source),
    )
