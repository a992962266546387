"""File names of images, and the folders that they may not leave."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from sctlab_model.errors import InputError

SUFFIXES = (".nii.gz", ".mha", ".mhd", ".nii", ".nrrd", ".nhdr")


def split_suffix(path: str | Path) -> tuple[str, str]:
    """File name without its image suffix, and the suffix in small letters (`.nii.gz` is one).

    Example:
        >>> split_suffix("a/1ABA001.NII.GZ")
        ('1ABA001', '.nii.gz')
    """
    name = Path(path).name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)], suffix
    return Path(name).stem, Path(name).suffix


def expand_home(arguments: Sequence[str]) -> list[str]:
    """Words of a command line with `~` as the home folder, also behind the `=` of an option, where no shell expands it.

    Example:
        >>> expand_home(["--task", "mri"])
        ['--task', 'mri']
    """
    expanded = []
    for word in arguments:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        expanded.append(option + equals + (os.path.expanduser(value) if value.startswith("~") else value))  # noqa: PTH111
    return expanded


def not_a_file(path: str | Path) -> str:
    """What there is in the place of a file, for an error: nothing, a folder, a link to nothing, a pipe or a device."""
    path = Path(path)
    try:
        if path.is_dir():
            return "a folder"
        if path.exists():
            return "a pipe or a device"
        return "a link to nothing" if path.is_symlink() else "no such file"
    except OSError as error:  # a name that is too long, a folder that can't be looked into
        return f"no such file ({error.strerror})"


def inside(root: str | Path, path: str | Path) -> bool:
    """Whether a path, once its symbolic links are followed, lies in `root`, which may be a link itself.

    A chain of links that does not end lies nowhere, so it counts as outside.
    """
    try:
        return Path(path).resolve().is_relative_to(Path(root).resolve())
    except (OSError, RuntimeError):
        return False


def refuse_links_out(root: str | Path, path: str | Path) -> None:
    """Refuse a path that leads out of `root`.

    Raises:
        InputError: Names the link, and not where it leads: that is none of the sender's business.
    """
    if not inside(root, path):
        raise InputError(
            path,
            found="a link that leads out of the input folder",
            expected="files in the folder itself",
            advice="copy the file instead of linking to it",
        )


def refuse_replacing(result: Path, *inputs: Path | None) -> None:
    """Refuse a file for the result that is one of the files that it is made of.

    Args:
        result: File that will be written.
        inputs: Files that are read; None for one that was not given.

    Raises:
        InputError: It is one of them, by whatever name.
    """
    for given in inputs:
        if given is not None and result.exists() and given.exists() and result.samefile(given):
            raise InputError(
                result, found="the result would replace this input", expected="another file", advice="change OUT"
            )


def file_beside(header: Path, name: str) -> Path:
    """The file that a header names as the place of its voxels: a bare name in the header's own folder.

    Spaces, quotes, commas and letters of any script are fine. The file may be no link that leads elsewhere.

    Raises:
        InputError: A path, a pattern or list of files, or a file that is not there.
    """
    if not name or name in (".", "..") or any(c in "/\\%" or ord(c) < 32 for c in name) or name.split()[0] == "LIST":
        raise InputError(
            header,
            found=f"voxels in another file, '{name[:60]}'",
            expected="the voxels in the file itself or in one file of the same folder, by its bare name",
            advice="put both files into one folder and name the data file without a path",
        )
    for spelling in _spellings(name):
        path = header.with_name(spelling)
        if path.is_file() and inside(header.parent, path):
            return path
    raise InputError(header, found=f"its data file {name[:60]} is not there", expected="a plain file beside the header")


def _spellings(name: str) -> list[str]:
    """A name as it stands, then with its letters as other systems store them: macOS takes umlauts apart, and headers
    from Windows may be in its own code page."""
    names = [name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]
    raw = os.fsencode(name)
    if not raw.isascii():
        names.append(raw.decode("cp1252", "replace"))
    return list(dict.fromkeys(names))
