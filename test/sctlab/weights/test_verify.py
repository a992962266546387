"""Weights that are here: `sctlab weights verify`, and bundles that lost a part."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from published_weights import MakeRegistry, fetch
from typer.testing import CliRunner

from sctlab.commands.weights import app
from sctlab_model.bundle import MANIFEST, SHIPPED_WEIGHTS, choose_bundle, read_bundle
from sctlab_model.cases import Task
from sctlab_model.errors import ExitCode, WeightsError


def verify(registry: Path, *names: str) -> tuple[int, list[str], list[str]]:
    """Exit code, and the lines on stdout and on stderr."""
    result = CliRunner().invoke(app, ["verify", "--registry", str(registry), *names], standalone_mode=False)
    return int(result.return_value), result.stdout.splitlines(), result.stderr.splitlines()


def test_verify_sees_an_altered_file_and_another_origin(published: Path, registry: MakeRegistry) -> None:
    path = registry()
    folder = fetch(path, "--from", str(published))
    assert verify(path) == (0, ["short: 2 folds, ok"], [])
    file = folder / read_bundle(folder).groups[0].folds[0].weights.file
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    code, findings, errors = verify(path)
    assert (code, findings, len(errors)) == (ExitCode.BAD_WEIGHTS, [], 1)
    assert "altered" in errors[0]
    file.write_bytes(data)
    (folder / "notes.txt").write_text("mine")
    assert verify(path) == (0, ["short: 2 folds, ok (unused: notes.txt)"], [])
    code, findings, errors = verify(path, "absent", "short", "demo-cbct")
    assert code == ExitCode.BAD_WEIGHTS
    assert [line.split(":")[0] for line in findings] == ["short", "demo-cbct"]
    assert "1 fold, ok" in findings[1]
    assert errors[0].startswith("error: absent: ")
    assert "sctlab weights fetch absent" in errors[0]
    shutil.copytree(folder, folder.with_name(".short.0123abcd.part"))  # of a writer that was killed
    assert len(verify(path)[1]) == 1
    file.unlink()
    assert "no such file" in verify(path)[2][0]
    file.write_bytes(data)
    registry(wrong=True)
    assert "made of a models" in verify(path)[2][0]


def test_weights_that_lost_their_manifest_are_told_and_not_replaced(registry: MakeRegistry, home: Path) -> None:
    """The shipped bundle of the same name stood in for them."""
    shutil.copytree(SHIPPED_WEIGHTS / "demo-mri", home / "demo-mri")
    assert choose_bundle(Task.MRI, "demo-mri") == home / "demo-mri"
    (home / "demo-mri" / MANIFEST).unlink()
    with pytest.raises(WeightsError, match=r"demo-mri: installed weights without bundle\.json"):
        choose_bundle(Task.MRI, "demo-mri")
    for names in ((), ("demo-mri",)):
        code, findings, errors = verify(registry(), *names)
        assert (code, findings) == (ExitCode.BAD_WEIGHTS, [])
        assert "installed weights without bundle.json" in errors[0]
