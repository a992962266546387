"""From published checkpoints to a bundle that is found by name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from sctlab.weights.apps import app_models
from sctlab.weights.download import ENDPOINT, FETCH_AGAIN, TIMEOUT_S, fetch_url, hub_url, other_file
from sctlab.weights.registry import PublishedFile, PublishedWeights
from sctlab.workflow.locking import one_at_a_time
from sctlab_model.bundle import (
    MANIFEST,
    Bundle,
    HashedFile,
    Registration,
    StorageType,
    installed_weights,
    read_bundle,
    read_checked,
    write_bundle,
)
from sctlab_model.errors import InputError, WeightsError
from sctlab_model.io.atomic import atomic_folder, write_text, writing_error
from sctlab_model.io.hashing import file_sha256
from sctlab_model.monitor import Monitor
from sctlab_model.records import Record

CARD = "MODEL_CARD.md"
LOCAL = "local"  # in the place of a commit, where a folder's files have none


class FirstHashes(Record):
    """Hashes of files that nobody had verified, as the first fetch found them; they hold from then on."""

    revision: str
    sha256: dict[str, str]


def install(
    weights: PublishedWeights,
    *,
    name: str = "",
    origin: str = "",
    revision: str | None = None,
    storage: StorageType = "float32",
    monitor: Monitor = Monitor(),
) -> Path:
    """Fetch weights, check them, and convert them into a bundle called `name` in `installed_weights()`.

    The bundle appears whole. Downloads are removed when it is there, and stay for the next try when something fails.

    Args:
        weights: An entry of the registry.
        name: Of the bundle; that of the entry when left out.
        origin: A folder that holds the files (under their paths, under the repository's name, or as they are), or the
            address of a mirror of the hub; the hub when left out.
        revision: Commit of 40 digits instead of the recorded one.
        storage: Type of the stored weights.

    Raises:
        InputError: No revision, no network, or files that aren't in the folder.
        WeightsError: A file isn't the published one, or not a checkpoint of the network.
    """
    name = name or weights.name
    folder = installed_weights() / name
    if _is_here(folder, weights, revision, monitor):
        return folder
    local = Path(origin) if origin and "://" not in origin else None
    if local is not None and not local.is_dir():
        raise InputError(
            local,
            found="a file" if local.exists() else "no such folder",
            expected="a folder with the published files",
        )

    def waiting() -> None:
        monitor.info(f"{weights.name} is being fetched by another process: waiting for it")

    with one_at_a_time(installed_weights() / weights.name, waiting):
        if not _is_here(folder, weights, revision, monitor):
            _install(weights, folder, local, origin, revision, storage, monitor)
    return folder


def _is_here(folder: Path, weights: PublishedWeights, revision: str | None, monitor: Monitor) -> bool:
    """Whether the bundle is installed, and what is asked for.

    Raises:
        WeightsError: It is damaged, or not of the registry's files.
        InputError: It is of another revision, and no hash is known that would tell whether they are the same.
    """
    if not (folder / MANIFEST).is_file():
        return False
    made_from = _published(verify(folder, weights)).get("revision")
    unverified = any(g.app is not None for g in weights.groups) or any(f.sha256 is None for f in weights.files)
    if revision is not None and unverified and made_from != revision.lower():
        raise InputError(
            folder,
            found=f"installed from revision {made_from}",
            expected=revision,
            advice="remove the folder to fetch another revision",
        )
    monitor.info(f"{folder.name} is here already: {folder}")
    return True


def _install(
    weights: PublishedWeights,
    folder: Path,
    local: Path | None,
    origin: str,
    revision: str | None,
    storage: StorageType,
    monitor: Monitor,
) -> None:
    name = folder.name
    commit = _revision(weights, revision, None if local else origin)
    # Files of one commit: what another one's broken fetch left must not be taken for these.
    downloads = installed_weights() / ".downloads" / weights.name / commit
    known = _first_hashes(weights, commit)
    hashes: dict[str, str] = {}
    paths: dict[str, Path] = {}

    def get(file: PublishedFile) -> Path:
        paths[file.path], hashes[file.path] = _one(file, weights, commit, local, origin, downloads, known, monitor)
        return paths[file.path]

    weights = _with_the_files_of_apps(weights, get)
    if weights.note:
        monitor.warning(f"{name}: {weights.note}")
    for number, file in enumerate(weights.files):
        monitor.progress(number, len(weights.files), file.path)
        get(file)
    monitor.progress(len(weights.files), len(weights.files), "converting")
    verified = {f.path for f in weights.files if f.sha256 is not None}
    new = {path: digest for path, digest in hashes.items() if path not in known and path not in verified}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_error(folder.parent, error) from error
    try:
        with atomic_folder(folder) as part:
            _convert(weights, name, paths, hashes, commit, local, part, storage)
    except WeightsError:
        for path in new if local is None else ():  # nothing vouches for what came: the next try fetches it again
            paths[path].unlink(missing_ok=True)
        raise
    if new:  # now that they were read: the hash of half a file must not hold
        FirstHashes(revision=commit, sha256=known | new).write(_hash_record(weights))
        monitor.warning(
            f"{name}: no hash was known for {len(new)} files; theirs are recorded in {_hash_record(weights)} and hold from now on"
        )
    if local is None:
        shutil.rmtree(downloads.parent, ignore_errors=True)


def verify(folder: Path, weights: PublishedWeights | None = None) -> Bundle:
    """Check every file of an installed bundle against its manifest, and its origin against the registry.

    Raises:
        WeightsError: A file is missing or altered, or was made of other checkpoints than the registry's.
    """
    bundle = read_bundle(folder)
    for fold in (f for group in bundle.groups for f in group.folds):
        for entry in (fold.weights, *fold.onnx.values()):
            read_checked(folder, HashedFile(file=entry.file, sha256=entry.sha256))
    if weights is not None:
        made_of = _published(bundle).get("files", {})
        for file in weights.files:
            if file.sha256 is not None and made_of.get(file.path) != file.sha256:
                raise WeightsError(
                    folder,
                    found=f"made of a {file.path} with SHA-256 {made_of.get(file.path)}",
                    expected=file.sha256,
                    advice=f"remove the folder and run `sctlab weights fetch {weights.name}`",
                )
    return bundle


def unnamed_files(folder: Path, bundle: Bundle) -> list[str]:
    """Names in an installed bundle's folder that neither its manifest nor packing put there: nothing reads them."""
    named = {entry.file for g in bundle.groups for f in g.folds for entry in (f.weights, *f.onnx.values())}
    return sorted(p.name for p in folder.iterdir() if p.name not in named | {MANIFEST, CARD})


def _published(bundle: Bundle) -> dict[str, Any]:
    """What a bundle's provenance records of its origin; nothing where it wasn't fetched."""
    record = bundle.provenance.get("published")
    return record if isinstance(record, dict) else {}


def _with_the_files_of_apps(weights: PublishedWeights, get: Callable[[PublishedFile], Path]) -> PublishedWeights:
    """The entry with the checkpoints of its apps, which their app.json names.

    Raises:
        WeightsError: An app.json that names none, or a file elsewhere.
    """
    groups = []
    for group in weights.groups:
        if group.app is not None:
            manifest = get(PublishedFile(path=f"{group.app}/app.json"))
            names = app_models(manifest)
            if not names or any("/" in n or "\\" in n or n.startswith(".") for n in names):
                raise WeightsError(
                    manifest,
                    found=f"models: {', '.join(names) or 'none'}",
                    expected="the names of checkpoints in the app's folder",
                    advice="copy the folder and pack it: sctlab pack --from-konfai",
                )
            files = tuple(PublishedFile(path=f"{group.app}/{n}") for n in names)
            group = group.model_copy(update={"app": None, "files": files})
        groups.append(group)
    return weights.model_copy(update={"groups": tuple(groups)})


def _one(
    file: PublishedFile,
    weights: PublishedWeights,
    commit: str,
    local: Path | None,
    origin: str,
    downloads: Path,
    known: dict[str, str],
    monitor: Monitor,
) -> tuple[Path, str]:
    """One checked checkpoint and its SHA-256."""
    expected = file.sha256 or known.get(file.path)
    if local is not None:
        path = _find(file, weights, local, commit)
    else:
        path = downloads / file.path
        if not path.is_file():
            label = Path(file.path).name
            fetch_url(
                hub_url(weights.repository, commit, file.path, origin or None),
                path,
                size=file.bytes,
                progress=lambda here, total: monitor.progress(here // 1_000_000, total // 1_000_000, f"MB of {label}"),
            )
    size, digest = path.stat().st_size, ""
    if file.bytes in (None, size):
        digest = file_sha256(path)
    if (expected and digest != expected) or not digest:
        other = other_file(path)
        if local is None:
            path.unlink()
        raise WeightsError(
            path,
            found=other or (f"{size} bytes, SHA-256 {digest}" if digest else f"{size} bytes"),
            expected=f"SHA-256 {expected}" if digest else f"{file.bytes} bytes",
            advice="it isn't the published file"
            + (": it was removed, fetch it again" if local is None else f": {FETCH_AGAIN}" if other else ""),
        )
    return path, digest


def _find(file: PublishedFile, weights: PublishedWeights, folder: Path, commit: str) -> Path:
    """The file in a local folder, however much of the repository's tree was copied; one and the same name counts only
    where the tail of the path agrees. A cache of the hub's own client is looked into, too."""
    pieces = file.path.split("/")
    snapshot = _snapshot(folder, weights, commit)
    places = [
        *([snapshot / file.path] if snapshot else []),
        folder / weights.repository / file.path,
        *(folder.joinpath(*pieces[k:]) for k in range(len(pieces))),
    ]
    # A bare name could be any other group's or app's: each has a CV_0.pt.
    if file.sha256 is None and len(pieces) > 1 and folder.resolve().name != pieces[-2]:
        places.pop()
    for place in places:
        if place.is_file():
            return place
    raise InputError(folder, found=f"no {file.path}", expected="the files of " + weights.repository)


def _snapshot(folder: Path, weights: PublishedWeights, commit: str) -> Path | None:
    """The commit's folder in a cache of the hub's client (`models--OWNER--NAME/snapshots/COMMIT`, links into `blobs/`);
    where no commit is known, the only one.

    Raises:
        InputError: Several commits, and nothing says which.
    """
    name = "models--" + weights.repository.replace("/", "--")
    found = [s for root in (folder, folder / name, folder / "hub" / name) for s in sorted(root.glob("snapshots/*"))]
    if commit != LOCAL:
        known = all(f.sha256 for f in weights.files) and bool(weights.files)  # then any commit's files may be these
        return next((s for s in found if s.name.startswith(commit)), found[-1] if found and known else None)
    if len(found) > 1:
        raise InputError(
            folder,
            found=f"{len(found)} commits in the cache ({', '.join(s.name[:8] for s in found)})",
            expected="--revision with the 40 digits of one of them",
        )
    return found[0] if found else None


def _revision(weights: PublishedWeights, given: str | None, endpoint: str | None) -> str:
    """The commit to fetch from. The files' hashes decide what is accepted; a commit only says where they lie.

    Raises:
        InputError: None is known and none was given, or it isn't one.
    """
    if given is not None and not re.fullmatch(r"[0-9a-f]{40}", given.lower()):
        raise InputError("--revision", found=f"'{given}'", expected="the 40 digits of a commit (a branch may change)")
    revision = (given or weights.revision or "").lower()
    if revision:
        if len(revision) < 40 and endpoint is not None:
            return _whole_commit(weights.repository, revision, endpoint or ENDPOINT) or "main"
        return revision
    record = _hash_record(weights)
    recorded = FirstHashes.read(record).revision if record.is_file() else LOCAL
    if endpoint is None or recorded != LOCAL:
        return recorded
    raise InputError(
        weights.name,
        found="no verified revision is recorded for it",
        expected="--revision with the 40 digits of a commit",
        advice=f"they are shown on {ENDPOINT}/{weights.repository}/commits/main",
    )


def _whole_commit(repository: str, start: str, endpoint: str) -> str | None:
    """The 40 digits of a commit that begins so, which the hub asks for; None where its list can't tell."""
    try:
        with urlopen(f"{endpoint.rstrip('/')}/api/models/{repository}/commits/main", timeout=TIMEOUT_S) as response:
            commits = json.loads(response.read(1 << 20))
        return next((c["id"] for c in commits if str(c["id"]).startswith(start)), None)
    except (URLError, OSError, ValueError, KeyError, TypeError):
        return None


def _hash_record(weights: PublishedWeights) -> Path:
    return installed_weights() / f"{weights.name}.hashes.json"


def _first_hashes(weights: PublishedWeights, commit: str) -> dict[str, str]:
    path = _hash_record(weights)
    record = FirstHashes.read(path) if path.is_file() else None
    return record.sha256 if record is not None and record.revision == commit else {}


def _convert(
    weights: PublishedWeights,
    name: str,
    paths: dict[str, Path],
    hashes: dict[str, str],
    commit: str,
    local: Path | None,
    out: Path,
    storage: StorageType,
) -> None:
    from sctlab.training.card import model_card
    from sctlab.training.konfai import pack_konfai

    for group in weights.groups:
        bundle = pack_konfai(
            [paths[f.path] for f in group.files],
            out,
            task=weights.task,
            recipe=weights.recipe,
            regions=",".join(group.regions),
            storage=storage,
        )
    published = {
        "name": weights.name,
        "repository": weights.repository,
        "revision": commit,
        "licence": weights.licence,
        "trained_with": weights.trained_with,
        "note": weights.note,
        "files": hashes,
        "from": "a local folder" if local is not None else "the network",
    }
    bundle = bundle.model_copy(
        update={
            "name": name,
            "registration": Registration(**weights.registration.model_dump()),
            "provenance": bundle.provenance | {"published": published},
        }
    )
    write_bundle(bundle, out)
    write_text(out / CARD, model_card(bundle))
