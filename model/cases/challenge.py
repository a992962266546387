"""Grand Challenge's folders: one case, found through `inputs.json` or in the folders of the exec API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sctlab_model.cases.files import is_dicom, list_images, listing, read_json, result_name, unreadable_name
from sctlab_model.cases.layouts import CaseList, Layout, Selection, register
from sctlab_model.cases.types import Case, Region, Task, name_of
from sctlab_model.errors import InputError
from sctlab_model.io.paths import inside, refuse_links_out, split_suffix

IMAGE_FOLDERS = {Task.MRI: "images/mri", Task.CBCT: "images/cbct"}
MASK_FOLDER = "images/body"
OUTPUT_FOLDER = "images/synthetic-ct"
REGION_FILE = "region.json"


@register
class ChallengeLayout(Layout):
    """One case in Grand Challenge's folders."""

    name, order, several = "challenge", 10, False

    def recognises(self, root: Path) -> bool:
        """There is an `inputs.json` or a folder `images`."""
        return is_challenge(root)

    def find(self, root: Path, selection: Selection) -> CaseList:
        """The one case; `selection` isn't needed, because the folders say everything."""
        return CaseList((read_challenge(root),))


def is_challenge(root: Path) -> bool:
    """Whether a folder is a Grand Challenge input."""
    return (root / "inputs.json").is_file() or (root / "images").is_dir()


def read_challenge(root: str | Path) -> Case:
    """The one case of a Grand Challenge input folder.

    Files are found through `inputs.json` where it is there (both spellings of its key, `socket` and
    `interface`), and in the folders of the exec API otherwise. The folder itself may be a link; nothing in it may
    lead out of it, because the files come from strangers.

    Raises:
        InputError: No image, several images, no region, an unknown region; with what was found.
    """
    root = Path(root)
    folders, region_path = dict(IMAGE_FOLDERS), _inside(root, REGION_FILE)
    mask_folder = MASK_FOLDER
    for slug, relative, kind in _read_sockets(_inside(root, "inputs.json")):
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
    images = {task: _images(root, folder) for task, folder in folders.items()}
    sources = [(task, path) for task, paths in images.items() for path in paths]
    if len(sources) != 1:
        names = ", ".join(str(p.relative_to(root)) for _, p in sources) or listing(root)
        dicom = any(is_dicom(p) for f in folders.values() if (root / f).is_dir() for p in (root / f).iterdir())
        raise InputError(
            root,
            found=f"{len(sources)} source images ({names}{'; these are DICOM files' if dicom else ''})",
            expected="one image in " + " or ".join(folders.values()),
        )
    masks = _images(root, mask_folder)
    if len(masks) > 1:
        names = ", ".join(p.name for p in masks)
        raise InputError(root / mask_folder, found=f"{len(masks)} masks ({names})", expected="one")
    task, source = sources[0]
    return Case(
        id=split_suffix(source)[0],
        task=task,
        source=source,
        mask=masks[0] if masks else None,
        region=_read_region(root, region_path),
        output_name=f"{OUTPUT_FOLDER}/{result_name(source)}",
        has_masks=True,
    )


def challenge_results(case: Case, output: Path, region_path: Path) -> list[dict[str, Any]]:
    """The legacy `results.json` of the exec API."""
    inputs = [{"type": "metaio_image", "filename": name_of(case.source)}]
    if case.mask is not None:
        inputs.append({"type": "metaio_image", "filename": name_of(case.mask)})
    inputs.append({"type": "String", "filename": str(region_path)})
    return [
        {
            "outputs": [{"type": "metaio_image", "filename": str(output)}],
            "inputs": inputs,
            "error_messages": [],
        }
    ]


def _read_region(root: Path, path: Path) -> Region:
    known = ", ".join(f'"{r.full_name}"' for r in Region)
    if not path.is_file():
        raise InputError(path, found=f"no such file; the folder holds {listing(root)}", expected=f"one of {known}")
    value = read_json(path)
    if not isinstance(value, str):
        raise InputError(path, found=f"{json.dumps(value)[:60]}", expected='a JSON string such as "Abdomen"')
    return Region.parse(value, path)


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


def _images(root: Path, folder: str) -> list[Path]:
    """Image files of a folder of the input; links inside the input are followed, others refused."""
    images = list_images(_inside(root, folder))
    for path in images:
        _inside(root, path.relative_to(root))
        refusal = unreadable_name(path)
        if refusal is not None:
            raise refusal
    return images


def _inside(root: Path, relative: str | Path) -> Path:
    """A path below `root` that leads out of it neither by `..` nor by a link."""
    path = root / relative
    if "\0" in str(relative) or (not inside(root, path) and not _through_link(root, path)):
        raise InputError(
            root / "inputs.json", found=f"relative_path '{relative}'", expected="a path inside the input folder"
        )
    refuse_links_out(root, path)
    return root / path.resolve().relative_to(root.resolve()) if ".." in Path(relative).parts else path


def _through_link(root: Path, path: Path) -> bool:
    """Whether a path is spelled as one below `root`, so that only a link can lead it out."""
    return path.is_relative_to(root) and ".." not in path.relative_to(root).parts
