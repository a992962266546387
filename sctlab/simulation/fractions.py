"""What a voxel is made of: a tissue's water, fat, mineral, air, and iodine on top; from HU and tissue.

HU of a mixture is the mean of its parts' HU, so HU and the tissue give the shares. A voxel is kept in six bytes, so that
a whole case is small enough to keep beside its images and to draw new contrasts from while training.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path

import numpy as np
from scipy import ndimage

from sctlab.simulation.tissues import PROPERTIES, Tissue
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import atomic_path
from sctlab_model.io.paths import not_a_file

FAT_HU = -104.0
MATRIX_HU, SPONGY_HU = 1600.0, 350.0
FRACTIONS_FILE = "fractions.npz"  # under truth/
IODINE_HU_PER_STEP = 4.0
SLAB = 16
_T = Tissue
MARROW = (_T.RED_MARROW, _T.YELLOW_MARROW, _T.CORTICAL_BONE)
HOLLOW = (_T.AIR, _T.GAS, _T.COUCH_SHELL, _T.COUCH_FOAM, _T.METAL, _T.TOOTH)
COUCH = (_T.COUCH_SHELL, _T.COUCH_FOAM)
ENHANCED = (
    _T.BLOOD, _T.HEART, _T.KIDNEY, _T.MEDULLA, _T.LIVER, _T.SPLEEN, _T.PANCREAS, _T.BOWEL_WALL, _T.STOOL, _T.FLUID,
    _T.URINE, _T.BILE, _T.GLAND, _T.THYROID, _T.MUCOSA, _T.PROSTATE, _T.LUNG,
)  # fmt: skip


class Channel(IntEnum):
    """Channels of a fraction map, uint8 [6, z, y, x].

    HOST: `Tissue` whose water the voxel holds. FAT: share of fat in what is neither mineral nor air, times 255.
    MINERAL, AIR: shares of the voxel, times 255. IODINE: HU that a contrast medium adds, divided by 4. TEXTURE: water's
    signal varies by (value − 128) / 320.
    """

    HOST = 0
    FAT = 1
    MINERAL = 2
    AIR = 3
    IODINE = 4
    TEXTURE = 5


def sample_tissue_fat(rng: np.random.Generator) -> np.ndarray:
    """Share of fat inside every tissue of one patient, indexed by `Tissue`."""
    fat = np.array([PROPERTIES[t].fat for t in Tissue])
    drawn = fat[:, 0] * np.exp(
        np.clip(rng.standard_normal(len(fat)), -2, 2)
        * np.minimum(fat[:, 1], 0.5 * fat[:, 0])
        / np.maximum(fat[:, 0], 1e-6)
    )
    if rng.random() < 0.33:  # steatosis: a third of adults
        drawn[Tissue.LIVER] = rng.uniform(0.07, 0.28)
    return np.clip(drawn, 0, 0.6).astype(np.float32)


def fractions_from_hu(
    hu: np.ndarray, tissue: np.ndarray, hu_of: np.ndarray, fat_of: np.ndarray, marrow_fat: np.ndarray | float
) -> np.ndarray:
    """Fraction maps of a patient.

    A voxel of a soft tissue whose HU lies below the tissue's own holds fat; beside air it holds air instead: the rim of
    a lung or of the skin passes through fat's HU without being fat. HU above the tissue's own is a contrast medium in
    tissues that take one up, mineral elsewhere. In bone HU between marrow and compact bone gives the mineral.

    Args:
        hu: HU without noise [z, y, x].
        tissue: `Tissue` codes.
        hu_of: HU of every tissue in this patient, indexed by `Tissue`.
        fat_of: Share of fat inside every tissue, see `sample_tissue_fat`.
        marrow_fat: Share of fat in marrow, a number or [z, y, x].

    Returns:
        uint8 [6, z, y, x].
    """
    result = np.empty((len(Channel), *hu.shape), np.uint8)
    fat = np.broadcast_to(np.asarray(marrow_fat, np.float32), hu.shape)
    for start in range(0, len(hu), SLAB):  # slab by slab: little memory, and faster in the cache
        stop = min(start + SLAB, len(hu))
        wide = slice(max(0, start - 1), stop + 1)
        part = _fractions(hu[wide], tissue[wide], hu_of, fat_of, fat[wide])
        first = start - wide.start
        result[:, start:stop] = part[:, first : first + stop - start]
    return result


def _fractions(
    hu: np.ndarray, tissue: np.ndarray, hu_of: np.ndarray, fat_of: np.ndarray, marrow_fat: np.ndarray
) -> np.ndarray:
    hollow = np.isin(tissue, HOLLOW)
    marrow = np.isin(tissue, MARROW)
    lung = tissue == Tissue.LUNG
    host = tissue.copy()
    host[tissue == Tissue.FAT] = Tissue.MUSCLE  # what is between fat's cells
    host[tissue == Tissue.CORTICAL_BONE] = Tissue.RED_MARROW
    rim = _rim(hu, tissue)
    host[lung & (hu > -450)] = Tissue.BLOOD  # vessels
    # what air is mixed with at a surface
    surface = hollow & (hu > -930) & ~np.isin(tissue, (*COUCH, Tissue.METAL, Tissue.TOOTH))
    host[surface] = Tissue.SKIN
    own_hu = hu_of[host].astype(np.float32)
    own_hu[lung | hollow] = 40.0
    intrinsic = fat_of[host]

    below = np.clip((own_hu - 20 - hu) / np.maximum(own_hu - 20 - FAT_HU - 4, 30), 0, 1)
    soft = ~(hollow | marrow | lung)
    airy = lung | surface | rim
    fat = np.where(soft & ~rim, below + intrinsic * (1 - below), 0)
    air = np.where(soft & ~rim, np.clip((FAT_HU - 30 - hu) / (FAT_HU + 1000 - 30), 0, 1), 0)
    air = np.where(airy, np.clip((own_hu - hu) / (own_hu + 1000), 0, 1), air)
    air[hollow & ~surface] = 1

    excess = np.where(soft & ~rim | lung, np.clip(hu - own_hu - 25, 0, None), 0)
    takes_up = np.isin(tissue, ENHANCED)
    compact_hu = max(float(hu_of[Tissue.CORTICAL_BONE]), 900.0)
    mineral = np.where(takes_up, 0, np.clip((excess - 65) / (compact_hu - 90), 0, 1))
    iodine = np.where(takes_up, excess, 0)
    spongy_fat = marrow_fat[marrow]
    base = spongy_fat * FAT_HU + (1 - spongy_fat) * 45
    hu_marrow = hu[marrow]
    # Spongy bone: trabeculae of 1600 HU in marrow. Beyond 350 HU a voxel holds more and more compact bone, which is dark to
    # its last pore.
    spongy = (np.minimum(hu_marrow, SPONGY_HU) - base) / (MATRIX_HU - base)
    compact = np.clip((hu_marrow - SPONGY_HU) / (compact_hu - SPONGY_HU), 0, 1)
    mineral[marrow] = np.clip(spongy + (1 - spongy) * compact, 0, 1)
    fattier = np.clip((base - hu_marrow) / np.maximum(base - FAT_HU, 10), 0, 1)
    fat[marrow] = spongy_fat + (0.97 - spongy_fat) * fattier
    # texture of the CT inside a tissue stays as contrast: 1 HU is about 0.6 % of signal
    deviation = np.where(soft & ~rim & (np.abs(hu - own_hu) < 45), hu - own_hu, 0)

    result = np.empty((len(Channel), *hu.shape), np.uint8)
    result[Channel.HOST] = host
    for channel, values in ((Channel.FAT, fat), (Channel.MINERAL, mineral), (Channel.AIR, air)):
        result[channel] = np.rint(np.clip(values, 0, 1) * 255)
    result[Channel.IODINE] = np.rint(np.clip(iodine / IODINE_HU_PER_STEP, 0, 255))
    result[Channel.TEXTURE] = np.rint(np.clip(128 + 320 * 0.006 * deviation, 0, 255))
    return result


def _rim(hu: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Soft voxels that are mixed with air: air (or lung) beside them and soft tissue, brighter than fat, beside them too."""
    between = (hu < -20) & (hu > -930) & ~np.isin(tissue, (*HOLLOW, Tissue.LUNG))
    if not between.any():
        return between
    box = ndimage.find_objects(between.astype(np.uint8))[0]
    wide = tuple(slice(max(0, s.start - 2), s.stop + 2) for s in box)
    part = hu[wide]
    lowest = ndimage.minimum_filter(part, size=3, mode="nearest")
    highest = ndimage.maximum_filter(part, size=(3, 5, 5), mode="nearest")
    result = np.zeros(hu.shape, bool)
    result[wide] = between[wide] & (lowest < -420) & (highest > -25)
    return result


def average_slices(fractions: np.ndarray, slices: int) -> np.ndarray:
    """Fraction maps of sub-slices brought to `slices` slices: shares averaged, the host taken from the fuller one."""
    if fractions.shape[1] == slices:
        return fractions
    pairs = fractions[:, : 2 * slices].reshape(len(Channel), slices, 2, *fractions.shape[2:])
    result = np.rint(pairs.mean(2, dtype=np.float32)).astype(np.uint8)
    solid = 510 - pairs[Channel.AIR].astype(np.int16) - pairs[Channel.MINERAL]
    first = solid[:, 0] >= solid[:, 1]
    result[Channel.HOST] = np.where(first, pairs[Channel.HOST, :, 0], pairs[Channel.HOST, :, 1])
    return result


def write_fractions(fractions: np.ndarray, path: Path) -> None:
    """Write fraction maps, compressed; the same maps give the same bytes."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, fractions=fractions)


def read_fractions(path: str | Path) -> np.ndarray:
    """Read fraction maps, uint8 [6, z, y, x], on the grid of the case's source image.

    Raises:
        InputError: Missing or not fraction maps.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, found=not_a_file(path), expected="fraction maps; simulate with --fractions")
    try:
        with np.load(path, allow_pickle=False) as content:
            fractions = content["fractions"]
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise InputError(path, found=f"not fraction maps ({error})", expected="uint8 [6, z, y, x]") from error
    if fractions.dtype != np.uint8 or fractions.ndim != 4 or fractions.shape[0] != len(Channel):
        raise InputError(path, found=f"{fractions.dtype} {list(fractions.shape)}", expected="uint8 [6, z, y, x]")
    if fractions[Channel.HOST].max(initial=0) >= len(Tissue):
        raise InputError(path, found=f"tissue {fractions[Channel.HOST].max()}", expected=f"codes below {len(Tissue)}")
    return fractions
