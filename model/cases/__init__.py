"""Where cases come from and where results go: Grand Challenge folders, SynthRAD cohorts, flat folders, one file."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from sctlab_model.errors import InputError
from sctlab_model.io.writing import SUFFIXES, split_suffix


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


class Region(StrEnum):
    """Body region, by SynthRAD's folder names."""

    AB = "AB"
    HN = "HN"
    TH = "TH"

    @property
    def title(self) -> str:
        """The name that Grand Challenge uses in region.json."""
        return {"AB": "Abdomen", "HN": "Head and Neck", "TH": "Thorax"}[self.value]

    @classmethod
    def parse(cls, text: str, where: object) -> Region:
        """Read a folder name (`AB`) or a title (`Abdomen`), whatever the case.

        Example:
            >>> Region.parse("head and neck", "region.json")
            <Region.HN: 'HN'>
        """
        for region in cls:
            if text.strip().lower() in (region.value.lower(), region.title.lower()):
                return region
        known = ", ".join(f"{r.value} ({r.title})" for r in cls)
        raise InputError(where, found=f"unknown region '{text}'", expected=known)


@dataclass(frozen=True)
class Case:
    """One source image to be synthesised, or one pair.

    Args:
        id: Case id (`1ABA001`), or the file's stem.
        task: What the source is.
        source: The MR or CBCT file.
        mask: Body mask; None when there is none.
        region: None when it isn't known.
        target: The CT, where the case has one.
        folder: The case folder of a cohort.
        output_name: File name of the result relative to the output folder.
        problem: Why it can't be used, where that was seen while a folder was listed.
    """

    id: str
    task: Task
    source: Path
    mask: Path | None = None
    region: Region | None = None
    target: Path | None = None
    folder: Path | None = None
    output_name: str = ""
    problem: InputError | None = None


def find_image(folder: Path, stem: str) -> Path | None:
    """The image `<stem>.<known suffix>` in a folder; None if there is none.

    Raises:
        InputError: Several suffixes of the same stem.
    """
    names = [folder / (stem + s) for lower in SUFFIXES for s in (lower, lower.upper())]
    # By file: where case doesn't matter in names, both spellings are one.
    found = list({(p.stat().st_dev, p.stat().st_ino): p for p in reversed(names) if p.is_file()}.values())[::-1]
    if len(found) > 1:
        raise InputError(
            folder, found=f"several images named {stem}: {', '.join(p.name for p in found)}", expected="one"
        )
    return found[0] if found else None


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder, sorted by name; hidden files are left out."""
    if not folder.is_dir():
        return []
    return sorted(
        p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and split_suffix(p)[1] in SUFFIXES
    )


def result_name(source: Path) -> str:
    """File name of the sCT for a source: `.mha` and `.nii.gz` stay, other types become `.mha`."""
    stem, suffix = split_suffix(source)
    return stem + (suffix if suffix in (".mha", ".nii.gz") else ".mha")


# --- SynthRAD cohorts ---------------------------------------------------------------------------


def is_cohort(root: Path) -> bool:
    """Whether a folder has SynthRAD's Task1 or Task2 folders, or is one of them."""
    return any((root / t.folder).is_dir() for t in Task) or root.name in {t.folder for t in Task}


def find_cohort(root: str | Path, *, task: Task | None = None, region: Region | None = None) -> list[Case]:
    """Cases of a SynthRAD cohort: `Task{1,2}/{AB,HN,TH}/<ID>/{mr|cbct,ct,mask}.*`, sorted by task, region, id.

    The target is `ct.*`, or `ct_def.*` where only that is there; SynthRAD's validation folders have none.
    Case folders without a source are skipped here: `sctlab.cohort.pairs` lists what a pair lacks.

    Raises:
        InputError: No such folder, or no case in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(root, found="no such folder", expected="a cohort with Task1/ or Task2/")
    cases = []
    for this_task in Task:
        if task not in (None, this_task):
            continue
        task_folder = root if root.name == this_task.folder else root / this_task.folder
        for this_region in Region:
            if region not in (None, this_region):
                continue
            folders = (task_folder / this_region).glob("[!.]*")  # hidden ones are half-written
            for folder in sorted(p for p in folders if p.is_dir()):
                source = find_image(folder, this_task.source_name)
                if source is None:
                    continue
                cases.append(
                    Case(
                        id=folder.name,
                        task=this_task,
                        region=this_region,
                        source=source,
                        mask=find_image(folder, "mask"),
                        target=find_image(folder, "ct") or find_image(folder, "ct_def"),
                        folder=folder,
                        output_name=f"{this_region}/{folder.name}{split_suffix(result_name(source))[1]}",
                    )
                )
    if not cases:
        wanted = "/".join((task.folder if task else "Task{1,2}", region or "{AB,HN,TH}", "<ID>", "mr|cbct.mha"))
        raise InputError(root, found="no cases", expected=wanted)
    return cases


# --- flat folders and single files -----------------------------------------------------------------


def find_flat(root: str | Path, task: Task, region: Region | None = None) -> list[Case]:
    """Images of one folder: `<name>.<ext>`, with `<name>_mask.<ext>` beside it and the region in `<name>.json`.

    Both are optional: a missing mask is computed, and a region is needed only by bundles with region groups.
    """
    root = Path(root)
    images = list_images(root)
    cases = []
    for source in images:
        stem = split_suffix(source)[0]
        if stem.endswith("_mask"):
            continue
        case = single_case(source, task, region=region)
        try:
            find_image(root, stem)  # refuses a.mha beside a.nrrd: their results would have one name
            mask, own_region = find_image(root, f"{stem}_mask"), _flat_region(root, stem)
            cases.append(replace(case, mask=mask, region=own_region or region))
        except InputError as error:
            cases.append(replace(case, problem=error))
    if not cases:
        found = ", ".join(p.name for p in images) or "no image"
        raise InputError(
            root, found=found, expected=f"<name>.<ext> and <name>_mask.<ext>, with <ext> one of {' '.join(SUFFIXES)}"
        )
    return cases


def single_case(source: str | Path, task: Task, mask: str | Path | None = None, region: Region | None = None) -> Case:
    """One image file as a case."""
    source = Path(source)
    if not source.is_file():
        raise InputError(source, found="no such file", expected="an image")
    mask = Path(mask) if mask is not None else None
    if mask is not None and not mask.is_file():
        raise InputError(mask, found="no such file", expected="a body mask")
    return Case(split_suffix(source)[0], task, source, mask, region, output_name=result_name(source))


def _flat_region(root: Path, stem: str) -> Region | None:
    path = root / f"{stem}.json"
    if not path.is_file():
        return None
    value = read_json(path)
    return Region.parse(value if isinstance(value, str) else str(value), path)


# --- Grand Challenge -------------------------------------------------------------------------------

IMAGE_FOLDERS = {Task.MRI: "images/mri", Task.CBCT: "images/cbct"}
MASK_FOLDER = "images/body"
OUTPUT_FOLDER = "images/synthetic-ct"


def is_challenge(root: Path) -> bool:
    """Whether a folder is a Grand Challenge input."""
    return (root / "inputs.json").is_file() or (root / "images").is_dir()


def read_challenge(root: str | Path) -> Case:
    """The one case of a Grand Challenge input folder.

    Files are found through `inputs.json` where it is there (both spellings of its key, `socket` and
    `interface`), and in the folders of the exec API otherwise.

    Raises:
        InputError: No image, several images, no region, an unknown region; with what was found.
    """
    root = Path(root)
    folders, region_path = dict(IMAGE_FOLDERS), root / "region.json"
    mask_folder = MASK_FOLDER
    sockets = _read_sockets(root / "inputs.json")
    for slug, relative, kind in sockets:
        words = f"{slug} {relative}".lower()
        if kind == "image":
            if "synthetic" in words:
                continue
            if "cbct" in words:
                folders[Task.CBCT] = relative
            elif "mri" in words:
                folders[Task.MRI] = relative
            elif "body" in words or "mask" in words:
                mask_folder = relative
        elif kind == "json" and "region" in words:
            region_path = _inside(root, relative)
    found = {task: list_images(_inside(root, folder)) for task, folder in folders.items()}
    sources = [(task, path) for task, paths in found.items() for path in paths]
    if len(sources) != 1:
        names = ", ".join(str(p.relative_to(root)) for _, p in sources) or _listing(root)
        raise InputError(
            root,
            found=f"{len(sources)} source images ({names})",
            expected="one image in " + " or ".join(folders.values()),
        )
    masks = list_images(_inside(root, mask_folder))
    if len(masks) > 1:
        raise InputError(
            root / mask_folder, found=f"{len(masks)} masks ({', '.join(p.name for p in masks)})", expected="one"
        )
    if not region_path.is_file():
        known = ", ".join(f'"{r.title}"' for r in Region)
        raise InputError(
            region_path, found=f"no such file; the folder holds {_listing(root)}", expected=f"one of {known}"
        )
    value = read_json(region_path)
    if not isinstance(value, str):
        raise InputError(region_path, found=f"{json.dumps(value)[:60]}", expected='a JSON string such as "Abdomen"')
    task, source = sources[0]
    return Case(
        id=split_suffix(source)[0],
        task=task,
        source=source,
        mask=masks[0] if masks else None,
        region=Region.parse(value, region_path),
        output_name=f"{OUTPUT_FOLDER}/{result_name(source)}",
    )


def challenge_results(case: Case, output: Path, region_path: Path) -> list[dict[str, Any]]:
    """The legacy `results.json` of the exec API."""
    inputs = [{"type": "metaio_image", "filename": str(case.source)}]
    if case.mask is not None:
        inputs.append({"type": "metaio_image", "filename": str(case.mask)})
    inputs.append({"type": "String", "filename": str(region_path)})
    return [
        {
            "outputs": [{"type": "metaio_image", "filename": str(output)}],
            "inputs": inputs,
            "error_messages": [],
        }
    ]


def read_json(path: Path) -> Any:
    """Read a small JSON file.

    Raises:
        InputError: Not JSON, or larger than 10 MB.
    """
    if path.stat().st_size > 10_000_000:
        raise InputError(path, found=f"{path.stat().st_size} bytes", expected="a JSON file of at most 10 MB")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(path, found=f"not JSON ({error})", expected="valid JSON") from error


def _read_sockets(path: Path) -> list[tuple[str, str, str]]:
    """(slug, relative path, image|json) of every entry in inputs.json."""
    if not path.is_file():
        return []
    entries = read_json(path)
    if not isinstance(entries, list):
        raise InputError(path, found=f"a JSON {type(entries).__name__}", expected="a list of sockets")
    sockets = []
    for entry in entries:
        socket = entry.get("socket", entry.get("interface")) if isinstance(entry, dict) else None
        if not isinstance(socket, dict) or not isinstance(socket.get("relative_path"), str):
            raise InputError(
                path,
                found=f"an entry {json.dumps(entry)[:80]}",
                expected="objects with 'socket' or 'interface' that hold slug and relative_path",
            )
        relative = socket["relative_path"]
        kind = "image" if socket.get("is_image_kind", relative.startswith("images/")) else "json"
        sockets.append((str(socket.get("slug", "")), relative, kind))
    return sockets


def _inside(root: Path, relative: str) -> Path:
    path = (root / relative).resolve()
    if not path.is_relative_to(root.resolve()):
        raise InputError(
            root / "inputs.json", found=f"relative_path '{relative}'", expected="a path inside the input folder"
        )
    return path


def _listing(root: Path) -> str:
    files = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())[:10] if root.is_dir() else []
    return ", ".join(files) or "nothing"
