"""Weights by name: from checkpoints that the reference framework wrote to a bundle that `--weights NAME` finds."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from sctlab.commands.weights import app
from sctlab.training.konfai import app_checkpoints, pack_konfai
from sctlab.weights.install import FirstHashes, install
from sctlab.weights.registry import read_registry
from sctlab_model.bundle import MANIFEST, SHIPPED_WEIGHTS, choose_bundle, installed_weights, load_fold, read_bundle
from sctlab_model.cases import Task
from sctlab_model.errors import ExitCode, InputError, WeightsError
from sctlab_model.io.hashing import file_sha256
from sctlab_model.monitor import Monitor

RECIPE = """
recipe: {task: mri, canvas: {crop: none, fixed_yx: [512, 512]}, network: {encoder: resnet18}}
stages: [{name: all, iterations: 1}]
"""
PATHS = [f"models/Task_1/CV_{k}.pt" for k in range(2)]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCTLAB_WEIGHTS", str(tmp_path / "installed"))
    return tmp_path / "installed"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the repository has it, with two checkpoints of the framework's own network."""
    pytest.importorskip("konfai", reason="the reference implementation isn't installed")
    import segmentation_models_pytorch as smp
    from konfai.network import network

    class Synthesis(network.Network):
        def __init__(self) -> None:
            super().__init__(in_channels=3, dim=2)
            self.add_module("model", smp.UnetPlusPlus("resnet18", encoder_weights=None, in_channels=3, classes=1))
            self.add_module("Tanh", torch.nn.Tanh())

    folder = tmp_path_factory.mktemp("published")
    for seed, path in enumerate(PATHS):
        torch.manual_seed(seed)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"epoch": 1, "it": 10, "loss": 0.1, "Model": Synthesis().network_states()}, folder / path)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


MakeRegistry = Callable[..., Path]


@pytest.fixture
def registry(published: Path, tmp_path: Path) -> MakeRegistry:
    def make(*, hashed: bool = True, wrong: bool = False) -> Path:
        files = [
            {
                "path": p,
                "bytes": (published / p).stat().st_size,
                "sha256": "0" * 64 if wrong else file_sha256(published / p),
            }
            if hashed
            else {"path": p}
            for p in PATHS
        ]
        entry = {
            "name": "long-name", "repository": "them/theirs", "revision": "c" * 40 if hashed else None, "task": "mri",
            "recipe": str(published / "recipe.yaml"), "groups": [{"regions": ["AB", "TH"], "files": files}],
            "registration": {"method": "IMPACT-Reg", "convention": "source_to_ct"},
        }  # fmt: skip
        path = tmp_path / "registry.yaml"
        path.write_text(yaml.safe_dump({"aliases": {"short": "long-name"}, "weights": [entry]}))
        return path

    return make


def fetch(registry: Path, *options: str) -> Path:
    result = CliRunner().invoke(app, ["fetch", "short", "--registry", str(registry), *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return installed_weights() / "short"


def test_one_command_and_the_name_is_a_value_of_weights(published: Path, registry: MakeRegistry, home: Path) -> None:
    folder = fetch(registry(), "--from", str(published))
    assert choose_bundle(Task.MRI, "short") == folder == home / "short"
    bundle = read_bundle(folder)
    assert (bundle.name, bundle.regions, len(bundle.groups[0].folds)) == ("short", ("AB", "TH"), 2)
    assert bundle.registration.convention == "source_to_ct"
    origin = bundle.provenance["published"]
    assert (origin["repository"], origin["revision"]) == ("them/theirs", "c" * 40)
    assert origin["files"] == {p: file_sha256(published / p) for p in PATHS}
    wanted = torch.load(published / PATHS[1], weights_only=True)["Model"]["Synthesis"]
    loaded = load_fold(folder, bundle.groups[0].folds[1])
    key = "encoder.conv1.weight"
    assert torch.equal(next(v for k, v in loaded.items() if k.endswith(key)), wanted[f"model.{key}"])
    assert (published / PATHS[0]).is_file()  # a local folder is left as it is
    assert [p.name for p in home.iterdir()] == ["short"]


@pytest.mark.parametrize("place", ["as published", "under the repository's name", "the last folder alone"])
def test_a_local_folder_however_it_was_copied(
    published: Path, registry: MakeRegistry, tmp_path: Path, place: str
) -> None:
    root = tmp_path / "copy"
    target = {"as published": root, "under the repository's name": root / "them" / "theirs"}.get(place, root)
    for path in PATHS:
        copy = target / (Path(path).name if place == "the last folder alone" else path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(published / path)
    assert read_bundle(fetch(registry(), "--from", str(root))).name == "short"


def test_a_mirror(published: Path, registry: MakeRegistry, tmp_path: Path, home: Path) -> None:
    """Any place that serves the hub's addresses; downloads are gone when the bundle is there."""
    mirror = tmp_path / "mirror" / "them" / "theirs" / "resolve" / ("c" * 40)
    mirror.parent.mkdir(parents=True)
    mirror.symlink_to(published)
    fetch(registry(), "--from", (tmp_path / "mirror").as_uri())
    assert [p.name for p in home.iterdir() if p.name != ".downloads"] == ["short"]
    assert not list(home.rglob("*.pt"))


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("place", ["cache", "cache/models--them--theirs"])
def test_a_cache_of_the_hubs_client(
    published: Path, registry: MakeRegistry, tmp_path: Path, place: str, hashed: bool
) -> None:
    """Files are links from a commit's folder into `blobs/`; of two commits without known hashes one must be named."""
    hub = tmp_path / "cache" / "models--them--theirs"
    for commit in ("c" * 40, "e" * 40):
        for path in PATHS:
            link = hub / "snapshots" / commit / path
            blob = hub / "blobs" / file_sha256(published / path)
            blob.parent.mkdir(parents=True, exist_ok=True)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not blob.exists():
                shutil.copy(published / path, blob)
            link.symlink_to(Path(*[".."] * 4, "blobs", blob.name))
    origin = str(tmp_path / place)
    if hashed:
        folder = fetch(registry(), "--from", origin)
    else:
        with pytest.raises(InputError, match="2 commits in the cache"):
            fetch(registry(hashed=False), "--from", origin)
        folder = fetch(registry(hashed=False), "--from", origin, "--revision", "e" * 40)
    made_from = read_bundle(folder).provenance["published"]
    assert made_from["revision"] == ("c" if hashed else "e") * 40
    assert made_from["files"] == {p: file_sha256(published / p) for p in PATHS}


def test_another_revision_takes_nothing_of_the_first(
    published: Path, registry: MakeRegistry, tmp_path: Path, home: Path
) -> None:
    """Nor is it said to be here; a folder without a commit isn't asked of the hub later."""
    mirror = tmp_path / "mirror" / "them" / "theirs" / "resolve"
    for commit in "de":
        shutil.copytree(published, mirror / (commit * 40))
    other, whole = mirror / ("e" * 40), (published / PATHS[1]).read_bytes()
    for path, content in zip(PATHS, reversed(PATHS), strict=True):
        shutil.copy(published / content, other / path)
    (mirror / ("d" * 40) / PATHS[1]).unlink()
    entry, origin = read_registry(registry(hashed=False)).find("short"), (tmp_path / "mirror").as_uri()
    with pytest.raises(InputError, match=r"CV_1\.pt"):
        install(entry, revision="d" * 40, origin=origin)
    assert list(home.rglob("CV_0.pt"))  # waits for the next try
    folder = install(entry, revision="e" * 40, origin=origin)
    assert read_bundle(folder).provenance["published"]["files"] == {
        PATHS[0]: file_sha256(published / PATHS[1]),
        PATHS[1]: file_sha256(published / PATHS[0]),
    }
    assert not list(home.rglob("*.pt"))
    (mirror / ("d" * 40) / PATHS[1]).write_bytes(whole)
    with pytest.raises(InputError, match="installed from revision eeee"):
        install(entry, revision="d" * 40, origin=origin)

    (home / "long-name.hashes.json").unlink()
    shutil.rmtree(folder)
    install(entry, origin=str(published))
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="--revision with the 40 digits"):
        install(entry, origin=origin)


def test_two_at_once_both_have_it(published: Path, registry: MakeRegistry, tmp_path: Path, home: Path) -> None:
    """One fetches, the other waits for it and says so."""
    mirror = tmp_path / "mirror" / "them" / "theirs" / "resolve" / ("c" * 40)
    mirror.parent.mkdir(parents=True)
    mirror.symlink_to(published)
    entry, origin = read_registry(registry()).find("short"), (tmp_path / "mirror").as_uri()
    begun, waiting = threading.Event(), threading.Event()
    lines: list[str] = []

    class First(Monitor):
        def progress(self, done: int, total: int, text: str = "") -> None:
            begun.set()
            assert waiting.wait(60)

    class Second(Monitor):
        def info(self, text: str) -> None:
            lines.append(text)
            waiting.set()

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(install, entry, origin=origin, monitor=First())
        assert begun.wait(60)
        second = install(entry, origin=origin, monitor=Second())
        assert first.result(60) == second == home / "long-name"
    assert ["waiting for it" in lines[0], "is here already" in lines[1]] == [True, True]
    assert len(lines) == 2
    assert sorted(p.name for p in home.iterdir()) == [".downloads", "long-name"]


def test_another_file_is_refused_and_leaves_nothing(published: Path, registry: MakeRegistry, home: Path) -> None:
    with pytest.raises(WeightsError, match="isn't the published file"):
        fetch(registry(wrong=True), "--from", str(published))
    assert not home.exists() or not list(home.iterdir())
    with pytest.raises(InputError, match=r"no models/Task_1/CV_0\.pt"):
        fetch(registry(), "--from", str(published.parent))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>Please sign in</html>", "a web page"),
    ],
)
@pytest.mark.parametrize("hashed", [True, False])
def test_what_clones_and_portals_leave_is_named(
    published: Path, registry: MakeRegistry, tmp_path: Path, content: bytes, words: str, hashed: bool
) -> None:
    folder = shutil.copytree(published, tmp_path / "clone")
    (folder / PATHS[1]).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"CV_1\.pt: {words}.*git lfs pull"):
        fetch(registry(hashed=hashed), "--from", str(folder))


def test_without_a_network_one_sentence(registry: MakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="can't be reached") as caught:
        fetch(registry())
    assert "\n" not in str(caught.value)
    assert "--from" in str(caught.value)


@pytest.mark.parametrize("as_mirror", [False, True])
def test_half_a_file_that_nobody_verified_does_not_hold(
    published: Path, registry: MakeRegistry, tmp_path: Path, home: Path, as_mirror: bool
) -> None:
    """Its hash is recorded when it was read: the whole file would be refused ever after."""
    folder = tmp_path / "copy" / "them" / "theirs" / "resolve" / ("d" * 40)
    shutil.copytree(published, folder)
    origin = (tmp_path / "copy").as_uri() if as_mirror else str(folder)
    whole = (folder / PATHS[1]).read_bytes()
    (folder / PATHS[1]).write_bytes(whole[: len(whole) // 2])
    entry = read_registry(registry(hashed=False)).find("short")
    with pytest.raises(WeightsError, match="can't be read"):
        install(entry, revision="d" * 40, origin=origin)
    assert not list(home.glob("*.json"))
    (folder / PATHS[1]).write_bytes(whole)
    assert read_bundle(install(entry, revision="d" * 40, origin=origin)).name == "long-name"
    assert (home / "long-name.hashes.json").is_file()


def test_files_where_folders_belong_are_named(published: Path, registry: MakeRegistry, home: Path) -> None:
    with pytest.raises(InputError, match="a file; expected a folder"):
        fetch(registry(), "--from", str(published / PATHS[0]))
    home.write_text("no folder")
    with pytest.raises(InputError, match=str(home)):
        fetch(registry(), "--from", str(published))


def test_unknown_hashes_are_recorded_once_and_hold(published: Path, registry: MakeRegistry, home: Path) -> None:
    lines: list[str] = []

    class Listening(Monitor):
        def warning(self, text: str) -> None:
            lines.append(text)

    entry = read_registry(registry(hashed=False)).find("short")
    with pytest.raises(InputError, match="--revision with the 40 digits"):
        install(entry)
    with pytest.raises(InputError, match="a branch may change"):
        install(entry, revision="main", origin=str(published))
    folder = install(entry, revision="d" * 40, origin=str(published), monitor=Listening())
    assert "no hash was known" in lines[0]
    record = FirstHashes.read(home / "long-name.hashes.json")
    assert record.sha256 == {p: file_sha256(published / p) for p in PATHS}
    (folder / "bundle.json").unlink()
    FirstHashes(revision="d" * 40, sha256={p: "1" * 64 for p in PATHS}).write(home / "long-name.hashes.json")
    with pytest.raises(WeightsError, match="1111"):
        install(entry, revision="d" * 40, origin=str(published))


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


def test_a_name_that_is_not_here_names_the_command() -> None:
    with pytest.raises(WeightsError, match="sctlab weights fetch impact-mri"):
        choose_bundle(Task.MRI, "impact-mri")
    assert choose_bundle(Task.MRI, "demo-mri").name == "demo-mri"  # shipped ones have names too


# --- apps of the framework --------------------------------------------------------------------------------------------


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
                          ('{"models": ["../blob"]}', "blob"), (json.dumps({"models": [str(tmp_path / "app" / ".." / "blob")]}), "blob"), ("[]", "can't be read"),
                          ('{"models": [""]}', "a list"), (json.dumps({"models": ["a" * 300]}), "a list")):  # fmt: skip
        manifest.write_text(content)
        with pytest.raises(WeightsError, match=text):
            app_checkpoints(folder)
    with pytest.raises(WeightsError, match=r"app\.json"):
        app_checkpoints(tmp_path)
