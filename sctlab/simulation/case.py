"""One simulated case: patient → motion → CT, and MR or CBCT of another day, with the truth beside them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from sctlab.simulation.acquisition import Acquisition, acquire
from sctlab.simulation.anatomy import build_phantom, default_grid
from sctlab.simulation.content import change_content
from sctlab.simulation.deformation import Motion, sample_motion
from sctlab.simulation.files import write_case
from sctlab.simulation.fractions import Channel, average_slices, fractions_from_hu, sample_tissue_fat
from sctlab.simulation.iodine import add_contrast_medium
from sctlab.simulation.marrow import marrow_fat, sample_marrow_fat
from sctlab.simulation.phantom import Phantom, public_labels
from sctlab.simulation.sequences import Sequence
from sctlab.simulation.settings import CaseSettings
from sctlab.simulation.signals import magnetisation, tissue_signals
from sctlab.simulation.tissues import PROPERTIES, Tissue
from sctlab.simulation.truth import SimulationTruth
from sctlab.simulation.variation import vary_body
from sctlab_model.cases import Region, Task
from sctlab_model.volume import AIR_HU, Geometry, Volume, resample

METAL_HU = 9000.0  # attenuation of steel or titanium on the HU scale; a CT clips it at 3071


@dataclass(frozen=True)
class SimulatedCase:
    """A case in memory.

    Args:
        task: What the source is.
        source: The MR or CBCT; its grid is the source grid.
        ct: The planning CT, another day and pose.
        mask: The body on the source grid, inside the field of view (uint8).
        labels_ct: TotalSegmentator ids on the CT's grid.
        labels_source: The same on the source grid.
        ct_aligned: The CT as it would be at the source's time.
        content_changed: Where gas or filling changed, which no transform can carry (uint8).
        motion: Points of the source grid → points of the CT.
        truth: How the case was made.
        fractions: What every voxel of an MR is made of, uint8 [6, z, y, x] on the source grid (`fractions.Channel`).
    """

    task: Task
    source: Volume
    ct: Volume
    mask: Volume
    labels_ct: Volume
    labels_source: Volume
    ct_aligned: Volume
    content_changed: Volume
    motion: Motion
    truth: SimulationTruth
    fractions: np.ndarray | None = None

    def files(self) -> dict[str, Volume]:
        """The images by the names that they have in a case folder."""
        return {
            f"{self.task.source_name}.mha": self.source,
            "ct.mha": self.ct,
            "mask.mha": self.mask,
            "labels.mha": self.labels_ct,
            "truth/ct_aligned.mha": self.ct_aligned,
            "truth/labels_source.mha": self.labels_source,
            "truth/labels_ct.mha": self.labels_ct,
            "truth/content_changed.mha": self.content_changed,
        }


def streams(seed: int, task: Task, region: Region, index: int) -> dict[str, np.random.Generator]:
    """Independent random numbers for every part of a case; they depend on nothing else, so order and jobs don't matter."""
    key = (seed, list(Task).index(task), list(Region).index(region), index)
    names = ("grid", "anatomy", "motion", "content", "noise", "source", "tissue", "iodine")
    children = np.random.SeedSequence(key).spawn(len(names))
    return {name: np.random.default_rng(child) for name, child in zip(names, children, strict=True)}


def simulate(
    task: Task,
    region: Region,
    settings: CaseSettings | None = None,
    *,
    index: int = 0,
    ct: Volume | None = None,
    labels: Volume | None = None,
) -> SimulatedCase:
    """Simulate one case without files.

    Args:
        index: Number of the case: with the seed it decides all random numbers.
        ct: A real CT to start from, in HU; in place of `settings.ct`.
        labels: Its TotalSegmentator labels; in place of `settings.labels`.

    Raises:
        InputError: The CT, or its labels, can't be used.

    Example:
        >>> small = CaseSettings(spacing_xyz=(8, 8, 10), size_xyz=(52, 40, 12), amplitude_mm=0)
        >>> case = simulate(Task.MRI, Region.AB, small)
        >>> case.source.array.shape == case.ct_aligned.array.shape
        True
    """
    settings = settings or CaseSettings()
    random = streams(settings.seed, task, region, index)
    phantom, grid, ct_grid = _patient(task, region, settings, random, ct, labels)
    hu_of = _typical_hu(phantom)
    phantom = add_contrast_medium(phantom, random["iodine"], settings.iodine)
    motion = sample_motion(phantom, grid, region, settings.amplitude_mm, random["motion"])
    content = settings.content if settings.amplitude_mm > 0 else 0.0
    other_day, changed = change_content(phantom, hu_of, random["content"], content)
    noise = _ct_noise(phantom, random["noise"])
    transform = motion.transform()

    aligned = _aligned(other_day.with_hu(other_day.hu + noise), grid, transform)
    organs = Volume(public_labels(phantom.label), phantom.geometry)
    wide = ndimage.binary_dilation(changed, iterations=1)
    changed_source = resample(Volume(wide, phantom.geometry), grid, interpolation="nearest", transform=transform)
    source = _source(task, region, other_day, grid, transform, hu_of, random)
    options = settings.model_dump(mode="json") | {"task": str(task), "index": index}
    return SimulatedCase(
        task=task,
        source=source.image,
        ct=_on_slices(phantom.with_hu(phantom.hu + noise), ct_grid),
        mask=source.mask.with_array(source.mask.array.astype(np.uint8)),
        labels_ct=resample(organs, ct_grid, interpolation="nearest"),
        labels_source=resample(organs, grid, interpolation="nearest", transform=transform),
        ct_aligned=aligned,
        content_changed=changed_source.with_array(changed_source.array.astype(np.uint8)),
        motion=motion,
        truth=SimulationTruth(region=str(region), options=options, motion=motion.facts, source=source.facts),
        fractions=source.fractions,
    )


def simulate_case(folder: Path, task: Task, region: Region, index: int, settings: CaseSettings) -> str:
    """Simulate a case into `folder`; it appears whole or not at all.

    Returns:
        The case's id.
    """
    write_case(simulate(task, region, settings, index=index), folder)
    return folder.name


def _typical_hu(phantom: Phantom) -> np.ndarray:
    """HU of every tissue in this patient: the median where there is enough of it, the table's mean elsewhere."""
    values = np.array([PROPERTIES[t].hu for t in Tissue], np.float32)
    for tissue in Tissue:
        if tissue in (Tissue.CORTICAL_BONE, Tissue.RED_MARROW, Tissue.YELLOW_MARROW, Tissue.TOOTH, Tissue.METAL):
            continue
        where = phantom.tissue == tissue
        if int(where.sum()) > 500:
            values[tissue] = np.median(phantom.hu[where])
    return values


def _patient(
    task: Task,
    region: Region,
    settings: CaseSettings,
    random: dict[str, np.random.Generator],
    ct: Volume | None,
    labels: Volume | None,
) -> tuple[Phantom, Geometry, Geometry]:
    """The patient, the grid of the source and the grid of the CT (the same lattice, with a margin for motion)."""
    if ct is not None or settings.ct is not None:
        from sctlab.simulation.from_ct import phantom_from_ct, read_ct, read_labels, source_grid
        from sctlab.simulation.from_labels import is_label_map, phantom_from_labels, read_label_map

        head = read_label_map(settings.ct or "") if ct is None else (ct if is_label_map(ct) else None)
        if head is not None:
            phantom = phantom_from_labels(head, settings.spacing_xyz, random["anatomy"])
        else:
            if labels is None and settings.labels is not None:
                labels = read_labels(settings.labels)
            ct = read_ct(settings.ct or "") if ct is None else ct
            phantom = phantom_from_ct(ct, labels, settings.spacing_xyz)
        phantom = vary_body(phantom, random["anatomy"], settings.body_variation)
        return phantom, source_grid(phantom, settings.size_xyz), phantom.geometry
    grid = default_grid(region, random["grid"], settings.spacing_xyz, settings.size_xyz, short=task == Task.CBCT)
    margin_mm = 0.0 if settings.amplitude_mm == 0 else 1.6 * settings.amplitude_mm + 3
    pad = np.ceil(margin_mm / np.array(grid.spacing_xyz)).astype(int)
    ct_grid = grid.cropped(tuple(-pad), tuple(np.array(grid.size_xyz) + 2 * pad))
    return build_phantom(region, fine_grid(ct_grid), random["anatomy"]), grid, ct_grid


def fine_grid(grid: Geometry) -> Geometry:
    """The grid with two sub-slices a slice, where slices are thick against their pixels."""
    if grid.spacing_xyz[2] < 1.4 * grid.spacing_xyz[0]:
        return grid
    return grid.resized((*grid.spacing_xyz[:2], grid.spacing_xyz[2] / 2))


def _slice_profile(phantom: Phantom, grid: Geometry) -> Volume:
    """HU averaged over the slice thickness of `grid`, at every sub-slice position."""
    if np.isclose(phantom.geometry.spacing_xyz[2], grid.spacing_xyz[2]):
        return Volume(phantom.hu, phantom.geometry)
    mean = (phantom.hu[:-1] + phantom.hu[1:]) / 2
    g = phantom.geometry
    origin = (*g.origin_xyz[:2], g.origin_xyz[2] + g.spacing_xyz[2] / 2)
    return Volume(mean, Geometry((*g.size_xyz[:2], g.size_xyz[2] - 1), g.spacing_xyz, origin, g.direction))


def _on_slices(phantom: Phantom, grid: Geometry) -> Volume:
    return to_int16(resample(_slice_profile(phantom, grid), grid, outside=AIR_HU), AIR_HU, 3071)


def _aligned(phantom: Phantom, grid: Geometry, transform: Any) -> Volume:
    return to_int16(resample(_slice_profile(phantom, grid), grid, outside=AIR_HU, transform=transform), AIR_HU, 3071)


def to_int16(volume: Volume, low: float = -32768, high: float = 32767) -> Volume:
    """Rounded and clipped to int16."""
    return volume.with_array(np.rint(np.clip(volume.array, low, high)).astype(np.int16))


def _ct_noise(phantom: Phantom, rng: np.random.Generator) -> np.ndarray:
    """Noise of the planning CT: 6 to 16 HU, correlated over about a millimetre. It belongs to the CT and moves with it."""
    sigma = np.array([0.5, 0.7, 0.7])
    noise = ndimage.gaussian_filter(rng.standard_normal(phantom.hu.shape, dtype=np.float32), sigma)
    level = float(rng.uniform(6, 16))
    return noise * (level / (noise.std() + 1e-9))


@dataclass(frozen=True)
class _Source:
    """The source image and what belongs to it."""

    image: Volume
    mask: Volume
    facts: dict[str, Any]
    fractions: np.ndarray | None


def _source(
    task: Task,
    region: Region,
    phantom: Phantom,
    grid: Geometry,
    transform: object,
    hu_of: np.ndarray,
    random: dict[str, np.random.Generator],
) -> _Source:
    """The MR or CBCT, its body mask, and how it was made."""
    fine = fine_grid(grid)

    def posed(array: np.ndarray, **options: Any) -> np.ndarray:
        return resample(Volume(array, phantom.geometry), fine, transform=transform, **options).array

    hu = posed(phantom.hu, outside=-1000)
    tissue = posed(phantom.tissue, interpolation="nearest")
    solid = _body(hu, tissue)
    body = _pairs(solid.astype(np.float32), grid) > 0.25
    spacing = np.array(grid.spacing_xyz[::-1])
    mask = ndimage.distance_transform_edt(~body, sampling=spacing) < 4.0 if body.any() else ~body
    fractions = None
    if task == Task.MRI:
        table, fat_of = sample_marrow_fat(random["tissue"]), sample_tissue_fat(random["tissue"])
        fat = marrow_fat(table, posed(phantom.label, interpolation="nearest"), tissue)
        fractions = fractions_from_hu(hu, tissue, hu_of, fat_of, fat)
        fractions[Channel.AIR][~ndimage.binary_dilation(solid, iterations=2)] = 255  # the couch gives no signal
        array, seen, facts = _mr(fractions, body, grid, region, random["source"])
        fractions = average_slices(fractions, grid.size_xyz[2])
    else:
        array, seen, facts = _cbct(np.where(tissue == Tissue.METAL, METAL_HU, hu), body, grid, region, random["source"])
    mask &= seen
    return _Source(to_int16(Volume(array, grid)), Volume(mask, grid), facts, fractions)


def _body(hu: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    solid = ~np.isin(tissue, (Tissue.AIR, Tissue.COUCH_SHELL, Tissue.COUCH_FOAM)) & (
        (hu > -500) | (tissue != Tissue.AIR)
    )
    parts, count = ndimage.label(solid)
    if count > 1:  # specks are no body
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        solid = (sizes > 0.02 * sizes.max())[parts]
    return np.stack([ndimage.binary_fill_holes(s) for s in solid])


def _pairs(array: np.ndarray, grid: Geometry) -> np.ndarray:
    """Average sub-slices into the slices of `grid`."""
    n = grid.size_xyz[2]
    if array.shape[0] == n:
        return array
    return array[: 2 * n].reshape(n, 2, *array.shape[1:]).mean(1)


def _mr(
    fractions: np.ndarray, body: np.ndarray, grid: Geometry, region: Region, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """The MR of fraction maps (sub-slices), the voxels inside its field of view, and its settings."""
    sequence = Sequence.sample(region, rng)
    settings = Acquisition.sample(sequence, rng, region)
    water, fat = (_pairs(a, grid) for a in magnetisation(fractions, tissue_signals(sequence, rng)))
    air = _pairs(fractions[Channel.AIR], grid) * np.float32(1 / 255)
    image = acquire(water, fat, air, grid, sequence, settings, rng)
    seen = _mr_field_of_view(body, grid, settings.cut)
    return image * seen, seen, {"sequence": asdict(sequence), "acquisition": asdict(settings)}


def _mr_field_of_view(body: np.ndarray, grid: Geometry, cut: float) -> np.ndarray:
    """Voxels inside the field of view, which ends `cut` of the body's width before its sides: [1, 1, x]."""
    columns = np.nonzero(body.any(axis=(0, 1)))[0]
    seen = np.ones((1, 1, grid.size_xyz[0]), bool)
    if cut > 0 and len(columns):
        width = int(cut * (columns[-1] - columns[0] + 1) / 2)
        seen[..., : columns[0] + width] = False
        seen[..., columns[-1] + 1 - width :] = False
    return seen


def _cbct(
    hu: np.ndarray, body: np.ndarray, grid: Geometry, region: Region, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """The CBCT of a patient (sub-slices), the voxels inside its field of view, and its protocol."""
    from sctlab.simulation.cbct import Scan, field_of_view, simulate_cbct

    scan = Scan.sample(region, rng)
    x, y = (float(a + b) for a, b in zip(scan.centre_mm, _off_centre(body, grid), strict=True))
    scan = replace(scan, centre_mm=(x, y))
    slices = _pairs(hu, grid)
    pad = int(np.ceil(0.14 * len(slices)))  # oblique rays pass tissue beyond the field of view
    extended = np.pad(slices, ((pad, pad), (0, 0), (0, 0)), mode="edge")
    geometry = grid.cropped((0, 0, -pad), (*grid.size_xyz[:2], grid.size_xyz[2] + 2 * pad))
    image = simulate_cbct(extended, geometry, grid, scan, rng)
    return np.clip(image, AIR_HU, 3071), field_of_view(grid, scan), {"scan": asdict(scan)}


def _off_centre(body: np.ndarray, grid: Geometry) -> tuple[float, float]:
    """Middle of the body's extent relative to the grid's centre (x, y in mm): patients are set up on the isocentre."""
    middle = []
    for axis, (size, spacing) in zip((2, 1), zip(grid.size_xyz[:2], grid.spacing_xyz[:2], strict=True), strict=True):
        index = np.nonzero(body.any(axis=tuple(a for a in range(3) if a != axis)))[0]
        middle.append(((index[0] + index[-1]) / 2 - (size - 1) / 2) * spacing if len(index) else 0.0)
    return float(middle[0]), float(middle[1])
