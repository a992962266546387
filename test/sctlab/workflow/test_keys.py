"""Content keys: the same content gives the same key, and anything that determines a result changes it."""

from __future__ import annotations

from pathlib import Path

from sctlab.workflow.keys import KEY_FILE, content_key, is_finished, mark_finished


def test_a_key_is_of_content_not_of_names_or_order(tmp_path: Path) -> None:
    for name in ("a.mha", "b.mha"):
        (tmp_path / name).write_bytes(b"voxels")
    settings = {"method": "impact", "seed": 1}
    key = content_key("register/1", settings=settings, inputs=[tmp_path / "a.mha"])
    assert key == content_key("register/1", settings=dict(reversed(settings.items())), inputs=[tmp_path / "b.mha"])
    others = [
        content_key("register/2", settings=settings, inputs=[tmp_path / "a.mha"]),
        content_key("register/1", settings=settings | {"seed": 2}, inputs=[tmp_path / "a.mha"]),
        content_key("register/1", settings=settings, inputs=[tmp_path / "a.mha", key]),
    ]
    (tmp_path / "a.mha").write_bytes(b"other voxels")
    others.append(content_key("register/1", settings=settings, inputs=[tmp_path / "a.mha"]))
    assert len({key, *others}) == 5


def test_finished_means_with_this_key(tmp_path: Path) -> None:
    assert not is_finished(tmp_path, "k")
    mark_finished(tmp_path, "k")
    assert is_finished(tmp_path, "k")
    assert not is_finished(tmp_path, "other")
    (tmp_path / KEY_FILE).write_text("{half")
    assert not is_finished(tmp_path, "k")
