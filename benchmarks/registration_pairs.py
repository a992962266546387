"""Pairs with a known deformation, made from real CTs: the input of `benchmarks/register.py`.

The fixed image is the CT deformed by a field that no engine's own model flatters — Gaussian-smoothed noise of
several widths, a breathing-like part and a rigid part — and given the contrast of an MR or the shading of a CBCT.
The moving image is the CT as it is. The truth maps fixed points to moving points.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_closing, binary_erosion, binary_fill_holes, gaussian_filter, label

from sctlab.measures.jacobian import jacobian_determinant
from sctlab.registration.truth import tissue_edges
from sctlab.transforms.apply import field_of_view
from sctlab.transforms.data import AffineTransform, DisplacementField, EulerTransform, compose
from sctlab.transforms.field import displacement_field
from sctlab.transforms.itk_files import read_itk
from sctlab_model.cases import Region, Task, find_cohort, find_image
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.volume import AIR_HU, Geometry, Volume, resample

# Name → file below the data folder, voxels in mm, region; crops lie inside the patient: all of them is body.
CASES: dict[str, tuple[str, float, str]] = {
    "abdomen": ("abdomen_ct/ct.nii.gz", 3.0, "AB"),
    "abdomen-2": ("abdomen_ct_dicom/series", 2.0, "AB"),
    "head": ("head_ct_dicom/series", 2.0, "HN"),
    "thorax-crop": ("thorax_ct/ct.nii.gz", 2.5, "TH"),
    "lung-crop": ("lung_ct/ct.mha", 2.5, "TH"),
    # Behind the others in the alphabet: the place there is part of the seed.
    "trunk": ("abdomen_ct_crlm_1004/ct.nii.gz", 3.0, "AB"),
    "upper-body": ("hn_ct_openkbp_109/ct.nii.gz", 3.0, "HN"),
    "upper-leg": ("pair_mrct_sts_044/ct.nii.gz", 3.0, "AB"),
    "upper-leg-2": ("rt_pair_sts_018/CT/image", 3.0, "AB"),
}
MODALITIES = ("mr", "cbct")


@dataclass(frozen=True)
class Pair:
    """A pair and its truth.

    Args:
        name: `case/modality/seed`.
        fixed, moving: The images; moving is a CT.
        fixed_mask: Body in the fixed image (the input of every method that takes one).
        truth: Displacement on the fixed grid [3 (x, y, z), z, y, x] in mm, the rigid part included.
        body, edges: Where errors are counted.
        region: SynthRAD region.
    """

    name: str
    fixed: Volume
    moving: Volume
    fixed_mask: Volume
    truth: np.ndarray
    body: np.ndarray
    edges: np.ndarray
    region: Region

    @property
    def task(self) -> Task:
        """What the fixed image is."""
        return Task.CBCT if "cbct" in self.name.split("/")[-2] else Task.MRI


def load_ct(case: str, data: Path) -> Volume:
    """The CT of a case, float32 HU, on isotropic voxels of the case's size."""
    file, spacing, _ = CASES[case]
    path = data / file
    if path.is_dir():
        from sctlab.dicom import read_dicom_series

        ct = read_dicom_series(path)
    else:
        ct = read_volume(path)
    ct = ct.with_array(np.clip(ct.array.astype(np.float32), AIR_HU, 3071))
    return resample(ct, ct.geometry.resized((spacing,) * 3), interpolation="linear", outside=AIR_HU)


def make_pair(case: str, ct: Volume, modality: str, seed: int, *, breathing_mm: float | None = None) -> Pair:
    """A pair from a CT; the same seed gives the same deformation for both modalities.

    Args:
        case: One of `CASES`.
        ct: Its CT.
        modality: One of `MODALITIES`.
        seed: Of everything random.
        breathing_mm: A deep breath of that amplitude beside 0.6 of the usual deformation.
    """
    random = np.random.default_rng([seed, sorted(CASES).index(case)])
    grid = fixed_grid(ct.geometry, random)
    # In a stack of few slices a patient must not leave it: no motion along an axis beyond a fifth of the extent.
    room = np.minimum(1.0, 0.2 * np.array(grid.size_xyz) * np.array(grid.spacing_xyz) / 23.0)
    rigid = EulerTransform(
        tuple(np.radians(random.uniform(-3, 3, 3)) * room[2]),
        tuple(random.uniform(-8, 8, 3) * room),
        tuple(grid.centre_xyz),
    )
    local = local_field(grid, random)
    if breathing_mm:
        local = 0.6 * local + _deep_breath(grid, random, breathing_mm)
    local = local * room[::-1, None, None, None]
    truth = compose(
        DisplacementField(grid, local), AffineTransform(rigid.affine().matrix, rigid.translation_xyz, rigid.centre_xyz)
    )
    field = displacement_field(truth, grid)
    return pair_of(f"{case}/{modality}/{seed}", ct, field, random, crop=case.endswith("crop"), region=CASES[case][2])


def pair_of(
    name: str, ct: Volume, field: DisplacementField, random: np.random.Generator, *, crop: bool, region: str
) -> Pair:
    """The pair of a CT and a truth: the fixed image is the CT where the field takes it from, in another contrast.

    Args:
        name: `case/modality/seed`.
        ct: The moving image.
        field: The truth at the voxels of the fixed grid.
        random: Of contrast, shading and noise.
        crop: The CT lies inside the patient: all of it is body.
        region: SynthRAD region.
    """
    grid = field.grid
    deformed = resample(ct, grid, interpolation="bspline", outside=AIR_HU, transform=field.to_sitk()).array
    deformed = np.clip(deformed, AIR_HU, 3071)
    whole = ct.with_array(np.ones(ct.array.shape, np.uint8))
    covered = resample(whole, grid, interpolation="nearest", transform=field.to_sitk()).array > 0
    mask = covered & (crop | _body(deformed))
    make_contrast = _mr_like if name.split("/")[-2] == "mr" else _cbct_like
    image = make_contrast(deformed, mask, grid, random)
    slope = gaussian_filter(np.clip(deformed, -300, 500), 0.7)
    slope = np.sqrt(sum((np.gradient(slope, axis=a) / s) ** 2 for a, s in enumerate(grid.spacing_xyz[::-1])))
    inner = binary_erosion(mask & covered, iterations=2)
    edges = inner & (slope > np.quantile(slope[inner], 0.85))
    return Pair(
        name,
        Volume(image.astype(np.float32), grid, "fixed"),
        Volume(ct.array, ct.geometry, "moving"),
        Volume(mask, grid, "fixed mask"),
        field.vectors.astype(np.float32),
        mask,
        edges,
        Region(region),
    )


def simulated_pairs(cohort: Path) -> Iterator[Pair]:
    """Pairs of a simulated cohort: the CT is moving, and content that came or went doesn't count."""
    for case in find_cohort(cohort):
        truth_folder = case.folder / "truth"
        if case.target is None or not (truth_folder / "deformation.h5").is_file():
            continue
        fixed, moving, mask = case.read_source(), read_volume(case.target), case.read_mask()
        truth = displacement_field(read_itk(truth_folder / "deformation.h5"), fixed.geometry)
        counted = mask.array & field_of_view(moving.geometry, truth, fixed.geometry).array
        changed = find_image(truth_folder, "content_changed")
        if changed is not None:
            counted &= ~read_mask(changed).array
        aligned = read_volume(find_image(truth_folder, "ct_aligned"))
        yield Pair(
            f"simulated-{case.region}/{case.task.source_name}/{case.id}",
            fixed,
            moving,
            mask,
            truth.vectors.astype(np.float32),
            counted,
            tissue_edges(aligned, counted),
            case.region,
        )


def errors(pair: Pair, displacement: np.ndarray) -> dict[str, float]:
    """Target registration errors in mm of a displacement [3 (x, y, z), z, y, x] on the fixed grid."""
    distance = np.sqrt(((displacement - pair.truth) ** 2).sum(0))
    determinant = jacobian_determinant(DisplacementField(pair.fixed.geometry, displacement))
    return {
        "body_mm": float(distance[pair.body].mean()),
        "edges_mm": float(distance[pair.edges].mean()),
        "p95_mm": float(np.percentile(distance[pair.body], 95)),
        "edges_p95_mm": float(np.percentile(distance[pair.edges], 95)),
        "folds_percent": float(100 * (determinant[pair.body] <= 0).mean()),
        "smallest_determinant": float(determinant[pair.body].min()),
    }


def fixed_grid(geometry: Geometry, random: np.random.Generator) -> Geometry:
    """A part of the CT's grid, off its voxels: what the moving image shows beyond it is the field of view's excess."""
    size = np.array(geometry.size_xyz)
    spacing = np.array(geometry.spacing_xyz)
    inset = np.minimum(np.ceil(np.array([6.0, 6.0, 10.0]) / spacing), size // 12).astype(int)
    inset = np.maximum(inset, 0)
    grid = geometry.cropped(tuple(inset), tuple(size - 2 * inset))
    shift = random.uniform(-0.5, 0.5, 3) * spacing
    return Geometry(grid.size_xyz, grid.spacing_xyz, tuple(np.array(grid.origin_xyz) + shift), grid.direction)


def local_field(grid: Geometry, random: np.random.Generator) -> np.ndarray:
    """Smoothed noise of four widths and a breathing-like part [3, z, y, x]: at most 15 mm, no folding."""
    spacing = np.array(grid.spacing_xyz[::-1])
    field = np.zeros((3, *grid.shape_zyx))
    for width, amplitude in ((10.0, 1.0), (18.0, 2.0), (32.0, 4.0), (55.0, 6.0)):
        for axis in range(3):
            pad = [int(3 * width / s) for s in spacing]
            noise = random.standard_normal([n + 2 * p for n, p in zip(grid.shape_zyx, pad, strict=True)])
            smooth = gaussian_filter(noise, width / spacing, mode="wrap")[tuple(slice(p, -p or None) for p in pad)]
            field[axis] += amplitude * random.uniform(0.5, 1.0) * smooth / max(np.abs(smooth).max(), 1e-9)
    z, y, _ = np.meshgrid(*[np.arange(n) * s for n, s in zip(grid.shape_zyx, spacing, strict=True)], indexing="ij")
    height = random.uniform(0.3, 0.8) * z.max()
    profile = np.exp(-0.5 * ((z - height) / random.uniform(35, 60)) ** 2)
    profile *= 0.6 + 0.4 * np.cos(np.pi * (y / max(y.max(), 1) - 0.5))
    amplitude = random.uniform(4, 10)
    field += np.array([0.0, -0.25 * amplitude, amplitude])[:, None, None, None] * profile  # down, and forwards
    field *= min(1.0, 15.0 / np.sqrt((field**2).sum(0)).max())
    for _ in range(20):
        if jacobian_determinant(DisplacementField(grid, field)).min() > 0.25:
            break
        field *= 0.9
    return field


def _deep_breath(grid: Geometry, random: np.random.Generator, amplitude: float) -> np.ndarray:
    """Downwards, some forwards, most at one height in front: [3 (x, y, z), z, y, x] in mm."""
    spacing = np.array(grid.spacing_xyz[::-1])
    z, y, _ = np.meshgrid(*[np.arange(n) * s for n, s in zip(grid.shape_zyx, spacing, strict=True)], indexing="ij")
    height = random.uniform(0.35, 0.65) * z.max()
    profile = np.exp(-0.5 * ((z - height) / 50) ** 2)
    profile *= 0.35 + 0.65 * np.exp(-0.5 * ((y - 0.4 * y.max()) / 70) ** 2)
    return amplitude * np.array([0.13, -0.27, 1.0])[:, None, None, None] * profile


def _body(hu: np.ndarray) -> np.ndarray:
    """Body of a CT, tables and gaps left out."""
    parts, count = label(binary_closing(hu > -400, iterations=1))
    if not count:
        return np.zeros(hu.shape, bool)
    body = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    for k in range(len(body)):
        body[k] = binary_fill_holes(body[k])
    return body


def _mr_like(hu: np.ndarray, mask: np.ndarray, grid: Geometry, random: np.random.Generator) -> np.ndarray:
    """Another contrast, not monotonic in HU, with a bias field and Rician noise."""
    values = [0, 0.03, 0.12, random.uniform(0.7, 1.0), random.uniform(0.25, 0.5), random.uniform(0.3, 0.6),
              random.uniform(0.35, 0.7), random.uniform(0.2, 0.5), random.uniform(0.1, 0.3), 0.05, 0.02]  # fmt: skip
    signal = np.interp(hu, [-1024, -900, -400, -100, 0, 35, 65, 130, 300, 800, 3071], values)
    bias = np.exp(0.25 * _smooth_noise(hu.shape, 70.0, grid, random))
    noise = 0.03
    real = signal * bias + noise * random.standard_normal(hu.shape)
    return 1000 * np.hypot(real, noise * random.standard_normal(hu.shape))


def _cbct_like(hu: np.ndarray, mask: np.ndarray, grid: Geometry, random: np.random.Generator) -> np.ndarray:
    """Compressed contrast, cupping, low-frequency shading and correlated noise."""
    cup = gaussian_filter(mask.astype(float), 25 / np.array(grid.spacing_xyz[::-1]))
    shading = 60 * _smooth_noise(hu.shape, 45.0, grid, random) - random.uniform(50, 150) * cup
    noise = gaussian_filter(random.standard_normal(hu.shape), 0.6)
    image = random.uniform(0.8, 1.0) * (hu + 1024) - 1024 + shading * (hu > -700) + 45 * noise / noise.std()
    return np.clip(image, AIR_HU, 3071)


def _smooth_noise(shape: tuple[int, ...], width: float, grid: Geometry, random: np.random.Generator) -> np.ndarray:
    smooth = gaussian_filter(random.standard_normal(shape), width / np.array(grid.spacing_xyz[::-1]), mode="reflect")
    return (smooth - smooth.mean()) / max(smooth.std(), 1e-9)
