"""Bundles: `weights/<name>/bundle.json` and its folds as safetensors, every file with its SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sctlab_model.cases import Case, Region, Task, name_of
from sctlab_model.errors import ImplausibleError, InputError, WeightsError, meant
from sctlab_model.gates import ValidationStatistics
from sctlab_model.io.atomic import atomic_path, write_json
from sctlab_model.io.paths import not_a_file
from sctlab_model.recipe import Recipe
from sctlab_model.settings import validate

if TYPE_CHECKING:
    import torch

MANIFEST = "bundle.json"
FORMAT: Literal[2] = 2  # 1 had no padding rule and no scope of the percentiles in its recipe
CHALLENGE_WEIGHTS = Path("/opt/ml/model")
_HERE = Path(__file__).resolve().parent
# Inside the package when it was installed from a wheel; beside `model/` in a checkout.
SHIPPED_WEIGHTS = _HERE / "weights" if (_HERE / "weights").is_dir() else _HERE.parent / "weights"
WEIGHTS_NAME = r"^[a-z0-9][a-z0-9.-]*$"  # of installed bundles
StorageType = Literal["float16", "float32"]


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HashedFile(_Manifest):
    """A file beside the manifest."""

    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @field_validator("file")
    @classmethod
    def _bare(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(f"'{name}' is not a bare file name")
        return name


class Fold(_Manifest):
    """One trained network.

    Args:
        weights: The safetensors file.
        storage: Type of the stored weights.
        training_cases: Case ids whose images changed the weights.
        validation_cases: Case ids that chose the checkpoint.
        metrics: Validation results, e.g. `mae_hu` and `mae_all_water_hu`; per region under the region's name.
        onnx: Exported files by precision (`fp32`, `fp16`).
    """

    weights: HashedFile
    storage: StorageType
    training_cases: tuple[str, ...] = ()
    validation_cases: tuple[str, ...] = ()
    metrics: dict[str, float | dict[str, float]] = {}
    onnx: dict[Literal["fp32", "fp16"], HashedFile] = {}


class RegionGroup(_Manifest):
    """The folds that serve some regions."""

    regions: tuple[Region, ...] = Field(min_length=1)
    folds: tuple[Fold, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _different(self) -> RegionGroup:
        """The same network twice would count twice in the mean, and the spread would say less than it seems to."""
        hashes = [fold.weights.sha256 for fold in self.folds]
        if len(set(hashes)) < len(hashes):
            raise ValueError(f"two folds of {', '.join(self.regions)} have the same weights")
        return self


class Registration(_Manifest):
    """How the training pairs were aligned: scores depend on it."""

    method: str
    convention: Literal["ct_to_source", "source_to_ct", "aligned"]


class Bundle(_Manifest):
    """The manifest of a weights folder.

    Args:
        demonstration: True for weights that only show that the software works.
        validation: What the bundle's own validation saw, for the output gate.
        provenance: Anything else worth keeping: data, versions, revision, plan.
    """

    format: Literal[2] = FORMAT
    name: Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]  # a line: headers of images hold it
    recipe: Recipe
    groups: tuple[RegionGroup, ...] = Field(min_length=1)
    registration: Registration
    validation: ValidationStatistics | None = None
    intended_use: str
    demonstration: bool = False
    provenance: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_group_each(self) -> Bundle:
        repeated = {r.value for r in self.regions if self.regions.count(r) > 1}
        if repeated:
            raise ValueError(f"region {', '.join(sorted(repeated))} stands in the groups more than once")
        return self

    @property
    def task(self) -> Task:
        """The task that the bundle serves."""
        return self.recipe.task

    @property
    def regions(self) -> tuple[Region, ...]:
        """All regions served."""
        return tuple(r for group in self.groups for r in group.regions)

    def group_for(self, case: Case) -> RegionGroup:
        """The folds for a case's region; the region isn't needed where there is one group.

        Raises:
            InputError: No region where the bundle needs one, or a region that it doesn't serve.
        """
        if case.region is None:
            if len(self.groups) == 1:
                return self.groups[0]
            raise InputError(
                name_of(case.source),
                found="no region",
                expected=f"one of {', '.join(self.regions)}",
                advice=f"bundle {self.name} has folds per region: give --region",
            )
        for group in self.groups:
            if case.region in group.regions:
                return group
        raise InputError(
            name_of(case.source),
            found=f"region {case.region}",
            expected=f"one of {', '.join(self.regions)}",
            advice=f"bundle {self.name} doesn't serve it",
        )


def unseen_folds(group: RegionGroup, case_id: str) -> list[int]:
    """Indices of the folds that weren't trained on a case.

    Raises:
        WeightsError: Every fold was.
    """
    unseen = [k for k, fold in enumerate(group.folds) if case_id not in fold.training_cases]
    if not unseen:
        raise WeightsError(
            case_id,
            found="every fold of the bundle was trained on this case",
            expected="a fold that did not see it",
            advice="such a prediction says nothing about quality",
        )
    return unseen


def read_bundle(folder: str | Path) -> Bundle:
    """Read and check a manifest (the weights are checked when they are loaded).

    Raises:
        WeightsError: No manifest, not JSON, of a newer format, or an import whose recipe lacks what its weights need.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise WeightsError(path, found=not_a_file(path), expected="a weights bundle")
    try:
        return validate(Bundle, _migrate(json.loads(path.read_text(encoding="utf-8")), path), path)
    except OSError as error:
        raise WeightsError(path, found=f"can't be read ({error.strerror})", expected="a weights bundle") from error
    except (ValueError, RecursionError, InputError) as error:
        reason = error.found.removeprefix("settings: ") if isinstance(error, InputError) else str(error)
        expected = error.expected if isinstance(error, InputError) else ""
        raise WeightsError(
            path, found=f"a damaged manifest ({reason})", expected=expected or f"a bundle of format {FORMAT}"
        ) from error


def _migrate(manifest: Any, path: Path) -> Any:
    """An older manifest in today's format.

    Raises:
        WeightsError: It can't be: what its weights need was not recorded.
    """
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise WeightsError(
            path, found=f"format {version}", expected=f"at most {FORMAT}", advice="it needs a newer release"
        )
    if version != 1:
        return manifest
    if "imported_from" in (manifest.get("provenance") or {}):
        raise WeightsError(
            path,
            found="imported weights of format 1, whose padding and percentiles were not those of their training",
            expected=f"format {FORMAT}",
            advice="pack again: sctlab pack --from-konfai",
        )
    # What format 1 meant for weights that were trained here is what the new fields' defaults say.
    return manifest | {"format": FORMAT}


def write_bundle(bundle: Bundle, folder: str | Path) -> Path:
    """Write the manifest; the last step of packing, so that a bundle is whole or absent."""
    path = Path(folder) / MANIFEST
    write_json(path, bundle.model_dump(mode="json", exclude_defaults=False))
    return path


def save_fold(state: dict[str, torch.Tensor], folder: str | Path, name: str, storage: StorageType) -> HashedFile:
    """Write a fold's weights as safetensors and return its entry for the manifest.

    Raises:
        WeightsError: Values that aren't finite, or not in this storage.
    """
    import torch
    from safetensors.torch import save

    dtype = getattr(torch, storage)
    tensors = {k: (v.to(dtype) if v.is_floating_point() else v).detach().cpu().contiguous() for k, v in state.items()}
    for key, value in tensors.items():
        if not value.isfinite().all():
            raise WeightsError(
                name,
                found=f"{key}: values that are not finite as {storage}",
                expected="numbers",
                advice="choose float32 for storage" if state[key].isfinite().all() else "train again",
            )
    data = save(tensors)
    with atomic_path(Path(folder) / name) as temporary:
        temporary.write_bytes(data)
    return HashedFile(file=name, sha256=hashlib.sha256(data).hexdigest())


def read_checked(folder: str | Path, entry: HashedFile) -> bytes:
    """The bytes of a file, after its hash agreed.

    Raises:
        WeightsError: The file is missing or altered.
    """
    path = Path(folder) / entry.file
    if not path.is_file():
        raise WeightsError(path, found=not_a_file(path), expected=f"a file with SHA-256 {entry.sha256}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(path, found=f"can't be read ({error.strerror})", expected="a file of weights") from error
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        raise WeightsError(
            path,
            found=f"SHA-256 {found}",
            expected=f"SHA-256 {entry.sha256} as in {MANIFEST}",
            advice="the file was altered or cut: copy the bundle again",
        )
    return data


def load_fold(folder: str | Path, fold: Fold) -> dict[str, torch.Tensor]:
    """The weights of a fold, float32.

    Raises:
        WeightsError: Missing, altered, or not safetensors.
        ImplausibleError: Weights that are not finite. They need not show in the result: an activation may cut them to
            zero, and then a wrong image would pass the output gate.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = read_checked(folder, fold.weights)
    try:
        state = load(data)
    except SafetensorError as error:
        raise WeightsError(
            Path(folder) / fold.weights.file, found=f"not safetensors ({error})", expected="a safetensors file"
        ) from error
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    damaged = [k for k, v in state.items() if not bool(v.isfinite().all())]
    if damaged:
        raise ImplausibleError(
            Path(folder) / fold.weights.file,
            found=f"{len(damaged)} tensors with values that are not finite (first: {damaged[0]})",
            expected="finite weights",
            advice="the training diverged or the file was damaged before it was packed: train or pack it again",
        )
    return state


def find_bundles(root: str | Path) -> list[Path]:
    """Bundle folders: the folder itself, or its subfolders that hold a manifest (not those still being written)."""
    root = Path(root)
    if (root / MANIFEST).is_file():
        return [root]
    return sorted(p.parent for p in root.glob(f"[!.]*/{MANIFEST}")) if root.is_dir() else []


def installed_weights() -> Path:
    """Where `sctlab weights fetch` puts bundles: `SCTLAB_WEIGHTS`, or the user's cache."""
    return Path(os.environ.get("SCTLAB_WEIGHTS") or Path.home() / ".cache" / "sctlab" / "weights")


def installed_bundle(name: str) -> Path | None:
    """The folder of installed weights; None where none of this name are installed.

    Raises:
        WeightsError: The folder lost its manifest. Shipped weights of the same name are not what was meant.
    """
    folder = installed_weights() / name
    if not (folder.exists() or folder.is_symlink()):
        return None
    if not (folder / MANIFEST).is_file():
        raise WeightsError(
            folder,
            found=f"installed weights without {MANIFEST}",
            expected="a weights bundle",
            advice="fetch or copy them again, or remove the folder",
        )
    return folder


def weights_path(weights: str | Path) -> Path:
    """What `--weights` says as a folder: a folder that is there, or the name of installed or shipped weights.

    Raises:
        WeightsError: A name that no installed weights have, or whose installed folder lost its manifest.
    """
    path = Path(weights)
    if path.exists() or not re.fullmatch(WEIGHTS_NAME, str(weights)):
        return path
    for folder in (installed_bundle(str(path)), SHIPPED_WEIGHTS / path):
        if folder is not None and (folder / MANIFEST).is_file():
            return folder
    here = sorted({p.name for r in (installed_weights(), SHIPPED_WEIGHTS) for p in find_bundles(r)})
    raise WeightsError(
        path,
        found="neither a folder nor the name of weights that are here",
        expected=f"a bundle, or one of {', '.join(here) or 'none'}",
        advice=meant(path, here) or f"see `sctlab weights list`, and fetch it: sctlab weights fetch {path}",
    )


def choose_bundle(task: Task, weights: str | Path | None = None) -> Path:
    """The bundle for a task: `--weights` (a folder or a name), else a non-empty `/opt/ml/model`, else the shipped `weights/`.

    A place that is given but lacks the task is an error; it never falls through to the next one.

    Raises:
        WeightsError: No bundle, or none (or several) for the task.
    """
    if weights is not None:
        root = weights_path(weights)
    elif CHALLENGE_WEIGHTS.is_dir() and any(CHALLENGE_WEIGHTS.iterdir()):
        root = CHALLENGE_WEIGHTS
    else:
        root = SHIPPED_WEIGHTS
    folders = find_bundles(root)
    if not folders:
        raise WeightsError(root, found="no weights bundle", expected=f"{MANIFEST} here or in a folder below")
    bundles = {folder: read_bundle(folder) for folder in folders}
    matching = [folder for folder, bundle in bundles.items() if bundle.task is task]
    if len(matching) != 1:
        found = ", ".join(f"{folder.name} ({bundle.task})" for folder, bundle in bundles.items())
        raise WeightsError(
            root,
            found=f"{len(matching) or 'no'} bundles for task {task} among {found}",
            expected="exactly one",
            advice="name it with --weights" if matching else "give --weights a bundle of that task, or leave it out",
        )
    return matching[0]
