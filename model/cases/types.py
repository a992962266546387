"""What a case is: its task, its region, its key, and where its images come from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from sctlab_model.choices import chosen
from sctlab_model.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sctlab_model.volume import Geometry, Volume

NO_REGION = "-"
# What people call a source image beside its name here.
_TASKS = {
    "mr": "mri",
    "mrt": "mri",
    "task1": "mri",
    "task_1": "mri",
    "cone_beam": "cbct",
    "task2": "cbct",
    "task_2": "cbct",
}


class Task(StrEnum):
    """What the source image is. SynthRAD's Task 1 is MR to CT, Task 2 is CBCT to CT."""

    MRI = "mri"
    CBCT = "cbct"

    @property
    def folder(self) -> str:
        """Folder of a SynthRAD cohort."""
        return "Task1" if self is Task.MRI else "Task2"

    @property
    def source_name(self) -> str:
        """File stem of the source image in a SynthRAD case folder."""
        return "mr" if self is Task.MRI else "cbct"

    @classmethod
    def parse(cls, text: str, where: object) -> Task:
        """Read a task as people write it: `MR`, `mri`, `CBCT`, `Task1`.

        Raises:
            InputError: Another word.

        Example:
            >>> Task.parse("MR", "--task")
            <Task.MRI: 'mri'>
        """
        return cls(chosen(text, cls, where, synonyms=_TASKS))


class Region(StrEnum):
    """Body region, by SynthRAD's folder names."""

    AB = "AB"
    HN = "HN"
    TH = "TH"

    @property
    def full_name(self) -> str:
        """The name that Grand Challenge uses in region.json."""
        return {"AB": "Abdomen", "HN": "Head and Neck", "TH": "Thorax"}[self.value]

    @classmethod
    def parse(cls, text: str, where: object) -> Region:
        """Read a folder name (`AB`) or a title (`Abdomen`), whatever the case, spaces or hyphens.

        Example:
            >>> Region.parse("head and neck", "region.json")
            <Region.HN: 'HN'>
        """
        words = {r.full_name.lower().replace(" ", "_"): str(r) for r in cls}
        try:
            return cls(chosen(text, cls, where, synonyms=words))
        except InputError as error:
            known = ", ".join(f"{r.value} ({r.full_name})" for r in cls)
            raise InputError(where, found=f"unknown region '{text}'", expected=known) from error


@dataclass(frozen=True)
class CaseKey:
    """The identity of a case everywhere: in records, in resuming, in zips.

    Two cases may share an id (one patient in both tasks, or two regions of one patient); they never share a key.

    Example:
        >>> str(CaseKey(Task.MRI, Region.AB, "1ABA001"))
        'Task1/AB/1ABA001'
        >>> CaseKey.parse("Task2/-/scan").region is None
        True
    """

    task: Task
    region: Region | None
    id: str

    def __str__(self) -> str:
        return f"{self.task.folder}/{self.region or NO_REGION}/{self.id}"

    @classmethod
    def parse(cls, text: str, where: object = "case key") -> CaseKey:
        """Read what `str` gives.

        Raises:
            InputError: Not three parts, or an unknown task or region.
        """
        folder, _, rest = text.partition("/")
        region, separator, case_id = rest.partition("/")
        task = {t.folder: t for t in Task}.get(folder)
        if task is None or not separator or not case_id:
            raise InputError(where, found=f"'{text}'", expected="a case key such as Task1/AB/1ABA001")
        return cls(task, None if region == NO_REGION else Region.parse(region, where), case_id)


@runtime_checkable
class ImageSource(Protocol):
    """An image that is not one file: a DICOM series, an image of a database. Whoever knows the format implements it."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it is read from, for their hashes; empty where there are none."""
        ...

    def read(self) -> Volume:
        """Read the image.

        Raises:
            InputError: It can't be read, or isn't what it should be.
        """
        ...


@dataclass(frozen=True)
class Case:
    """One source image to be synthesised, or one pair.

    Args:
        id: Case id (`1ABA001`), or the file's stem.
        task: What the source is.
        source: The MR or CBCT: a file, a volume in memory, or an `ImageSource`.
        mask: Body mask; None when there is none.
        region: None when it isn't known.
        target: The CT, where the case has one.
        folder: The case folder of a cohort.
        output_name: File name of the result relative to the output folder.
        problem: Why it can't be used, where that was seen while a folder was listed.
        has_masks: Masks belong to its layout, or lie beside its neighbours: that it has none is worth a warning.
    """

    id: str
    task: Task
    source: Path | Volume | ImageSource
    mask: Path | Volume | ImageSource | None = None
    region: Region | None = None
    target: Path | None = None
    folder: Path | None = None
    output_name: str = ""
    problem: InputError | None = None
    has_masks: bool = False

    @property
    def key(self) -> CaseKey:
        """Task, region and id."""
        return CaseKey(self.task, self.region, self.id)

    @property
    def source_file(self) -> Path:
        """The source's file, for stages that work on files.

        Raises:
            InputError: The source is no file.
        """
        return _file(self.source)

    @property
    def mask_file(self) -> Path | None:
        """The mask's file, or None where there is no mask.

        Raises:
            InputError: The mask is no file.
        """
        return None if self.mask is None else _file(self.mask)

    def read_source(self, working_bytes: Callable[[Geometry], int] | None = None) -> Volume:
        """The source's voxels.

        Args:
            working_bytes: Memory that the caller will take for an image on a grid, beyond the voxels.

        Raises:
            InputError: It can't be read.
            ResourceError: There is less memory than that.
        """
        return read_image(self.source, working_bytes)

    def read_mask(self) -> Volume | None:
        """The body mask, boolean; None where there is none.

        Raises:
            InputError: It can't be read.
        """
        if self.mask is None:
            return None
        mask = read_image(self.mask)
        return mask.with_array(mask.array > 0)

    @property
    def input_files(self) -> tuple[Path, ...]:
        """Every file that the case is read from."""
        images = (self.source, self.mask, self.target)
        return tuple(path for image in images if image is not None for path in files_of(image))


def read_image(source: Path | Volume | ImageSource, working_bytes: Callable[[Geometry], int] | None = None) -> Volume:
    """The voxels of a source, whatever it is.

    Raises:
        InputError: It can't be read.
        ResourceError: Reading and `working_bytes` take more memory than there is.
    """
    working_bytes = working_bytes or (lambda grid: 0)
    if isinstance(source, Path):
        from sctlab_model.io.reading import read_volume

        return read_volume(source, working_bytes=working_bytes)
    volume = source.read() if isinstance(source, ImageSource) else source
    from sctlab_model.limits import check_memory

    check_memory(name_of(source), working_bytes(volume.geometry), "synthesis")
    return volume


def files_of(source: Path | Volume | ImageSource) -> tuple[Path, ...]:
    """The files that a source is read from; empty for voxels in memory."""
    if isinstance(source, Path):
        return (source,)
    return tuple(source.files) if isinstance(source, ImageSource) else ()


def name_of(source: Path | Volume | ImageSource) -> str:
    """What messages call a source: a file's path, else its name."""
    return str(source) if isinstance(source, Path) else source.name or "image"


def _file(source: Path | Volume | ImageSource) -> Path:
    if isinstance(source, Path):
        return source
    raise InputError(name_of(source), found="an image that is no single file", expected="an image file")
