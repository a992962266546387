"""Prepared cases on disk: uncompressed arrays that are memory-mapped, so a cohort may be larger than memory."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from sctlab.cohort.pairs import Pair
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import atomic_folder, write_json
from sctlab_model.io.hashing import file_sha256
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.preparation import Prepared, cut, orient, prepare, prepare_target
from sctlab_model.recipe import Recipe
from sctlab_model.volume import Geometry, Volume, resample

FORMAT = 1  # raise when preparation or this layout changes what lies in a cache


@dataclass(frozen=True)
class PreparedCase:
    """A pair on the canvas; its arrays are mapped when they are asked for, so any number of cases can be held.

    Args:
        key: Case key.
        folder: Where the arrays lie.
        outside: Normalised value of the source's padding.
        patient: Whose images these are.
    """

    key: str
    folder: Path
    outside: float
    patient: str = ""

    @classmethod
    def open(cls, key: str, folder: Path, patient: str = "") -> PreparedCase:
        """The prepared case of a folder."""
        values = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        return cls(key, folder, float(values["outside"]), patient or key)

    @property
    def source(self) -> np.ndarray:
        """Normalised source, float32 [z, y, x]."""
        return _mapped(self.folder)["source"]

    @property
    def target(self) -> np.ndarray:
        """CT in [-1, 1], float32 [z, y, x]; NaN where the registration had no data in the body."""
        return _mapped(self.folder)["target"]

    @property
    def mask(self) -> np.ndarray:
        """Body, bool [z, y, x]."""
        return _mapped(self.folder)["mask"]

    @property
    def fractions(self) -> np.ndarray:
        """What the voxels are made of, uint8 [6, z, y, x]; only where the case was prepared with them."""
        path = self.folder / "fractions.npy"
        if not path.is_file():
            raise InputError(self.key, found="no fraction maps", expected="a case prepared with them")
        return np.load(path, mmap_mode="r")

    @property
    def voxels(self) -> np.ndarray:
        """Body voxels with a target up to and including each row (z, y), int64 [z * y]."""
        return _mapped(self.folder)["voxels"]

    def body_voxel(self, rank: int) -> tuple[int, int, int]:
        """The body voxel z, y, x with a target and that rank; drawing the rank evenly draws the voxel evenly."""
        row = int(np.searchsorted(self.voxels, rank, side="right"))
        before = int(self.voxels[row - 1]) if row else 0
        z, y = divmod(row, self.mask.shape[1])
        known = self.mask[z, y] & np.isfinite(self.target[z, y])
        return z, y, int(np.flatnonzero(known)[rank - before])


# Every mapped array holds a file descriptor, and a process may have 1024 of them. Mapping a case again takes 0.4 ms.
@lru_cache(maxsize=32)
def _mapped(folder: Path) -> dict[str, np.ndarray]:
    return {n: np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("source", "target", "mask", "voxels")}


def cache_key(pair: Pair, recipe: Recipe, fractions: bool = False) -> str:
    """Name of a prepared case: its content and the choices of the recipe that shape it.

    Raises:
        InputError: `fractions` of a case that has none.
    """
    choices = recipe.model_dump(
        mode="json",
        include={
            "task",
            "spacing_xyz",
            "spacing_tolerance",
            "max_tilt_deg",
            "bias_correction",
            "normalisation",
            "target_range_hu",
            "canvas",
        },
    )
    content = [FORMAT, pair.digest, choices]
    if fractions:
        if pair.fractions is None:
            raise InputError(
                pair.key,
                found="no truth/fractions.npz",
                expected="what its voxels are made of, because data.contrast is set",
                advice="simulate the cohort with --fractions",
            )
        content.append(file_sha256(pair.fractions))
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def prepare_case(pair: Pair, recipe: Recipe, cache: Path, fractions: bool = False) -> None:
    """Prepare a case if it isn't there. Safe for several processes at once.

    Raises:
        InputError: Unreadable images, no voxel with a target, no fraction maps though they are wanted, or no room.
    """
    folder = cache / cache_key(pair, recipe, fractions)
    if not (folder / "case.json").is_file():
        _prepare_into(pair, recipe, folder, fractions)


def prepared_case(pair: Pair, recipe: Recipe, cache: Path, fractions: bool = False) -> PreparedCase:
    """Open a prepared case, preparing it first if it isn't there; errors are those of `prepare_case`."""
    prepare_case(pair, recipe, cache, fractions)
    return PreparedCase.open(pair.key, cache / cache_key(pair, recipe, fractions), pair.patient)


def on_grid(volume: Volume, grid: Geometry) -> Volume:
    """The same voxels with the grid's own numbers: checks take what differs by rounding, preparation takes nothing."""
    return Volume(volume.array, grid, volume.name)


def _fractions_on_canvas(path: Path, source: Volume, prepared: Prepared) -> np.ndarray:
    """Fraction maps of a source's grid on its canvas, by nearest neighbour: one channel is a code."""
    from sctlab.simulation.fractions import Channel, read_fractions

    channels = read_fractions(path)
    if channels.shape[1:] != source.geometry.shape_zyx:
        raise InputError(
            path, found=f"maps of {channels.shape[1:]} voxels", expected=f"the source's {source.geometry.shape_zyx}"
        )
    start = np.rint(prepared.upright.to_index(np.array(prepared.grid.origin_xyz))).astype(int)[::-1]
    result = []
    for channel, values in enumerate(channels):
        upright = orient(Volume(values, source.geometry))
        if not prepared.upright.same_grid(upright.geometry):
            upright = resample(upright, prepared.upright, interpolation="nearest")
        fill = 255 if channel == Channel.AIR else 0
        result.append(cut(upright.array, tuple(start), prepared.grid.shape_zyx, fill))
    return np.stack(result).astype(np.uint8, copy=False)


def _prepare_into(pair: Pair, recipe: Recipe, folder: Path, fractions: bool) -> None:
    source = read_volume(pair.source)
    target, mask = (
        on_grid(read_volume(pair.target), source.geometry),
        on_grid(read_mask(pair.mask), source.geometry),
    )
    prepared = prepare(source, mask, recipe)
    unit = prepare_target(target, prepared, recipe)
    if pair.field_of_view is not None:
        # Where the moving image had no data there is no target. The mask stays as inference will have it.
        seen = on_grid(read_mask(pair.field_of_view), source.geometry)
        inside = prepare_target(
            target.with_array(np.where(seen.array, *recipe.target_range_hu[::-1])), prepared, recipe
        )
        unit = np.where(prepared.mask & (inside < 0), np.float32(np.nan), unit)
    known = prepared.mask & np.isfinite(unit)
    if not known.any():
        raise InputError(
            pair.key, found="no voxel of the body has a target", expected="a field of view that meets the body"
        )
    arrays = {
        "source": prepared.source.astype(np.float32, copy=False),
        "target": unit,
        "mask": prepared.mask,
        "voxels": np.cumsum(known.sum(axis=2, dtype=np.int64).ravel()),
    }
    if fractions:
        assert pair.fractions is not None
        arrays["fractions"] = _fractions_on_canvas(pair.fractions, source, prepared)
    # Written beside and renamed: another process sees the whole case or none; the first one wins.
    with atomic_folder(folder, keep_existing=True) as temporary:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        write_json(temporary / "case.json", {"id": pair.key, "outside": prepared.pad_value})
