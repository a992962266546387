"""Body masks of real and simulated images under what scanners, vendors and archives do to them.

    python benchmarks/body_masks.py SHARED_DATA [--images NAME,...] [--changes WORD,...] [--pairs 300] > body_masks.txt

Every image is brought to voxels of about 3 mm; the mask of the unchanged image is what a changed one is asked for (cut,
turned or with the added limb as the image is). A mask is wrong below a Dice of 0.97, and silently wrong if it has no note.
Of the wrong ones that say so, or that were refused, the number is given, too.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy import ndimage

from sctlab.dicom import read_dicom_series
from sctlab.simulation.case import simulate
from sctlab.simulation.settings import CaseSettings
from sctlab_model.body import body_mask
from sctlab_model.cases import Region, Task
from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_volume
from sctlab_model.overlap import dice
from sctlab_model.preparation import orient
from sctlab_model.volume import Geometry, Volume

RIGHT = 0.97
REAL = {
    "abdomen_ct/ct.nii.gz": Task.CBCT,
    "abdomen_ct_crlm_1004/ct.nii.gz": Task.CBCT,
    "abdomen_ct_dicom/series": Task.CBCT,
    "hn_ct_openkbp_109/ct.nii.gz": Task.CBCT,
    "head_ct_dicom/series": Task.CBCT,
    "thorax_ct/ct.nii.gz": Task.CBCT,
    "lung_ct/ct.mha": Task.CBCT,
    "pair_mrct_sts_044/ct.nii.gz": Task.CBCT,
    "rt_pair_sts_018/CT/image": Task.CBCT,
    "pair_mrct_sts_044/mr_t1.nii.gz": Task.MRI,
    "rt_pair_sts_018/MR_T1/image": Task.MRI,
    "abdomen_mr/mr.nii.gz": Task.MRI,
    "abdomen_mr_t2/scan_001_t2.nii.gz": Task.MRI,
    "head_mr_fernando_t2/t2.nii.gz": Task.MRI,
}
SIMULATED = (Region.AB, Region.TH, Region.HN)  # MR: a CBCT takes a minute

Pair = tuple[np.ndarray, np.ndarray]  # image and wanted mask, [z, y, x], axes LPS
Change = Callable[[np.ndarray, np.ndarray, np.ndarray], Pair]  # image, mask, spacing in mm (z, y, x)


def images(data: Path, words: list[str]) -> Iterator[tuple[str, Task, Volume]]:
    """The images at about 3 mm, oriented, whose names hold one of the words; those that aren't there are left out."""

    def wanted(name: str) -> bool:
        return not words or any(w in name for w in words)

    for name, task in REAL.items():
        path = data / name
        if path.exists() and wanted(name):
            yield name, task, coarse(read_volume(path) if path.is_file() else read_series(path))
    for region in SIMULATED:
        if not wanted(f"simulated mri {region}"):
            continue
        settings = CaseSettings(spacing_xyz=(3, 3, 4), size_xyz=(150, 110, 24), amplitude_mm=0, seed=5)
        yield f"simulated mri {region}", Task.MRI, coarse(simulate(Task.MRI, region, settings).source)


def read_series(path: Path) -> Volume:
    try:
        return read_dicom_series(path)
    except InputError:  # an MR
        import SimpleITK as sitk

        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
        return Volume.from_sitk(sitk.DICOMOrient(reader.Execute(), "LPS"), str(path))


def coarse(volume: Volume) -> Volume:
    volume = orient(volume)
    step = [max(1, round(3 / s)) for s in volume.geometry.spacing_xyz]
    step[2] = max(step[2], volume.geometry.size_xyz[2] // 40)
    array = volume.array[:: step[2], :: step[1], :: step[0]].astype(np.float32)
    spacing = tuple(s * k for s, k in zip(volume.geometry.spacing_xyz, step, strict=True))
    return Volume(np.ascontiguousarray(array), Geometry(array.shape[::-1], spacing), volume.name)


# --- changes -----------------------------------------------------------------------------------------------------------


def _noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _ramp(shape: tuple[int, ...], axis: int) -> np.ndarray:
    view = [1, 1, 1]
    view[axis] = -1
    return np.linspace(-0.5, 0.5, shape[axis], dtype=np.float32).reshape(view)


def _from_skin(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Depth below the skin, mm, in the slice."""
    return np.stack([ndimage.distance_transform_edt(s, spacing[1:]) for s in mask])


def _outside(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    return np.stack(
        [ndimage.distance_transform_edt(~s, spacing[1:]) if s.any() else np.full(s.shape, 1e3) for s in mask]
    )


def _circle(shape: tuple[int, ...], spacing: np.ndarray, share: float) -> np.ndarray:
    y, x = ((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape[1:], spacing[1:], strict=True))
    radius = share * min(shape[1] * spacing[1], shape[2] * spacing[2])
    return np.broadcast_to(np.hypot(y[:, None], x) < radius, shape)


def _values(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda a, m, s: (change(a), m)


def _round_field(share: float, fill: float) -> Change:
    def change(a: np.ndarray, m: np.ndarray, s: np.ndarray) -> Pair:
        seen = _circle(a.shape, s, share)
        return np.where(seen, a, np.float32(fill)), m & seen

    return change


def _cone(fill: float) -> Change:
    def change(a: np.ndarray, m: np.ndarray, s: np.ndarray) -> Pair:
        ends = np.abs(_ramp(a.shape, 0)[:, 0, 0]) * 2
        seen = np.stack([_circle((1, *a.shape[1:]), s, 0.47 if e < 0.8 else 0.47 * (1.9 - e) / 1.1)[0] for e in ends])
        return np.where(seen, a, np.float32(fill)), m & seen

    return change


def _crop(*, low: tuple[float, float] = (0, 0), high: tuple[float, float] = (1, 1)) -> Change:
    """Of the body's extent, (y, x)."""

    def change(a: np.ndarray, m: np.ndarray, s: np.ndarray) -> Pair:
        box = [slice(None)]
        for axis in (1, 2):
            held = np.flatnonzero(m.any(axis=(0, 3 - axis)))
            size, begin = held[-1] - held[0], held[0]
            first, last = low[axis - 1], high[axis - 1]
            box.append(
                slice(
                    None if first == 0 else int(begin + first * size), None if last == 1 else int(begin + last * size)
                )
            )
        return a[tuple(box)], m[tuple(box)]

    return change


def _pad(fill: float | None, width: int = 14) -> Change:
    def change(a: np.ndarray, m: np.ndarray, s: np.ndarray) -> Pair:
        widths = ((0, 0), (width, width), (width, width))
        value = float(np.percentile(a, 0.5)) if fill is None else fill
        return np.pad(a, widths, constant_values=value), np.pad(m, widths)

    return change


def _level(a: np.ndarray, m: np.ndarray, task: Task) -> tuple[float, float]:
    """Typical values of soft tissue and of air."""
    air = a[~m]
    return float(np.median(a[m])), float(np.median(air)) if air.size else (-1000.0 if task is Task.CBCT else 0.0)


def _board(thick_mm: float, gap_mm: float, value: Callable[[float, float], float], task: Task) -> Change:
    """A plate behind the patient as wide as the image, in air beyond `gap_mm` of the skin."""

    def change(a: np.ndarray, m: np.ndarray, s: np.ndarray) -> Pair:
        rows = np.flatnonzero(m.any(axis=(0, 2)))
        y = np.arange(a.shape[1])[None, :, None] * s[1]
        top = rows[-1] * s[1] - 6 + gap_mm
        where = np.broadcast_to((y > top) & (y <= top + thick_mm), a.shape) & ~m
        return np.where(where, np.float32(value(*_level(a, m, task))), a), m

    return change


def _cup(thick_mm: float, task: Task) -> Change:
    """A shell that follows the back half of the body and touches it: a vacuum cushion's edge, a headrest, a coil's cover."""

    def change(a: np.ndarray, m: np.ndarray, s: np.ndarray) -> Pair:
        out = _outside(m, s)
        rows = np.flatnonzero(m.any(axis=(0, 2)))
        back = np.arange(a.shape[1])[None, :, None] > rows.mean()
        tissue, air = _level(a, m, task)
        where = (out > 4) & (out <= 4 + thick_mm) & back
        return np.where(where, np.float32(0.6 * tissue + 0.4 * air), a), m

    return change


def _limbs(apart_mm: float, radius_mm: float, task: Task) -> Change:
    """Arms beside a body that the image doesn't cut there, their middle at its middle; the image is made wider for them."""

    def change(a: np.ndarray, m: np.ndarray, s: np.ndarray) -> Pair:
        if m[:, :, [0, -1]].any():
            return a, m
        tissue, air = _level(a, m, task)
        extra = int(np.ceil((2 * radius_mm + apart_mm + 12) / s[2]))
        noise = float(np.std(a[~m])) if (~m).any() else 0.0
        wide = np.pad(a, ((0, 0), (0, 0), (extra, extra)), constant_values=air)
        added = np.pad(np.zeros(a.shape, bool), ((0, 0), (0, 0), (extra, extra)), constant_values=True)
        wide = np.where(added, air + min(noise, abs(tissue - air) * 0.02) * _noise(wide.shape), wide)
        wide = np.maximum(wide, a.min())
        mask = np.pad(m, ((0, 0), (0, 0), (extra, extra)))
        columns, rows = np.flatnonzero(mask.any(axis=(0, 1))), np.flatnonzero(mask.any(axis=(0, 2)))
        y = (np.arange(wide.shape[1]) - rows.mean())[:, None] * s[1]
        texture = 0.06 * (tissue - air) * ndimage.gaussian_filter(_noise(wide.shape, 1), 1) * 4
        for x0 in (columns[0] * s[2] - apart_mm - radius_mm, columns[-1] * s[2] + apart_mm + radius_mm):
            x = np.arange(wide.shape[2])[None, :] * s[2] - x0
            limb = np.broadcast_to(np.hypot(y, x) < radius_mm, wide.shape)
            wide = np.where(limb, tissue + texture, wide)
            mask = mask | limb
        return wide, mask

    return change


def _thighs(a: np.ndarray, m: np.ndarray, s: np.ndarray) -> Pair:
    """Two legs: the body at half its width, twice."""
    narrow, inside = a[:, ::2, ::2], m[:, ::2, ::2]
    return np.concatenate([narrow, narrow[:, :, ::-1]], 2), np.concatenate([inside, inside[:, :, ::-1]], 2)


def _slices(keep: Callable[[int], slice]) -> Change:
    return lambda a, m, s: (a[keep(len(a))], m[keep(len(m))])


def _blanked(count: Callable[[int], int], fill: float) -> Change:
    def change(a: np.ndarray, m: np.ndarray, s: np.ndarray) -> Pair:
        keep = (np.arange(len(a)) >= count(len(a)))[:, None, None]
        return np.where(keep, a, np.float32(fill)), m & keep

    return change


def _times(factor: int) -> Change:
    """The same voxels, said to be finer: a small patient; spacing is the caller's."""
    return lambda a, m, s: (a[:, ::factor, ::factor], m[:, ::factor, ::factor])


def _flare(strength: float, depth_mm: float) -> Change:
    def change(a: np.ndarray, m: np.ndarray, s: np.ndarray) -> Pair:
        return a * (1 + m * strength * np.exp(-_from_skin(m, s) / depth_mm)).astype(np.float32), m

    return change


def _spot(share: float, factor: float) -> Change:
    """A part of the body, near the skin, brighter or black."""

    def change(a: np.ndarray, m: np.ndarray, s: np.ndarray) -> Pair:
        places = np.argwhere(m)
        z, y = places[len(places) // 3, :2]
        columns = np.flatnonzero(m[z, y])
        radius = (share * len(places) * np.prod(s) * 3 / (4 * np.pi)) ** (1 / 3)
        grid = np.indices(a.shape) * s[:, None, None, None]
        centre = np.array([z, y, columns[0]]) * s
        where = (((grid - centre[:, None, None, None]) ** 2).sum(0) < radius**2) & m
        return np.where(where, a * np.float32(factor), a), m

    return change


def _magnitude_noise(share: float) -> Change:
    def change(a: np.ndarray, m: np.ndarray, s: np.ndarray) -> Pair:
        sigma = share * np.percentile(a, 99)
        return np.hypot(a + sigma * _noise(a.shape, 2), sigma * _noise(a.shape, 3)), m

    return change


def _masked(margin_mm: float, fill: float) -> Change:
    def change(a: np.ndarray, m: np.ndarray, s: np.ndarray) -> Pair:
        return np.where(_outside(m, s) <= margin_mm, a, np.float32(fill)), m

    return change


GEOMETRY: dict[str, Change] = {
    "left half": _crop(high=(1, 0.5)),
    "front half": _crop(high=(0.5, 1)),
    "sides cut": _crop(low=(0, 0.12), high=(1, 0.88)),
    "back cut": _crop(high=(0.85, 1)),
    "cut all around": _crop(low=(0.15, 0.15), high=(0.85, 0.85)),
    "a corner": _crop(low=(0, 0), high=(0.6, 0.6)),
    "three slices": _slices(lambda n: slice(n // 2 - 1, n // 2 + 2)),
    "one slice": _slices(lambda n: slice(n // 2, n // 2 + 1)),
    "lower half": _slices(lambda n: slice(0, n // 2)),
    "6 mm": _times(2),
    "empty slices of 0": _blanked(lambda n: n // 4, 0),
    "border of 0": _pad(0),
    "border of the darkest": _pad(None),
    "two legs": _thighs,
}
CT_VALUES: dict[str, Change] = {
    **{f"{o:+d} HU": _values(lambda a, o=o: a + o) for o in (-300, -150, 150, 300, 400, 1000, 1024, 8192)},
    **{f"times {k}": _values(lambda a, k=k: (a + 1000) * k - 1000) for k in (0.8, 1.2)},
    "noise 40 HU": _values(lambda a: a + 40 * _noise(a.shape)),
    "noise 120 HU": _values(lambda a: a + 120 * _noise(a.shape)),
    "shading x": _values(lambda a: a + 300 * _ramp(a.shape, 2)),
    "shading y": _values(lambda a: a + 300 * _ramp(a.shape, 1)),
    "shading z, noise": _values(lambda a: a + 200 * _ramp(a.shape, 0) + 60 * _noise(a.shape)),
    "cupping": lambda a, m, s: (a - 2.5 * np.minimum(_from_skin(m, s), 80).astype(np.float32), m),
    "air clipped at -500": _values(lambda a: np.maximum(a, -500)),
    "masked to -1000": _masked(5, -1000),
    "masked to 0": _masked(5, 0),
    "border of -1024": _pad(-1024),
    "border of -2000": _pad(-2000),
    "empty slices of -1024": _blanked(lambda n: n // 4, -1024),
    **{f"round field, {f}": _round_field(0.49, f) for f in (-1024, 0, -2000, 3071)},
    **{f"round field in the body, {f}": _round_field(0.34, f) for f in (-1024, -1000, 0)},
    **{f"cone ends, {f}": _cone(f) for f in (-1024, 0)},
    "couch shell": _board(4, 9, lambda t, a: -250, Task.CBCT),
    "board, touching": _board(12, 0, lambda t, a: -50, Task.CBCT),
    "block, touching": _board(30, 0, lambda t, a: 20, Task.CBCT),
    "foam, touching": _board(40, 0, lambda t, a: -880, Task.CBCT),
    "cup": _cup(6, Task.CBCT),
    "thick cup": _cup(12, Task.CBCT),
    "arms apart": _limbs(15, 38, Task.CBCT),
    "arms touching": _limbs(-6, 38, Task.CBCT),
}
MR_VALUES: dict[str, Change] = {
    "times 1e-6": _values(lambda a: a * np.float32(1e-6)),
    "offset": _values(lambda a: a + np.percentile(a, 99)),
    "small offset": _values(lambda a: a + 0.08 * np.percentile(a, 99)),
    "standardised": _values(lambda a: (a - a.mean()) / a.std()),
    "standardised over the body": lambda a, m, s: ((a - a[m].mean()) / a[m].std(), m),
    "to -1 and 1": _values(lambda a: np.clip(a / np.percentile(a, 99.5), 0, 1) * 2 - 1),
    "int16 from -32768": _values(lambda a: np.rint((a - a.min()) / np.ptp(a) * 65535) - 32768),
    "signed noise": lambda a, m, s: (
        a + 0.02 * np.percentile(a, 99) * _noise(a.shape),
        m,
    ),
    "8 bit": _values(lambda a: np.rint(np.clip(a / np.percentile(a, 99.9), 0, 1) * 255)),
    "wild voxels": _values(lambda a: np.where(_noise(a.shape) > 4.2, 1e5 * np.abs(a).max(), a)),
    "noise 3 %": _magnitude_noise(0.03),
    "noise 8 %": _magnitude_noise(0.08),
    "shading x": _values(lambda a: a * (1 + _ramp(a.shape, 2))),
    "shading y": _values(lambda a: a * (1 + 1.6 * _ramp(a.shape, 1))),
    "shading z": _values(lambda a: a * (1 + 1.6 * _ramp(a.shape, 0))),
    "shading x, noise": lambda a, m, s: _magnitude_noise(0.05)(a * (1 + 1.4 * _ramp(a.shape, 2)), m, s),
    "flare": _flare(3, 15),
    "strong flare": _flare(8, 10),
    "strong flare, masked": lambda a, m, s: _masked(0, 0)(*_flare(8, 10)(a, m, s), s),
    "deep flare": _flare(5, 30),
    "masked to 0": _masked(4, 0),
    "masked tightly": _masked(0, 0),
    "masked to the brightest": lambda a, m, s: _masked(4, float(a.max()))(a, m, s),
    "bright spot": _spot(0.005, 10),
    "black hole at the skin": _spot(0.01, 0.02),
    "round field": _round_field(0.49, 0),
    "round field in the body": _round_field(0.36, 0),
    "border of -1": _pad(-1),
    "arms apart": _limbs(15, 38, Task.MRI),
    "arms touching": _limbs(-6, 38, Task.MRI),
}


# --- asking ------------------------------------------------------------------------------------------------------------


def ask(array: np.ndarray, spacing: np.ndarray, wanted: np.ndarray, task: Task) -> tuple[str, float]:
    """'right', 'noted', 'refused' or 'silent', and the Dice."""
    array = np.ascontiguousarray(array, dtype=np.float32)
    volume = Volume(array, Geometry(array.shape[::-1], tuple(float(s) for s in spacing[::-1])), "changed")
    try:
        found = body_mask(volume, task)
    except InputError:
        return "refused", 0.0
    overlap = dice(found.array, wanted)
    if overlap >= RIGHT:
        return "right", overlap
    return ("noted" if found.notes else "silent"), overlap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", default="", help="only images whose name holds one of these words")
    parser.add_argument("--changes", default="", help="only changes whose name holds one of these words")
    parser.add_argument("--pairs", type=int, default=0, help="so many random pairs of changes, too")
    options = parser.parse_args()
    chosen = [w for w in options.images.split(",") if w], [w for w in options.changes.split(",") if w]
    outcome: Counter[str] = Counter()
    by_change: dict[str, Counter[str]] = {}
    rng = np.random.default_rng(0)
    for name, task, volume in images(options.data, chosen[0]):
        reference = body_mask(volume, task)
        spacing = np.array(volume.geometry.spacing_xyz[::-1])
        values = CT_VALUES if task is Task.CBCT else MR_VALUES
        tries = [(c, f) for c, f in {**values, **GEOMETRY}.items() if not chosen[1] or any(w in c for w in chosen[1])]
        for _ in range(options.pairs // (len(REAL) + len(SIMULATED))):
            (a, f), (b, g) = (list(d.items())[rng.integers(len(d))] for d in (values, GEOMETRY))
            tries.append((f"{a} + {b}", lambda x, m, s, f=f, g=g: g(*f(x, m, s), s)))
        wrong = []
        for change, function in tries:
            array, wanted = function(volume.array, reference.array, spacing)
            apart = spacing * [1, 2, 2] if change.endswith("6 mm") else spacing
            if wanted.sum() < 20:
                continue
            verdict, overlap = ask(array, apart, wanted, task)
            outcome[verdict] += 1
            by_change.setdefault(change if "+" not in change[1:] else "pairs", Counter())[verdict] += 1
            if verdict != "right":
                wrong.append(f"{change} {verdict} {overlap:.2f}")
        print(f"{name}: {reference.array.mean():.3f} body{', noted' if reference.notes else ''}; " + "; ".join(wrong))
        sys.stdout.flush()
    print("\nchanges that were not right everywhere")
    for change, counts in by_change.items():
        if set(counts) != {"right"}:
            print(f"  {change:34s}" + ", ".join(f"{counts[k]} {k}" for k in ("right", "noted", "refused", "silent")))
    total = sum(outcome.values())
    print(f"\n{total} tries: " + ", ".join(f"{outcome[k]} {k}" for k in ("right", "noted", "refused", "silent")))


if __name__ == "__main__":
    main()
