"""Where weights come from: a local file, or the hub at a pinned revision with a checked SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sctlab_model.errors import InputError, WeightsError


@dataclass(frozen=True)
class Source:
    """A public file of weights.

    Args:
        repository: On the Hugging Face hub.
        file: Path inside it.
        revision: Commit; None where no revision was verified: the user must give it.
        sha256: Of the file; None likewise.
        note: Licence and origin.
    """

    repository: str
    file: str
    revision: str | None = None
    sha256: str | None = None
    note: str = ""

    @property
    def pinned(self) -> bool:
        """Whether it can be downloaded without further options."""
        return bool(self.revision and self.sha256)


_IMPACT = "VBoussot/impact-torchscript-models"
_IMPACT_REVISION = "48f69637cdb56fdd2947bb5c4b67a38a82814ac7"
_IMPACT_NOTE = "TotalSegmentator as TorchScript, for the IMPACT metric"

# Revisions and hashes are those that the hub shows for the files. A hash that wasn't seen there is left open.
SOURCES: dict[str, Source] = {
    "vgg16": Source(
        "timm/vgg16.tv_in1k",
        "model.safetensors",
        "3394518cba29aee1ea82a49d971be90d2dd1dab7",
        "57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8",
        "torchvision's ImageNet weights, BSD-3",
    ),
    "vgg19": Source(
        "timm/vgg19.tv_in1k",
        "model.safetensors",
        "128d4708565b3a414bcbb9bbad440b2fe37b9f18",
        "11aea017b543ff59233749d8f1cf544cda749378f5790d2fedab841fb86b7669",
        "torchvision's ImageNet weights, BSD-3",
    ),
    "sam2.1-tiny": Source("facebook/sam2.1-hiera-tiny", "model.safetensors", note="Apache-2.0"),
    "sam2.1-small": Source("facebook/sam2.1-hiera-small", "model.safetensors", note="Apache-2.0"),
    "ts-m292-2": Source(
        _IMPACT, "TS/M292_2_Layers.pt", _IMPACT_REVISION,
        "09cdfabdf33cfb67f4a4b7b79e677ca881b4e7316dca1a163d9f9e85ffd70d48", _IMPACT_NOTE,
    ),
    "ts-m292-7": Source(
        _IMPACT, "TS/M292_7_Layers.pt", _IMPACT_REVISION,
        "d3b085c072fc93e390d9ebe774c10f9be2abd45fdda508a2970c51792912f9b2", _IMPACT_NOTE,
    ),
    "ts-m293-2": Source(
        _IMPACT, "TS/M293_2_Layers.pt", _IMPACT_REVISION,
        "ffd584c7a9d31efe5cf42c8d9267167b68972b7b2d52e602af40a213418b49a6", _IMPACT_NOTE,
    ),
    "ts-m294-7": Source(
        _IMPACT, "TS/M294_7_Layers.pt", _IMPACT_REVISION,
        "9cff2579e54b94bba40614e700a975be3fe9c7657310f2d0f8a23e8f5af5afdc", _IMPACT_NOTE,
    ),
    "ts-m295-7": Source(
        _IMPACT, "TS/M295_7_Layers.pt", _IMPACT_REVISION,
        "cc0c3228c939c0a5981262ff7f7e750cb160b0763c8740b23cdc5183005babe0", _IMPACT_NOTE,
    ),
    "ts-m295-8": Source(
        _IMPACT, "TS/M295_8_Layers.pt", _IMPACT_REVISION,
        "9664528c2e5e0a8f35a094e138b5aaabba26d790ba41375799ea39342dd8fb47", _IMPACT_NOTE,
    ),
    "ts-m730-2": Source(_IMPACT, "TS/M730_2_Layers.pt", note=_IMPACT_NOTE + " (MR)"),
    "ts-m850-7": Source(_IMPACT, "TS/M850_7_Layers.pt", note=_IMPACT_NOTE + " (MR)"),
}  # fmt: skip


def weights_folder() -> Path:
    """Where downloaded weights lie: `SCTLAB_FEATURES`, or the user's cache."""
    return Path(os.environ.get("SCTLAB_FEATURES") or Path.home() / ".cache" / "sctlab" / "features")


def local_weights(name: str) -> Path | None:
    """The downloaded file of a public extractor; None when it isn't there."""
    source = SOURCES[name]
    path = weights_folder() / f"{name}{Path(source.file).suffix}"
    return path if path.is_file() else None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def download(name: str, *, revision: str | None = None, sha256: str | None = None) -> Path:
    """Fetch the weights of a public extractor and check them.

    Raises:
        InputError: Unknown name, no pin known and none given, or no network.
        WeightsError: The file's hash differs from the expected one; nothing is kept.
    """
    from sctlab_model.io.writing import atomic_path

    if name not in SOURCES:
        raise InputError(
            "features download", found=f"unknown extractor '{name}'", expected="one of " + ", ".join(SOURCES)
        )
    source = SOURCES[name]
    revision, expected = revision or source.revision, (sha256 or source.sha256 or "").lower()
    if not revision or len(expected) != 64:
        raise InputError(
            name,
            found="no verified revision and hash are recorded for it",
            expected="--revision and --sha256",
            advice=f"both are shown on https://huggingface.co/{source.repository}/blob/main/{source.file}",
        )
    path = weights_folder() / f"{name}{Path(source.file).suffix}"
    if path.is_file() and sha256_of(path) == expected:
        return path
    fetched = _fetch(name, source, revision)
    found = sha256_of(fetched)
    if found != expected:
        raise WeightsError(
            name, found=f"SHA-256 {found}", expected=expected, advice="the file at that revision isn't the one recorded"
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(fetched.read_bytes())
    return path


def _fetch(name: str, source: Source, revision: str) -> Path:
    import httpx
    from huggingface_hub import constants, hf_hub_download, logging
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    logging.set_verbosity_error()
    try:
        httpx.head(constants.ENDPOINT, timeout=10)  # without a network the library would retry for half a minute
        return Path(hf_hub_download(source.repository, source.file, revision=revision))
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise InputError(
            name, found=f"the hub refused {source.repository} ({reason})", expected="a public file"
        ) from error
    except (LocalEntryNotFoundError, OSError, httpx.HTTPError) as error:
        raise InputError(
            name,
            found="the Hugging Face hub can't be reached",
            expected="a network connection",
            advice=f"or copy the file to {weights_folder()}/{name}{Path(source.file).suffix}",
        ) from error


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        WeightsError: Missing, cut, or of another type (pickled checkpoints are refused).
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise WeightsError(path, found="no such file", expected="a safetensors file of weights")
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

    from sctlab_model.io.writing import atomic_path

    path = Path(path)
    with atomic_path(path) as temporary:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, {"extractor": json.dumps(architecture)})
    return path
