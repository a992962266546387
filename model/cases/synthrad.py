"""SynthRAD cohorts: `Task{1,2}/{AB,HN,TH}/<ID>/{mr|cbct,ct,mask}.*`, or a part of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sctlab_model.cases.files import (
    describe_links,
    dicom_files,
    find_image,
    list_images,
    result_name,
    shorten,
    unreadable_name,
)
from sctlab_model.cases.layouts import CaseList, Layout, LeftOut, Selection, register
from sctlab_model.cases.types import Case, Region, Task
from sctlab_model.errors import InputError
from sctlab_model.io.paths import split_suffix

REGIONS = {r.value: r for r in Region}
TASKS = {t.folder: t for t in Task}


@register
class SynthradLayout(Layout):
    """A cohort, one of its tasks, one of its regions, or one case folder."""

    name, order = "synthrad", 20

    def recognises(self, root: Path) -> bool:
        """It has the folders of a cohort, or is one of them."""
        return is_cohort(root)

    def find(self, root: Path, selection: Selection) -> CaseList:
        """Every case of the wanted task and region; a case folder that can't be used is that case's problem."""
        cases = _find(root, selection.task, selection.region, keep_problems=True)
        files = [path for case in cases for path in case.input_files]
        left_out = _left_out(root, cases, selection)
        return CaseList(tuple(cases), tuple(left_out), tuple(describe_links(files, root)))


def is_cohort(root: Path) -> bool:
    """Whether a folder has SynthRAD's Task1 or Task2 folders, or is one of them or a part of one."""
    return root.is_dir() and bool(_scopes(root))


def find_cohort(root: str | Path, *, task: Task | None = None, region: Region | None = None) -> list[Case]:
    """Cases of a SynthRAD cohort: `Task{1,2}/{AB,HN,TH}/<ID>/{mr|cbct,ct,mask}.*`, sorted by task, region, id.

    `root` may also be a task's folder, a region's folder in it, or one case folder; relative paths such as `.` too.
    The target is `ct.*`, or `ct_def.*` where only that is there; SynthRAD's validation folders have none.
    Case folders without a source are skipped here: `SynthradLayout` names them, and `sctlab.cohort.pairs` lists what a
    pair lacks.

    Raises:
        InputError: No such folder, no case in it, or a case with several images of one name.
    """
    return _find(Path(root), task, region, keep_problems=False)


def _find(root: Path, task: Task | None, region: Region | None, *, keep_problems: bool) -> list[Case]:
    if not root.is_dir():
        raise InputError(root, found="no such folder", expected="a cohort with Task1/ or Task2/")
    cases = []
    for this_task, this_region, folder in _case_folders(root, task, region):
        try:
            case = _read_case(folder, this_task, this_region)
        except InputError as error:
            if not keep_problems:
                raise
            name = f"{this_region}/{folder.name}.mha"
            case = Case(folder.name, this_task, folder, region=this_region, output_name=name, problem=error)
        if case is not None:
            cases.append(case)
    if not cases:
        wanted = "/".join((task.folder if task else "Task{1,2}", region or "{AB,HN,TH}", "<ID>", "mr|cbct.mha"))
        raise InputError(root, found="no cases", expected=wanted)
    return cases


def _read_case(folder: Path, task: Task, region: Region) -> Case | None:
    source = find_image(folder, task.source_name)
    if source is None:
        return None
    return Case(
        id=folder.name,
        task=task,
        region=region,
        source=source,
        mask=find_image(folder, "mask"),
        target=find_image(folder, "ct") or find_image(folder, "ct_def"),
        folder=folder,
        output_name=f"{region}/{folder.name}{split_suffix(result_name(source))[1]}",
        problem=unreadable_name(folder),
        has_masks=True,
    )


@dataclass(frozen=True)
class _Scope:
    """What a folder stands for: a task (no region), a region of a task, or one case."""

    task: Task
    folder: Path
    region: Region | None = None
    is_case: bool = False


def _scopes(root: Path) -> list[_Scope]:
    """What `root` stands for. Its absolute path decides, because `.` has no name of its own."""
    below = [_Scope(task, root / task.folder) for task in Task if (root / task.folder).is_dir()]
    if below:
        return below
    for path in dict.fromkeys((root.absolute(), root.resolve())):  # a link may have the name, or lead to it
        name, parent, above = path.name, path.parent.name, path.parent.parent.name
        if name in TASKS:
            return [_Scope(TASKS[name], root)]
        if name in REGIONS and parent in TASKS:
            return [_Scope(TASKS[parent], root, REGIONS[name])]
        if parent in REGIONS and above in TASKS:
            return [_Scope(TASKS[above], path, REGIONS[parent], is_case=True)]
    return []


def _case_folders(root: Path, task: Task | None, region: Region | None) -> Iterator[tuple[Task, Region, Path]]:
    """Every case folder of the wanted task and region; hidden ones are half-written and aren't cases."""
    for scope in _scopes(root):
        if task not in (None, scope.task):
            continue
        for each in Region if scope.region is None else (scope.region,):
            if region not in (None, each):
                continue
            if scope.is_case:
                yield scope.task, each, scope.folder
                continue
            parent = scope.folder / each if scope.region is None else scope.folder
            for path in sorted(p for p in parent.glob("[!.]*") if p.is_dir()):
                yield scope.task, each, path


def _left_out(root: Path, cases: list[Case], selection: Selection) -> Iterator[LeftOut]:
    """Case folders without a source, and folders that belong to no region."""
    taken = {(case.task, case.region, case.id) for case in cases}
    for task, region, folder in _case_folders(root, selection.task, selection.region):
        if (task, region, folder.name) not in taken:
            names = shorten(p.name for p in sorted(folder.iterdir())) or "nothing"
            kind = " (DICOM files)" if dicom_files(folder) else ""
            yield LeftOut(
                f"{task.folder}/{region}/{folder.name}", f"no {task.source_name}.* in it; it holds {names}{kind}"
            )
    scopes = _scopes(root)
    for scope in scopes:
        if scope.is_case or selection.task not in (None, scope.task):
            continue
        for parent in (scope.folder, *(scope.folder / region for region in Region)):
            yield from _loose(parent, root)
        if scope.region is not None or selection.region is not None:
            continue
        for path in _folders(scope.folder):
            if path.name not in REGIONS and _holds_images(path):
                yield LeftOut(f"{scope.task.folder}/{path.name}", "not one of the regions " + ", ".join(Region))
    if any(scope.folder == root / scope.task.folder for scope in scopes):
        yield from _loose(root, root)
        for path in _folders(root):
            looks_like_one = path.name.lower().startswith("task") and path.name not in TASKS
            if looks_like_one and any(_holds_images(p) for p in _folders(path)):
                yield LeftOut(path.name, "not one of the folders " + ", ".join(TASKS))


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("[!.]*") if p.is_dir())


def _holds_images(folder: Path) -> bool:
    """Whether a folder, or one directly below it, holds an image."""
    return any(list_images(p) for p in (folder, *folder.iterdir()) if p.is_dir())


def _loose(folder: Path, root: Path) -> Iterator[LeftOut]:
    """Images that lie where case folders belong; results of a former run, which have their record beside them, don't
    count."""
    for path in list_images(folder):
        if not path.with_name(f"{split_suffix(path)[0]}.record.json").exists():
            yield LeftOut(str(path.relative_to(root)), "an image outside of a case folder")
