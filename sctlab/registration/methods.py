"""The methods of `sctlab register`, behind one call."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sctlab.registration.pairs import Pair, PairFiles, exchanged
from sctlab.registration.settings import Method, RegistrationSettings
from sctlab.transforms.data import Transform
from sctlab_model.cases import Region, Task
from sctlab_model.errors import InputError
from sctlab_model.io.hashing import file_sha256
from sctlab_model.volume import Volume

if TYPE_CHECKING:
    from sctlab.registration.engine.settings import Preset

RESULT_VERSION = 4  # raise it when results of older code must be made again
SLIDING_VERSION = 2  # … those of presets with `sliding` alone: how the cavity and the field between both sides are made


@dataclass(frozen=True)
class MethodResult:
    """The outcome of a method.

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
    details: dict[str, Any] = field(default_factory=dict)


def register_pair(pair: Pair, settings: RegistrationSettings) -> MethodResult:
    """Register one pair.

    Raises:
        InputError: The method can't take this pair, or doesn't know the preset.
        RegistrationError: No usable transform.
    """
    if settings.method is Method.ELASTIX:
        from sctlab.registration.elastix.register import register_elastix

        result = register_elastix(
            pair.fixed,
            pair.moving,
            pair.fixed_mask,
            task=pair.task,
            region=pair.region,
            ct_is_fixed=pair.ct_is_fixed,
            seed=settings.seed,
        )
        notes = result.notes
        if settings.device == "cuda":
            notes = (*notes, "elastix runs on the CPU")
        return MethodResult(result.transform, device_in_words(settings), notes)
    return _with_engine(pair, settings)


def register_back(pair: Pair, settings: RegistrationSettings) -> Transform:
    """The same registration with fixed and moving exchanged: from moving to fixed points."""
    return register_pair(exchanged(pair), settings).transform


def presets_of(settings: RegistrationSettings, task: Task, region: Region) -> tuple[Preset, ...]:
    """The engine's presets for a case with all their numbers; none for elastix.

    Raises:
        InputError: An unknown preset.
    """
    from sctlab.registration.presets import default_preset, find_presets

    if settings.method is Method.ELASTIX:
        return ()
    if settings.presets:
        return find_presets(",".join(settings.presets))
    return find_presets(default_preset(task, region) if settings.method is Method.IMPACT else settings.method.value)


def result_key(settings: RegistrationSettings, files: PairFiles) -> str:
    """SHA-256 of everything that a result depends on.

    That is the result version, the settings, every number of the presets, the anatomy network where they use it, what the
    images are said to be, and the input files: role, name and content.

    Raises:
        InputError: A file that can't be read, or an unknown preset.
    """
    presets = presets_of(settings, files.task, files.region)
    described: list[Any] = [
        RESULT_VERSION,
        settings.changed(presets=()).model_dump(mode="json"),  # what the presets say counts, not where they lie
        [_without_places(p).model_dump(mode="json") for p in presets],
        files.task,
        files.region,
        files.mask_is_fixed,
    ]
    if any(preset.sliding for preset in presets):
        described.append(SLIDING_VERSION)
    if any(preset.sliding or "anatomy" in {t.extractor for t in preset.features} for preset in presets):
        described.append(_anatomy_network())
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    networks = sorted({t.extractor for p in presets for t in p.features if _is_file(t.extractor)})
    for role, path in (*files.inputs().items(), *(("extractor", Path(name)) for name in networks)):
        try:
            content = file_sha256(path)
        except OSError as error:
            raise InputError(
                path, found=f"can't be read ({error.strerror or error})", expected="a readable file"
            ) from error
        digest.update(f"{role}:{path.name}:{content}\n".encode())
    return digest.hexdigest()


def _anatomy_network() -> str | None:
    """The hash that its manifest gives the anatomy network, whose organs also bound what slides; None where it isn't."""
    from sctlab_model.anatomy.shipped import FOLDER, MANIFEST, NETWORK, AnatomyManifest, is_here

    return AnatomyManifest.read(FOLDER / MANIFEST).networks.get(NETWORK) if is_here() else None


def check_settings(settings: RegistrationSettings) -> None:
    """Refuse what no case can be registered with, before the first one is read.

    Raises:
        InputError: An unknown device, a GPU that isn't there, an unknown preset, presets of another method.
    """
    from sctlab.registration.presets import find_presets
    from sctlab_model.device import choose_device

    if settings.presets and settings.method is not Method.IMPACT:
        raise InputError(
            "--preset",
            found=", ".join(settings.presets),
            expected=f"none with --method {settings.method}",
            advice="presets belong to --method impact",
        )
    if settings.presets:
        find_presets(",".join(settings.presets))
    choose_device(settings.device)  # last, because it loads torch


def device_in_words(settings: RegistrationSettings) -> str:
    """The device that runs, for the record.

    Raises:
        InputError: The named device isn't there.
    """
    from sctlab_model.device import choose_device, describe_device

    if settings.method is Method.ELASTIX:
        return f"cpu (itk-elastix {_version('itk-elastix')})"
    return describe_device(choose_device(settings.device))


def _with_engine(pair: Pair, settings: RegistrationSettings) -> MethodResult:
    from sctlab.registration.elastix.register import BONE_HU
    from sctlab.registration.engine.register import register

    # The engine's rigidity follows the moving image; the CT is the one that shows bone.
    bone = None if pair.ct_is_fixed else pair.moving.with_array(pair.moving.array > BONE_HU)
    presets = presets_of(settings, pair.task, pair.region)
    cavity, notes = _cavity_of(pair) if any(preset.sliding for preset in presets) else (None, ())
    result = register(
        pair.fixed,
        pair.moving,
        fixed_mask=pair.fixed_mask,
        bone=bone,
        cavity=cavity,
        cavity_is_fixed=pair.ct_is_fixed,
        preset=presets,
        device=settings.device,
        seed=settings.seed,
    )
    if cavity is not None and result.sliding is None:
        notes = (
            *notes,
            "the CT's cavity has no surface within what is registered: nothing slides, the field is smooth",
        )
    return MethodResult(result.transform, result.device, notes, spread=result.spread, details=result.record())


def _cavity_of(pair: Pair) -> tuple[Volume | None, tuple[str, ...]]:
    """The cavity of the CT, from its labels where they show one, and what the record says about that."""
    from sctlab.registration.cavity import cavity_by_labels, find_cavity, of_version_1  # here, because it loads torch

    ct, labels = (pair.fixed, pair.fixed_labels) if pair.ct_is_fixed else (pair.moving, pair.moving_labels)
    said: tuple[str, ...] = ()
    if labels is not None and of_version_1(ct, labels):
        said = (
            "the CT's labels are numbered as by TotalSegmentator version 1 (where version 2 has vessels, bladder and muscles "
            "there is bone, and none where it has ribs, neck and skull): renumber them as version 2's `total` to have them "
            "used; the cavity is looked for in the CT",
        )
    elif labels is not None:
        cavity = cavity_by_labels(ct, labels)
        if cavity is not None:
            return cavity, ("the cavity in which organs slide comes from the CT's labels",)
        said = (
            "the CT's labels show no cavity (expected: TotalSegmentator's total ids of two organs or more, a litre of "
            "them, and of bones): it is looked for in the CT",
        )
    cavity = find_cavity(ct)
    if cavity is None:
        said = (*said, "no cavity was found in the CT: nothing slides, the field is smooth")
    return cavity, said


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _is_file(extractor: str) -> bool:
    from sctlab.registration.presets import NETWORK_SUFFIXES

    return Path(extractor).suffix in NETWORK_SUFFIXES


def _without_places(preset: Preset) -> Preset:
    """A preset without its own name and the folders of its network files: their content is hashed apart."""
    features = tuple(
        t.changed(extractor=Path(t.extractor).name) if _is_file(t.extractor) else t for t in preset.features
    )
    return preset.changed(name="", features=features)
