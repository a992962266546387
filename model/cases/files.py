"""Image files of a folder: by stem, whatever the capitals of the suffix; small JSON files; links; DICOM."""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sctlab_model.errors import InputError
from sctlab_model.io.content import dicom_begins_at
from sctlab_model.io.paths import SUFFIXES, inside, split_suffix

MAX_JSON_BYTES = 10_000_000
# Image files of other programs. They are named when they are left out, because somebody put them there as input.
OTHER_IMAGES = frozenset(
    [
        ".dcm",
        ".ima",
        ".dicom",
        ".nhdr",
        ".hdr",
        ".img",
        ".mgh",
        ".mgz",
        ".mnc",
        ".gipl",
        ".nrrd.gz",
        ".mha.gz",
        ".mhd.gz",
        ".tif",
        ".tiff",
        ".h5",
        ".hdf5",
        ".npy",
        ".npz",
        ".vtk",
        ".vti",
        ".mrc",
        ".zip",
        ".7z",
        ".rar",
        ".tar",
        ".tgz",
    ]
)
DICOM_ADVICE = (
    "convert the series first: `dcm2niix -z y -o FOLDER SERIES`, or load it in 3D Slicer and save it as .mha or .nii.gz"
)


def find_image(folder: Path, stem: str) -> Path | None:
    """The image `<stem>.<known suffix>` in a folder, whatever the capitals; None if there is none.

    Raises:
        InputError: Several suffixes or spellings of the same stem.
    """
    images = [path for name, paths in images_by_stem(folder).items() if name.lower() == stem.lower() for path in paths]
    return one_image(folder, stem, images)


def one_image(folder: Path, stem: str, images: list[Path]) -> Path | None:
    """The only one of `images`, or None.

    Raises:
        InputError: There are several.
    """
    if len(images) > 1:
        names = ", ".join(p.name for p in images)
        raise InputError(folder, found=f"several images named {stem}: {names}", expected="one")
    return images[0] if images else None


def images_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Image files of a folder by their names without suffix."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in list_images(folder):
        found[split_suffix(path)[0]].append(path)
    return found


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder, sorted by name; hidden files are left out."""
    if not folder.is_dir():
        return []
    return sorted(
        p for p in folder.iterdir() if split_suffix(p)[1] in SUFFIXES and not p.name.startswith(".") and p.is_file()
    )


def result_name(source: Path) -> str:
    """File name of the sCT for a source: `.mha` and `.nii.gz` stay, other types become `.mha`."""
    stem, suffix = split_suffix(source)
    return stem + (suffix if suffix in (".mha", ".nii.gz") else ".mha")


def read_json(path: Path) -> Any:
    """Read a small JSON file.

    Raises:
        InputError: Not JSON, or larger than 10 MB.
    """
    if path.stat().st_size > MAX_JSON_BYTES:
        raise InputError(path, found=f"{path.stat().st_size} bytes", expected="a JSON file of at most 10 MB")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(path, found=f"not JSON ({error})", expected="valid JSON") from error


def listing(root: Path, count: int = 10) -> str:
    """The first files below a folder, for messages."""
    files = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())[:count] if root.is_dir() else []
    return ", ".join(files) or "nothing"


def shorten(names: Iterable[object], count: int = 5) -> str:
    """A list of names for a message: the first ones, and how many more there are."""
    texts = [str(n) for n in names]
    more = f" and {len(texts) - count} more" if len(texts) > count else ""
    return ", ".join(texts[:count]) + more


def unreadable_name(path: Path) -> InputError | None:
    """The refusal of a file whose name is not UTF-8: libraries written in C++ end the process over it."""
    try:
        path.name.encode("utf-8")
    except UnicodeEncodeError:
        try:
            shown = os.fsencode(path).decode("utf-8")
        except UnicodeDecodeError:
            shown = str(path).encode("utf-8", "backslashreplace").decode("utf-8")
            return InputError(shown, found="a file name that is not UTF-8", expected="another name", advice="rename it")
        return InputError(
            shown,
            found=f"a file name that {sys.getfilesystemencoding()}, the locale's encoding, has no letters for",
            expected="a UTF-8 locale",
            advice="set LC_ALL=C.UTF-8 or PYTHONUTF8=1",
        )
    return None


def describe_links(paths: Iterable[Path], root: Path) -> list[str]:
    """One line that names the paths that lead out of `root` (which may be a link itself), or none."""
    links = [p.relative_to(root) if p.is_relative_to(root) else p for p in paths if not inside(root, p)]
    return [f"links that lead out of the input folder were followed: {shorten(links)}"] if links else []


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its magic word or, without one, by its first element."""
    try:
        with path.open("rb") as handle:
            return dicom_begins_at(handle.read(132)) is not None
    except OSError:
        return False


def dicom_files(folder: Path, depth: int = 3) -> list[Path]:
    """DICOM files of a folder and of folders below it, at most `depth` levels down (patient, study, series)."""
    found: list[Path] = []
    level = [folder]
    for _ in range(depth + 1):
        entries = [p for f in level for p in sorted(f.iterdir()) if not p.name.startswith(".")]
        found += [p for p in entries if p.is_file() and is_dicom(p)]
        level = [p for p in entries if p.is_dir()]
    return found


def refuse_dicom(root: Path) -> None:
    """Say so when a file or folder holds DICOM.

    Raises:
        InputError: It does.
    """
    files = [root] if root.is_file() and is_dicom(root) else dicom_files(root) if root.is_dir() else []
    if files:
        raise InputError(
            root,
            found="a DICOM file" if root.is_file() else f"DICOM ({len(files)} files, such as {files[0].name})",
            expected="a volume in one file (" + " ".join(SUFFIXES) + ")",
            advice=DICOM_ADVICE,
        )
