"""Start from a label map of the head (FreeSurfer ids, with SynthSeg's ids from 500 for what is not brain)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from sctlab.simulation.painter import smooth_noise
from sctlab.simulation.phantom import Phantom
from sctlab.simulation.tissues import Tissue, sample_hu, texture_hu
from sctlab_model.errors import InputError
from sctlab_model.volume import Geometry, Volume, resample

_T = Tissue
_GREY = (3, 8, 10, 11, 12, 13, 17, 18, 26, 42, 47, 49, 50, 51, 52, 53, 54, 58, 136, 137, 163, 164)
_WHITE = (2, 7, 16, 28, 41, 46, 60, 77, 85, 530, *range(251, 256))
_CSF = (4, 5, 14, 15, 24, 25, 43, 44, 57, 72)
_SOFT, _SKIN, _BONE, _SPONGY = 507, 511, 515, 516
OF_ID: dict[int, Tissue] = {
    **dict.fromkeys(_GREY, _T.GREY_MATTER), **dict.fromkeys(_WHITE, _T.WHITE_MATTER), **dict.fromkeys(_CSF, _T.CSF),
    30: _T.BLOOD, 62: _T.BLOOD, 502: _T.BLOOD, 514: _T.BLOOD, 506: _T.VITREOUS, 508: _T.MUSCLE, 509: _T.MUCOSA,
    512: _T.GLAND, _SOFT: _T.MUSCLE, _SKIN: _T.FAT, _BONE: _T.CORTICAL_BONE, _SPONGY: _T.RED_MARROW,
}  # fmt: skip


def is_label_map(volume: Volume) -> bool:
    """Whether an image holds FreeSurfer-like ids: whole numbers from 0, most of the set known, brain among them."""
    array = volume.array
    if array.min() < 0 or array.max() > 2100:
        return False
    values = np.unique(array)
    if len(values) > 250 or (values != np.round(values)).any():
        return False
    known = [v for v in values if int(v) in OF_ID]
    return len(known) >= 4 and any(int(v) in (*_GREY, *_WHITE) for v in known)


def phantom_from_labels(volume: Volume, spacing_xyz: tuple[float, float, float], rng: np.random.Generator) -> Phantom:
    """Fill a label map with tissues: HU of one random patient, texture, diploë inside the skull, fat in soft tissue.

    Raises:
        InputError: Ids that stand for no tissue known here.
    """
    import SimpleITK as sitk

    unknown = sorted({int(v) for v in np.unique(volume.array)} - {0, *OF_ID})
    if unknown:
        raise InputError(
            volume.name, found=f"label ids {unknown[:8]}", expected="FreeSurfer ids, and 502 to 530 outside the brain"
        )
    image = sitk.DICOMOrient(volume.with_array(volume.array.astype(np.int16)).to_sitk(), "LPS")
    volume = Volume.from_sitk(image, volume.name)
    g = volume.geometry
    extent = np.array(g.size_xyz) * g.spacing_xyz
    low = np.array(g.origin_xyz) - np.array(g.spacing_xyz) / 2
    size = np.maximum(1, np.floor(extent / spacing_xyz + 1e-6)).astype(int)
    grid = Geometry(tuple(size), spacing_xyz, tuple(low + np.array(spacing_xyz) / 2))
    ids = resample(volume, grid, interpolation="nearest").array.astype(int)

    table = np.zeros(2101, np.uint8)
    for k, tissue in OF_ID.items():
        table[k] = tissue
    tissue = table[ids]
    spacing = np.array(spacing_xyz[::-1])
    depth = ndimage.distance_transform_edt(np.isin(ids, (_BONE, _SPONGY)), sampling=spacing)
    tissue[(ids == _BONE) & (depth > max(2.2, 1.1 * max(spacing_xyz)))] = Tissue.RED_MARROW  # diploë
    outside = ids == 0
    tissue[(ids == _SKIN) & (ndimage.distance_transform_edt(~outside, sampling=spacing) < 1.8)] = Tissue.SKIN
    streaks = smooth_noise(ids.shape, spacing_xyz, 14.0, rng) + 0.6 * smooth_noise(ids.shape, spacing_xyz, 6.0, rng)
    tissue[(ids == _SOFT) & (streaks > 0.5)] = Tissue.FAT
    hu_of = sample_hu(rng)
    fine = ndimage.gaussian_filter(rng.standard_normal(ids.shape, dtype=np.float32), 1.2 / spacing)
    hu = hu_of[tissue] + texture_hu()[tissue] * fine / (fine.std() + 1e-9)
    hu = ndimage.gaussian_filter(hu, 0.5 / spacing)  # partial volume at the labels' steps
    label = np.where(tissue == Tissue.CORTICAL_BONE, 91, 0)
    label = np.where((ids == _BONE) & (tissue == Tissue.RED_MARROW), 91, label)
    label = np.where(np.isin(ids, [*_GREY, *_WHITE, *_CSF]) & (ids != 530), 90, label)
    return Phantom(hu.astype(np.float32), tissue, label.astype(np.uint8), grid)


def read_label_map(path: str | Path) -> Volume | None:
    """The file as a label map, or None if it is an image."""
    from sctlab_model.io.reading import read_volume

    path = Path(path)
    if path.is_dir():
        return None
    volume = read_volume(path)
    return volume if is_label_map(volume) else None
