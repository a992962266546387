"""The methods of `sctlab register`, behind one call."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from sctlab.cohort.pairs import file_digest
from sctlab.registration.elastix.register import BONE_HU, register_elastix
from sctlab.registration.pairs import Convention, Pair, PairFiles, exchanged
from sctlab.transforms.transforms import Transform
from sctlab_model.errors import InputError
from sctlab_model.volume import Volume

if TYPE_CHECKING:
    from sctlab.registration.presets import Preset

NETWORK_SUFFIXES = (".pt", ".safetensors")  # of extractors that are files
RESULT_VERSION = 3  # raise it when results of older code must be made again


class Method(StrEnum):
    """How pairs are registered.

    `elastix`: the organisers' baseline. `impact`: the engine with feature metrics. `mi`: the engine with mutual
    information. `rigid`: the engine's rigid stage alone.
    """

    ELASTIX = "elastix"
    IMPACT = "impact"
    MI = "mi"
    RIGID = "rigid"


@dataclass(frozen=True)
class Settings:
    """Everything of the command that changes a result.

    Args:
        method: How.
        presets: Names of the engine's presets, several are averaged; empty chooses by task and region.
        convention: Which image is fixed.
        seed: Of every random choice.
        device: `auto`, `cpu` or `cuda`.
        both_ways: Register with the roles exchanged too and report the inverse consistency.
        displacement: Also write the displacement field.
    """

    method: Method = Method.IMPACT
    presets: tuple[str, ...] = ()
    convention: Convention = Convention.CT_TO_SOURCE
    seed: int = 0
    device: str = "auto"
    both_ways: bool = False
    displacement: bool = False

    def hash(self, files: PairFiles) -> str:
        """SHA-256 of everything that a result depends on.

        That is the result version, these settings, every number of the presets, what the images are said to be, and
        the input files: role, name and content.

        Raises:
            InputError: A file that can't be read, or an unknown preset.
        """
        presets = presets_of(self, files)
        chosen = asdict(replace(self, presets=()))  # what they say counts, not where their files lie
        said = [
            RESULT_VERSION,
            chosen,
            repr([_without_places(p) for p in presets]),
            files.task,
            files.region,
            files.mask_is_fixed,
        ]
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
        networks = {t.extractor for p in presets for t in p.features if Path(t.extractor).suffix in NETWORK_SUFFIXES}
        for role, path in (*files.inputs().items(), *(("extractor", Path(n)) for n in sorted(networks))):
            try:
                content = file_digest(path)
            except OSError as error:
                raise InputError(
                    path, found=f"can't be read ({error.strerror or error})", expected="a readable file"
                ) from error
            digest.update(f"{role}:{path.name}:{content}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Registration:
    """What a method found.

    Args:
        transform: From fixed to moving points.
        device: The device that ran, in words.
        notes: Decisions for the record.
        spread: Standard deviation of several presets' fields, mm, on the fixed grid.
        details: What the method says about itself (JSON values).
    """

    transform: Transform
    device: str = "cpu"
    notes: tuple[str, ...] = ()
    spread: Volume | None = None
    details: dict = field(default_factory=dict)


def register_pair(pair: Pair, settings: Settings) -> Registration:
    """Register one pair.

    Raises:
        InputError: The method can't register this pair, or doesn't know the preset.
    """
    if settings.method is Method.ELASTIX:
        result = register_elastix(
            pair.fixed,
            pair.moving,
            pair.fixed_mask,
            task=pair.files.task,
            region=pair.files.region,
            ct_is_fixed=pair.ct_is_fixed,
            seed=settings.seed,
        )
        notes = result.notes
        if settings.device == "cuda":
            notes = (*notes, "elastix runs on the CPU")
        return Registration(result.transform, device_in_words(settings), notes)
    return _with_engine(pair, settings)


def register_back(pair: Pair, settings: Settings) -> Transform:
    """The same registration with fixed and moving exchanged: from moving to fixed points."""
    return register_pair(exchanged(pair), settings).transform


def presets_of(settings: Settings, files: PairFiles) -> tuple[Preset, ...]:
    """The engine's presets for a case with all their numbers; none for elastix.

    Raises:
        InputError: An unknown preset.
    """
    from sctlab.registration.presets import find_presets

    return () if settings.method is Method.ELASTIX else find_presets(preset_names(settings, files))


def device_in_words(settings: Settings) -> str:
    """The device that runs, for the record.

    Raises:
        InputError: The named device isn't there.
    """
    from sctlab.registration.engine.register import choose_device, describe_device

    if settings.method is Method.ELASTIX:
        return f"cpu (itk-elastix {_version('itk-elastix')})"
    return describe_device(choose_device(settings.device))


def preset_names(settings: Settings, files: PairFiles) -> str:
    """The engine's presets for a case, as `a,b,c`."""
    from sctlab.registration.presets import default_preset

    if settings.presets:
        return ",".join(settings.presets)
    return default_preset(files.task, files.region) if settings.method is Method.IMPACT else settings.method.value


def _with_engine(pair: Pair, settings: Settings) -> Registration:
    from sctlab.registration.engine.register import register

    # The engine's rigidity follows the moving image; the CT is the one that shows bone.
    bone = None if pair.ct_is_fixed else pair.moving.with_array(pair.moving.array > BONE_HU)
    result = register(
        pair.fixed,
        pair.moving,
        fixed_mask=pair.fixed_mask,
        bone=bone,
        preset=preset_names(settings, pair.files),
        device=settings.device,
        seed=settings.seed,
    )
    return Registration(result.transform, result.device, spread=result.spread, details=result.record())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _without_places(preset: Preset) -> Preset:
    """A preset without its own name and the folders of its network files: their content is hashed apart."""
    features = tuple(
        replace(t, extractor=Path(t.extractor).name) if Path(t.extractor).suffix in NETWORK_SUFFIXES else t
        for t in preset.features
    )
    return replace(preset, name="", features=features)
