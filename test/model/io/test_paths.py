"""Names of image files, and links that lead elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sctlab_model.errors import InputError
from sctlab_model.io.paths import file_beside, inside, refuse_links_out, split_suffix


@pytest.mark.parametrize("name", ["a.MHA", "a.Nii.Gz", "a.NRRD", "a.nhdr", "a.mha"])
def test_suffixes_in_capitals(name: str) -> None:
    assert split_suffix(name) == ("a", name[1:].lower())


def test_links_that_leave_the_folder(tmp_path: Path) -> None:
    root, outside = tmp_path / "input", tmp_path / "outside"
    for folder in (root / "images", outside):
        folder.mkdir(parents=True)
    (root / "images/a.mha").write_text("")
    (outside / "b.mha").write_text("")
    (root / "inner.mha").symlink_to("images/a.mha")
    (root / "outer.mha").symlink_to(outside / "b.mha")
    (root / "far").symlink_to(outside)
    (root / "loop").symlink_to("loop")
    for link in (root, tmp_path / "link"):  # the root may be a link itself
        if not link.exists():
            link.symlink_to(root)
        for name in ("images/a.mha", "inner.mha", "not/there.mha"):
            assert inside(link, link / name)
            refuse_links_out(link, link / name)
        for name in ("outer.mha", "far/b.mha", "../outside/b.mha", "loop"):
            assert not inside(link, link / name)
            with pytest.raises(InputError, match="leads out") as caught:
                refuse_links_out(link, link / name)
            assert str(outside) not in str(caught.value).replace(str(link / name), "")


@pytest.mark.parametrize(
    ("stated", "stored"),
    [
        (b"it's, a #1 fall (2).raw", b"it's, a #1 fall (2).raw"),
        ("Schädel.raw".encode(), "Schädel.raw".encode()),
        ("Schädel.raw".encode(), "Scha\u0308del.raw".encode()),  # copied by way of macOS
        ("Schädel.raw".encode("cp1252"), "Schädel.raw".encode()),  # written on Windows
        (b"\xff.raw", b"\xff.raw"),
    ],
)
def test_names_of_data_files(tmp_path: Path, stated: bytes, stored: bytes) -> None:
    (tmp_path / os.fsdecode(stored)).write_bytes(b"")
    assert file_beside(tmp_path / "a.mhd", os.fsdecode(stated)).name == os.fsdecode(stored)
