"""The registry of published weights: names, files and hashes."""

from __future__ import annotations

import json

import pytest

from sctlab.weights.registry import Registry, read_registry
from sctlab_model.errors import InputError


def test_the_products_registry() -> None:
    known = read_registry()
    hashed = [w for w in known.weights if w.revision]
    assert sum(len(w.files) for w in hashed) == 50
    assert len({f.sha256 for w in hashed for f in w.files}) == 50
    assert all(f.bytes and f.sha256 for w in hashed for f in w.files)
    for weights in known.weights:
        assert weights.name.endswith(weights.task)
        if weights.files:
            assert ("ELX" in weights.files[0].path) == weights.name.startswith("elastix")
        else:
            assert weights.repository == "VBoussot/ImpactSynth"
            assert weights.note
    assert known.find("impact-mri").name == "impact-sam-mri"
    with pytest.raises(InputError, match="unknown name 'x'"):
        known.find("x")


@pytest.mark.parametrize("path", ["../x.pt", "/x.pt", "a//b.pt", "a\\b.pt"])
def test_paths_stay_inside(path: str) -> None:
    entry = json.loads(read_registry().weights[0].model_dump_json())
    entry["groups"][0]["files"][0]["path"] = path
    with pytest.raises(ValueError, match="not a path inside"):
        Registry.model_validate({"weights": [entry]})


@pytest.mark.parametrize("alias", ["../elsewhere", "/tmp/x", ".hidden", ""])
def test_aliases_stay_inside(alias: str) -> None:
    """A bundle is installed under the name that was asked for."""
    entry = json.loads(read_registry().weights[0].model_dump_json())
    with pytest.raises(ValueError, match="aliases"):
        Registry.model_validate({"aliases": {alias: entry["name"]}, "weights": [entry]})


@pytest.mark.parametrize("kind", ["regions", "files"])
def test_nothing_stands_there_twice(kind: str) -> None:
    """The last group of a region would have taken the place of the first without a word."""
    entry = json.loads(read_registry().weights[0].model_dump_json())
    group = entry["groups"][0]
    if kind == "regions":
        other = group["files"][0] | {"path": "other.pt"}
        entry["groups"].append({"regions": group["regions"][:1], "files": [other]})
    else:
        group["files"].append(group["files"][0])
    twice = group["regions"][0] if kind == "regions" else group["files"][0]["path"]
    with pytest.raises(ValueError, match=rf"{twice} stands there more than once"):
        Registry.model_validate({"weights": [entry]})
