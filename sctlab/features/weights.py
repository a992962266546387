"""Where weights come from: a local file, or the hub at a pinned revision with a checked SHA-256."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from sctlab.weights.download import fetch_url, hub_url
from sctlab.workflow.locking import one_at_a_time
from sctlab_model.errors import InputError, WeightsError
from sctlab_model.io.atomic import atomic_path, writing_error
from sctlab_model.io.hashing import file_sha256
from sctlab_model.io.paths import not_a_file
from sctlab_model.monitor import Monitor
from sctlab_model.records import Record

if TYPE_CHECKING:  # fetching a file needs no network
    from torch import Tensor

LOCAL = "local"  # in the place of a commit, where a folder's file has none


@dataclass(frozen=True)
class Source:
    """A public file of weights.

    Args:
        repository: On the Hugging Face hub.
        file: Path inside it.
        revision: Commit; None where no revision was verified: the user must give it.
        sha256: Of the file; None where it wasn't verified: the first download records it.
    """

    repository: str
    file: str
    revision: str | None = None
    sha256: str | None = None

    @property
    def pinned(self) -> bool:
        """Whether it can be downloaded without further options."""
        return bool(self.revision and self.sha256)


class FetchRecord(Record):
    """`<name>.json` beside a downloaded file: where it came from, and the hash that it must keep."""

    repository: str
    file: str
    revision: str
    sha256: str
    first_seen: bool = Field(
        default=False, description="The hash is the first download's own: nothing verified it independently."
    )


def weights_folder() -> Path:
    """Where downloaded weights lie: `SCTLAB_FEATURES`, or the user's cache."""
    return Path(os.environ.get("SCTLAB_FEATURES") or Path.home() / ".cache" / "sctlab" / "features")


def local_weights(name: str, source: Source) -> Path | None:
    """The downloaded file of a public extractor; None when it isn't there."""
    path = weights_folder() / f"{name}{Path(source.file).suffix}"
    return path if path.is_file() else None


def need_weights(name: str, source: Source) -> Path:
    """The downloaded file, which must be there and be what its download recorded.

    Raises:
        WeightsError: It isn't here, or was altered.
    """
    path = local_weights(name, source)
    if path is None:
        options = "" if source.pinned else " --revision COMMIT"
        raise WeightsError(
            name,
            found="its weights aren't here",
            expected=f"a downloaded file in {weights_folder()}",
            advice=f"run `sctlab features download {name}{options}`",
        )
    record = path.with_suffix(".json")
    expected = FetchRecord.read(record).sha256 if record.is_file() else source.sha256
    if expected is not None and file_sha256(path) != expected:
        raise WeightsError(
            path,
            found=f"SHA-256 {file_sha256(path)}",
            expected=expected,
            advice="the file was altered or is another one: download it again",
        )
    return path


def download(
    name: str,
    source: Source,
    *,
    revision: str | None = None,
    sha256: str | None = None,
    origin: str = "",
    monitor: Monitor = Monitor(),
) -> Path:
    """Fetch the weights of a public extractor, check them, and record what was fetched.

    Where neither the source nor the caller knows the hash, the first download records it, says so, and every later one
    must agree.

    Args:
        name: Of the extractor.
        source: Where its weights are.
        revision: Commit on the hub (40 digits), instead of the recorded one.
        sha256: Expected hash, instead of the recorded one.
        origin: A folder that holds the file (under its path, under the repository's name, as the hub's own client keeps it,
            or as it is), or the address of a mirror of the hub; the hub when left out. A folder's file needs no revision.

    Raises:
        InputError: No revision known and none given, a revision that is no commit, no network, or no such file in the folder.
        WeightsError: The file's hash differs from the expected one; nothing is kept.
    """
    path = weights_folder() / f"{name}{Path(source.file).suffix}"
    with one_at_a_time(path, lambda: monitor.info(f"{name} is being fetched by another process: waiting for it")):
        return _download(name, source, path, revision, sha256, origin, monitor)


def _download(
    name: str, source: Source, path: Path, revision: str | None, sha256: str | None, origin: str, monitor: Monitor
) -> Path:
    local = Path(origin) if origin and "://" not in origin else None
    record_path = path.with_suffix(".json")
    before = FetchRecord.read(record_path) if record_path.is_file() else None
    if before is not None and revision is not None and before.revision != revision:
        before = None  # another revision was asked for
    recorded = before.revision if before is not None and before.revision != LOCAL else None
    revision = (revision or recorded or source.revision or "").lower()
    if local is not None and not revision:
        revision = LOCAL
    elif not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise InputError(
            name,
            found=f"revision '{revision}'" if revision else "no verified revision is recorded for it",
            expected="--revision with the 40 digits of a commit (a branch may change)",
            advice=f"they are shown on https://huggingface.co/{source.repository}/commits/main",
        )
    # The recorded hash belongs to the recorded revision.
    pinned = source.sha256 if revision == source.revision else None
    expected = (sha256 or (before.sha256 if before else None) or pinned or "").lower()
    if expected and not re.fullmatch(r"[0-9a-f]{64}", expected):
        raise InputError(name, found=f"SHA-256 '{expected}'", expected="64 hexadecimal digits")
    if expected and path.is_file() and file_sha256(path) == expected:
        return path
    partial = path.with_name(f"{path.name}.{revision[:8]}")
    fetched = _fetch(source, revision, partial, origin) if local is None else _copy(source, revision, partial, local)
    digest = file_sha256(fetched)
    if expected and digest != expected:
        fetched.unlink()
        raise WeightsError(
            name,
            found=f"SHA-256 {digest}",
            expected=expected,
            advice="the file at that revision isn't the one recorded",
        )
    fetched.replace(path)
    FetchRecord(
        repository=source.repository,
        file=source.file,
        revision=revision,
        sha256=digest,
        first_seen=not expected,
    ).write(record_path)
    if not expected:
        monitor.warning(
            f"{name}: no hash was known; SHA-256 {digest} is recorded in {record_path} and holds from now on"
        )
    return path


def _fetch(source: Source, revision: str, path: Path, mirror: str) -> Path:
    return fetch_url(hub_url(source.repository, revision, source.file, mirror or None), path)


def _copy(source: Source, revision: str, path: Path, folder: Path) -> Path:
    """The file of a local folder, however much of the repository's tree was copied."""
    if not folder.is_dir():
        raise InputError(
            folder, found="a file" if folder.exists() else "no such folder", expected=f"a folder with {source.file}"
        )
    pieces = source.file.split("/")
    client = Path("models--" + source.repository.replace("/", "--"), "snapshots", revision)
    places = [folder / client, folder / "hub" / client, folder / "snapshots" / revision, folder / source.repository]
    files = [p / source.file for p in places] + [folder.joinpath(*pieces[k:]) for k in range(len(pieces))]
    found = next((f for f in files if f.is_file()), None)
    if found is None:
        raise InputError(folder, found=f"no {source.file}", expected=f"a file of {source.repository}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return Path(shutil.copyfile(found, path))
    except OSError as error:
        raise writing_error(path, error) from error


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        WeightsError: Missing, cut, or of another type (pickled checkpoints are refused).
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise WeightsError(path, found=not_a_file(path), expected="a safetensors file of weights")
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = dict(handle.metadata() or {})
            return {key: handle.get_tensor(key) for key in handle.keys()}, metadata  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            path,
            found=f"can't be read ({error})",
            expected="a complete safetensors file",
            advice="pickled checkpoints (.pth, .bin) are not loaded",
        ) from error


def write_weights(tensors: dict[str, Tensor], path: str | Path, architecture: dict[str, object]) -> Path:
    """Write weights atomically, with what `load_extractor` needs to build the network in the file's metadata."""
    from safetensors.torch import save_file

    path = Path(path)
    with atomic_path(path) as temporary:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, {"extractor": json.dumps(architecture)})
    return path
