"""What makes an MR image of magnetisation: susceptibility, chemical shift, coils, resolution, noise, the vendor's filters.

The same function images whole simulated cases and, within milliseconds, patches while a network trains. Ghosts and
patient motion (whole cases only) are TorchIO's transforms (Pérez-García et al., 2021) with parameters drawn here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from sctlab.simulation.painter import smooth_noise
from sctlab.simulation.sequences import Kind, Sequence
from sctlab_model.cases import Region
from sctlab_model.volume import Geometry

COARSE_MM = 3.0
# Acquired pixel in mm. Heads: 1 mm and less (UK Biobank, ADNI and MS protocols, Wattjes et al., Lancet Neurol 20 (2021) 653).
TRUNK_MM, HEAD_MM, LOW_FIELD_MM = (0.7, 2.2), (0.5, 1.3), (1.3, 2.0)
# Noise relative to the brightest tissue. BrainWeb's brains have 0 to 9 %, usually 3 (Kwan et al., IEEE TMI 18 (1999) 1085).
NOISE, HEAD_NOISE, LOW_FIELD_NOISE = (0.0012, 0.035), (0.0012, 0.06), (0.012, 0.035)


@dataclass(frozen=True)
class Acquisition:
    """Settings of one acquisition.

    Args:
        resolution_mm: Acquired pixel in the plane; k-space beyond it is missing (Gibbs ringing), zero-filled.
        softness: Width of the k-space filter's edge relative to its radius: 0.1 rings, 0.8 is smooth.
        noise: Standard deviation of the complex noise relative to the brightest tissue's signal.
        coils: Independent coil images in the sum of squares: the noise floor of the magnitude rises with them.
        bias: Amplitude of the coils' sensitivity (log scale).
        corrected: Share of the shading that the vendor's correction removes; noise is divided with the signal.
        shift_mm: Chemical shift of fat along the readout (x).
        ghost: Strength of motion ghosts along y; 0 for none.
        motion: Whether the patient moved once during the acquisition.
        susceptibility: Signal loss beside air, 0 to 1.
        train_decay: Decay along a single-shot echo train from the centre to the edge of k-space (log scale): it blurs
            along the phase encoding. The train's second half takes 120 to 300 ms, T2 is about 85 ms (Constable and
            Gore, Magn Reson Med 28 (1992) 9).
        phase_axis: Array axis of the phase encoding, 1 (front to back, usual in the trunk) or 2.
        masked: Whether the vendor sets voxels outside the body to zero.
        scale: Arbitrary unit of the image.
        cut: Share of the body's width that a narrow field of view leaves out; 0 for none.
    """

    resolution_mm: float
    noise: float
    bias: float
    shift_mm: float
    ghost: float
    motion: bool
    susceptibility: float
    scale: float
    cut: float = 0.0
    softness: float = 0.12
    coils: int = 1
    corrected: float = 0.0
    masked: bool = False
    train_decay: float = 0.0
    phase_axis: int = 1

    @classmethod
    def sample(cls, sequence: Sequence, rng: np.random.Generator, region: Region | None = None) -> Acquisition:
        """Draw settings that suit the sequence: noisier at 0.35 T, finer in the head, no shift where the bandwidth is high."""
        low = sequence.field_tesla < 1
        head = region is Region.HN or sequence.kind in (Kind.MPRAGE, Kind.FLAIR)
        pixel = LOW_FIELD_MM if low else HEAD_MM if head else TRUNK_MM
        noise = np.log(HEAD_NOISE if head else NOISE)
        loss = {Kind.GRE: 1.0, Kind.MPRAGE: 1.0, Kind.BSSFP: 0.6}.get(sequence.kind, 0.12)
        return cls(
            resolution_mm=float(rng.uniform(*pixel)),
            noise=float(rng.uniform(*LOW_FIELD_NOISE) if low else np.exp(rng.uniform(*noise))),
            bias=float(rng.uniform(0.08, 0.30) * (1.4 if sequence.field_tesla == 3 else 1.0)),
            shift_mm=float(rng.uniform(-1, 1) * sequence.field_tesla * 0.75),
            ghost=float(rng.uniform(0.02, 0.10) if rng.random() < 0.25 else 0.0),
            motion=bool(rng.random() < 0.12),
            susceptibility=float(rng.uniform(0.2, 0.9) * loss),
            scale=float(np.exp(rng.uniform(np.log(150), np.log(2500)))),
            cut=float(rng.uniform(0.02, 0.12) if rng.random() < 0.12 else 0.0),
            softness=float(rng.uniform(0.08, 0.9)),
            coils=int(rng.choice([1, 1, 2, 4])),
            corrected=float(rng.uniform(0.75, 1.0) if rng.random() < 0.65 else 0.0),
            masked=bool(rng.random() < 0.3),
            train_decay=float(rng.uniform(120, 300) / 85) if sequence.single_shot else 0.0,
            phase_axis=int(rng.choice([1, 2], p=[0.8, 0.2])) if sequence.single_shot else 1,
        )


def acquire(
    water: np.ndarray,
    fat: np.ndarray,
    air: np.ndarray,
    geometry: Geometry,
    sequence: Sequence,
    settings: Acquisition,
    rng: np.random.Generator,
) -> np.ndarray:
    """The magnitude image of a magnetisation.

    Args:
        water, fat: Magnetisation of both species [z, y, x].
        air: Share of gas and air in every voxel, for susceptibility.
        geometry: Their grid.
        settings: The acquisition.

    Returns:
        float32 [z, y, x], at least 0.
    """
    spacing = np.array(geometry.spacing_xyz[::-1])
    if settings.susceptibility > 0:
        # field gradients fall off over a few mm from air; dephasing grows with them
        near = _blurred(air, spacing)
        near *= 1 - air
        near -= 0.06
        np.maximum(near, 0, out=near)
        near *= np.float32(-5.0 * settings.susceptibility)
        loss = np.exp(near, out=near)
        water, fat = water * loss, fat * loss
    if settings.shift_mm != 0:
        fat = _shifted(fat, settings.shift_mm / spacing[2])
    if sequence.kind == Kind.BSSFP:
        image = _balanced(water, fat, geometry, sequence, rng)
    else:
        phase = sequence.fat_phase
        image = water + fat * (np.float32(phase) if isinstance(phase, float) else np.complex64(phase))
    top = _brightest(np.abs(image))
    image *= np.float32(1 / top)
    if settings.ghost > 0 or settings.motion:
        image = _torchio(np.abs(image), geometry, settings, rng)
    shading = None
    if settings.bias > 0:
        shading = np.exp(np.float32(settings.bias) * _coil(geometry, rng))
        image = image * shading
    result = _sample_kspace(image, spacing, settings, rng)
    if shading is not None and settings.corrected > 0:
        result /= shading if settings.corrected == 1 else shading**settings.corrected
    if settings.masked:  # lung, a fifth of tissue, stays
        result *= _blurred(1 - air, spacing) > 0.1
    result *= np.float32(settings.scale)
    return result


def _brightest(image: np.ndarray) -> float:
    """98th percentile of what gives signal, from a part of the voxels."""
    values = image[::2, ::3, ::3] if image.size > 50_000 else image
    values = values[values > 0]
    return max(float(np.percentile(values, 98)), 1e-6) if values.size else 1.0


def _blurred(array: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The array averaged over about 3 mm, float32, by way of a coarse grid: a Gaussian at full resolution costs more."""
    step = np.maximum(1, np.rint(COARSE_MM / spacing)).astype(int)
    pad = [(0, -n % s) for n, s in zip(array.shape, step, strict=True)]
    padded = np.pad(array, pad, mode="edge") if any(p[1] for p in pad) else array
    count = np.array(padded.shape) // step
    blocks = padded.reshape([k for pair in zip(count, step, strict=True) for k in pair])
    coarse = blocks.mean(axis=(1, 3, 5), dtype=np.float32)
    coarse = ndimage.gaussian_filter(coarse, COARSE_MM / (spacing * step), truncate=2.5)
    for axis, n in enumerate(array.shape):
        if step[axis] == 1:
            continue
        at = np.clip((np.arange(n) + 0.5) / step[axis] - 0.5, 0, coarse.shape[axis] - 1)
        low = np.minimum(at.astype(int), max(coarse.shape[axis] - 2, 0))
        t = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        first = np.take(coarse, low, axis)
        coarse = first + t * (np.take(coarse, np.minimum(low + 1, coarse.shape[axis] - 1), axis) - first)
    return coarse


def _shifted(array: np.ndarray, voxels: float) -> np.ndarray:
    """The array moved along x by a fraction of a voxel or more (linear), its edge repeated."""
    whole = int(np.floor(voxels))
    t = np.float32(voxels - whole)
    n = array.shape[2]
    at = np.clip(np.arange(n) - whole, 0, n - 1)
    moved = np.take(array, at, 2)
    return moved + t * (np.take(array, np.clip(at - 1, 0, n - 1), 2) - moved)


def _balanced(
    water: np.ndarray, fat: np.ndarray, geometry: Geometry, sequence: Sequence, rng: np.random.Generator
) -> np.ndarray:
    """Balanced SSFP loses signal where the field is off by half a cycle per TR: dark bands towards the edges.

    The sign of the signal changes from one band to the next: at 1.5 T fat, off by 0.6 to 0.9 cycles, is opposed to water.
    """
    offset = smooth_noise(geometry.shape_zyx, geometry.spacing_xyz, 110.0, rng) * np.float32(rng.uniform(0.3, 1.3))
    index = [
        np.linspace(-1, 1, n, dtype=np.float32)[(slice(None),) + (None,) * (2 - a)]
        for a, n in enumerate(geometry.shape_zyx)
    ]
    bowl = np.float32(rng.uniform(0, 2.2) * rng.choice([-1, 1]))
    offset = np.clip(offset + bowl * sum(i * i for i in index), -4.6, 4.6)
    fat_turn = 2 * np.pi * 3.4 * 42.577 * sequence.field_tesla * sequence.tr_ms / 1000
    return water * _band(offset) + fat * _band(offset + np.float32(fat_turn))


def _band(phase: np.ndarray) -> np.ndarray:
    """Signed pass-band profile of balanced SSFP for a precession by `phase` per TR."""
    cosine = np.cos(phase / 2)
    return np.sign(cosine) * np.abs(cosine) ** np.float32(0.35)


def _torchio(image: np.ndarray, geometry: Geometry, settings: Acquisition, rng: np.random.Generator) -> np.ndarray:
    """Ghosts and motion with TorchIO, parameters from our own random numbers."""
    import torch
    import torchio as tio

    count, degrees = int(rng.integers(3, 8)), rng.normal(0, 0.8, 3)
    shift, when = rng.normal(0, 0.9, 3), float(rng.uniform(0.25, 0.75))
    affine = np.diag([*geometry.spacing_xyz, 1.0])
    scalar = tio.ScalarImage(tensor=torch.from_numpy(np.ascontiguousarray(image.T[None])), affine=affine)
    if settings.ghost > 0:
        scalar = tio.Ghosting(num_ghosts=count, axis=1, intensity=settings.ghost * 4, restore=0.02)(scalar)
    if settings.motion:
        scalar = tio.Motion(
            degrees=degrees[None], translation=shift[None], times=np.array([when]), image_interpolation="linear"
        )(scalar)
    return np.abs(scalar.data[0].numpy().T).astype(np.float32)


def _coil(geometry: Geometry, rng: np.random.Generator) -> np.ndarray:
    """Log sensitivity: a smooth random field and a brighter surface in front or behind (surface coils)."""
    field = smooth_noise(geometry.shape_zyx, geometry.spacing_xyz, 130.0, rng)
    y = np.linspace(-1, 1, geometry.shape_zyx[1], dtype=np.float32)[None, :, None]
    field += (rng.normal(0, 0.8) * y * y + rng.normal(0, 0.6) * y).astype(np.float32)
    return np.clip(field, -3, 3, out=field)


def _sample_kspace(
    image: np.ndarray, spacing: np.ndarray, settings: Acquisition, rng: np.random.Generator
) -> np.ndarray:
    """Keep the acquired part of k-space in the plane (an ellipse with a soft rim) and add complex noise to it.

    The magnitude of one coil is Rician; of several, summed in squares, non-central chi: the others add noise alone.
    """
    ky = fft.fftfreq(image.shape[1], spacing[1])[:, None]
    kx = fft.fftfreq(image.shape[2], spacing[2])[None, :]
    radius = np.sqrt(kx * kx + ky * ky) * 2 * settings.resolution_mm
    window = np.clip((1 + settings.softness / 2 - radius) / settings.softness, 0, 1).astype(np.float32)
    spectrum = fft.fft2(image.astype(np.complex64, copy=False), axes=(1, 2), workers=1, overwrite_x=True)
    level = settings.noise / np.sqrt(np.mean(window**2) + 1e-12)  # of the image before the filter
    if settings.train_decay > 0:  # the signal's decay, not the noise's
        k = np.abs(ky if settings.phase_axis == 1 else kx)
        spectrum *= np.exp(-settings.train_decay * np.minimum(k * 2 * settings.resolution_mm, 1)).astype(np.float32)
    if level > 0:
        noise = rng.standard_normal((*image.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
        noise *= np.float32(level * np.sqrt(image.shape[1] * image.shape[2]))
        spectrum += noise
    spectrum *= window
    plane = fft.ifft2(spectrum, axes=(1, 2), workers=1, overwrite_x=True)
    if settings.coils == 1 or level == 0:
        return np.abs(plane)
    others = rng.standard_gamma(settings.coils - 1, image.shape, dtype=np.float32)
    others *= np.float32(2 * settings.noise**2)
    return np.sqrt(plane.real**2 + plane.imag**2 + others)
