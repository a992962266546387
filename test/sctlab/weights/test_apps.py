"""Apps of the reference framework: `app.json` names the checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from published_weights import PATHS, MakeRegistry

from sctlab.training.konfai import pack_konfai
from sctlab.weights.apps import app_checkpoints
from sctlab.weights.install import FirstHashes, install
from sctlab.weights.registry import read_registry
from sctlab_model.bundle import read_bundle
from sctlab_model.cases import Task
from sctlab_model.errors import InputError, WeightsError
from sctlab_model.io.hashing import file_sha256
from sctlab_model.monitor import Monitor


def test_an_app_is_fetched_by_the_names_in_its_app_json(
    published: Path, home: Path, tmp_path: Path, registry: MakeRegistry
) -> None:
    """From a mirror and from folders; hashes are recorded once, and the note goes with the bundle."""
    app_folder = tmp_path / "mirror" / "them" / "theirs" / "resolve" / ("d" * 40) / "MR"
    app_folder.mkdir(parents=True)
    for path in PATHS:
        (app_folder / Path(path).name).symlink_to(published / path)
    manifest = app_folder / "app.json"
    manifest.write_text(json.dumps({"models": ["CV_1.pt", "CV_0"]}))
    content = yaml.safe_load(registry().read_text())
    entry = content["weights"][0]
    entry |= {"revision": None, "note": "nobody compared it", "groups": [{"regions": ["AB"], "app": "MR"}]}
    (tmp_path / "apps.yaml").write_text(yaml.safe_dump(content))
    weights = read_registry(tmp_path / "apps.yaml").find("short")
    assert (weights.files, weights.bytes) == ((), None)
    lines: list[str] = []

    class Listening(Monitor):
        def warning(self, text: str) -> None:
            lines.append(text)

    folder = install(weights, revision="d" * 40, origin=(tmp_path / "mirror").as_uri(), monitor=Listening())
    bundle = read_bundle(folder)
    origin = bundle.provenance["published"]
    assert list(origin["files"]) == ["MR/app.json", "MR/CV_1.pt", "MR/CV_0.pt"]
    assert origin["note"] == "nobody compared it"
    assert any("nobody compared it" in line for line in lines)
    record = FirstHashes.read(home / "long-name.hashes.json")
    assert record.sha256 == {f"MR/{n}": file_sha256(app_folder / n) for n in ("app.json", "CV_0.pt", "CV_1.pt")}

    for place in (app_folder, app_folder.parent):
        shutil.rmtree(folder)
        assert len(read_bundle(install(weights, origin=str(place))).groups[0].folds) == 2
    shutil.rmtree(folder)
    elsewhere = app_folder.rename(app_folder.with_name("CBCT"))
    with pytest.raises(InputError, match=r"no MR/app\.json"):  # the files of another app
        install(weights, origin=str(elsewhere))
    elsewhere.rename(app_folder)
    (home / "long-name.hashes.json").unlink()
    for names in ([], ["../CV_0.pt"]):
        manifest.write_text(json.dumps({"models": names}))
        with pytest.raises(WeightsError, match="sctlab pack --from-konfai"):
            install(weights, origin=str(app_folder))


def test_an_app_folder_is_read_as_it_is(published: Path, tmp_path: Path) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    for path in PATHS:
        (folder / Path(path).name).write_bytes((published / path).read_bytes())
    manifest = folder / "app.json"
    manifest.write_text(json.dumps({"display_name": "x", "tta": 2, "models": ["CV_1.pt", "CV_0"]}))
    assert [p.name for p in app_checkpoints(folder)] == ["CV_1.pt", "CV_0.pt"]
    bundle = pack_konfai(
        [folder],
        tmp_path / "out",
        task=Task.MRI,
        recipe=str(published / "recipe.yaml"),
        regions="AB",
        storage="float32",
    )
    assert [s["file"] for s in bundle.provenance["imported_from"]] == ["CV_1.pt", "CV_0.pt"]
    manifest.write_text("{}")
    assert [p.name for p in app_checkpoints(folder)] == ["CV_0.pt", "CV_1.pt"]
    blob = (folder / "CV_0.pt").rename(tmp_path / "blob")
    (folder / "CV_0.pt").symlink_to(blob)  # as in a cache of the hub's client
    assert [p.name for p in app_checkpoints(folder)] == ["CV_0.pt", "CV_1.pt"]
    for content, text in (('{"models": ["CV_7.pt"]}', "CV_7"), ('{"models": 3}', "a list"), ("[", "can't be read"),
                          ('{"models": ["../blob"]}', "blob"), (json.dumps({"models": [str(tmp_path / "app" / ".." / "blob")]}), "blob"), ("[]", "can't be read"), ('{"models": ["CV_0", "CV_0.pt"]}', "twice"),
                          ('{"models": [""]}', "a list"), (json.dumps({"models": ["a" * 300]}), "a list")):  # fmt: skip
        manifest.write_text(content)
        with pytest.raises(WeightsError, match=text):
            app_checkpoints(folder)
    with pytest.raises(WeightsError, match=r"app\.json"):
        app_checkpoints(tmp_path)
