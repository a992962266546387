"""What makes an MR image of magnetisation: resolution, chemical shift, susceptibility, coils, motion, noise.

Ghosts and patient motion are TorchIO's transforms (Pérez-García et al., 2021) with parameters drawn here; the
rest works on the image or on its k-space directly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from sctlab.simulation.mr import Kind, Sequence
from sctlab.simulation.painter import smooth_noise
from sctlab_model.volume import Geometry


@dataclass(frozen=True)
class Acquisition:
    """Settings of one acquisition.

    Args:
        resolution_mm: Acquired pixel in the plane; k-space beyond it is missing (Gibbs ringing).
        noise: Standard deviation of the complex noise relative to the brightest tissue's signal.
        bias: Amplitude of the coil's sensitivity (log scale).
        shift_mm: Chemical shift of fat along the readout (x).
        ghost: Strength of motion ghosts along y; 0 for none.
        motion: Whether the patient moved once during the acquisition.
        susceptibility: Signal loss beside air, 0 to 1.
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

    @classmethod
    def sample(cls, sequence: Sequence, rng: np.random.Generator) -> Acquisition:
        """Draw settings that suit the sequence: noisier at 0.35 T, no shift where the bandwidth is high."""
        low = sequence.field_tesla < 1
        return cls(
            resolution_mm=float(rng.uniform(1.3, 2.0) if low else rng.uniform(1.0, 1.7)),
            noise=float(rng.uniform(0.015, 0.035) if low else rng.uniform(0.005, 0.022)),
            bias=float(rng.uniform(0.06, 0.20) * (1.5 if sequence.field_tesla == 3 else 1.0)),
            shift_mm=float(rng.uniform(-1, 1) * sequence.field_tesla * 0.75),
            ghost=float(rng.uniform(0.02, 0.10) if rng.random() < 0.25 else 0.0),
            motion=bool(rng.random() < 0.12),
            susceptibility=float(
                rng.uniform(0.2, 0.9) * {Kind.GRE: 1.0, Kind.BSSFP: 0.6, Kind.TSE: 0.12}[sequence.kind]
            ),
            scale=float(np.exp(rng.uniform(np.log(150), np.log(2500)))),
            cut=float(rng.uniform(0.02, 0.12) if rng.random() < 0.12 else 0.0),
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
        near = ndimage.gaussian_filter(air, 3.0 / spacing) * (1 - air)
        loss = np.exp(-settings.susceptibility * 5.0 * np.clip(near - 0.06, 0, None))
        water, fat = water * loss, fat * loss
    fat = ndimage.shift(fat, (0, 0, settings.shift_mm / spacing[2]), order=1, mode="nearest")
    if sequence.kind == Kind.BSSFP:
        image = _banding(water, fat, geometry, rng)
    else:
        image = _dixon_phase(water, fat, sequence, rng)
    image = np.abs(image).astype(np.float32)
    top = float(np.percentile(image[image > 0], 98)) if (image > 0).any() else 1.0
    image = _torchio(image / max(top, 1e-6), geometry, settings, rng)
    image *= np.exp(settings.bias * _coil(geometry, rng))
    return _sample_kspace(image, spacing, settings, rng) * settings.scale


def _dixon_phase(water: np.ndarray, fat: np.ndarray, sequence: Sequence, rng: np.random.Generator) -> np.ndarray:
    """Water and fat add with the phase of the echo time (India-ink lines when opposed); spin echoes refocus it."""
    if sequence.kind == Kind.TSE:
        return water + fat
    period_ms = 1000 / (3.4 * 42.577 * sequence.field_tesla)
    phase = 2 * np.pi * sequence.te_ms / period_ms
    # half of the protocols choose an in-phase echo
    return water + fat * (np.exp(1j * phase) if rng.random() < 0.5 else 1.0)


def _banding(water: np.ndarray, fat: np.ndarray, geometry: Geometry, rng: np.random.Generator) -> np.ndarray:
    """Balanced SSFP loses signal where the field is off by half a cycle a TR: dark bands towards the edges."""
    offset = smooth_noise(geometry.shape_zyx, geometry.spacing_xyz, 110.0, rng) * rng.uniform(0.3, 1.3)
    index = [np.linspace(-1, 1, n)[(slice(None),) + (None,) * (2 - a)] for a, n in enumerate(geometry.shape_zyx)]
    offset = offset + rng.uniform(0, 2.2) * sum(i * i for i in index) * rng.choice([-1, 1])
    profile = np.abs(np.cos(np.clip(offset, -4.6, 4.6) / 2)) ** 0.35
    return (water + fat) * profile


def _torchio(image: np.ndarray, geometry: Geometry, settings: Acquisition, rng: np.random.Generator) -> np.ndarray:
    """Ghosts and motion with TorchIO, parameters from our own random numbers."""
    ghosts = settings.ghost > 0
    count, degrees = int(rng.integers(3, 8)), rng.normal(0, 0.8, 3)
    shift, when = rng.normal(0, 0.9, 3), float(rng.uniform(0.25, 0.75))
    if not (ghosts or settings.motion):
        return image
    import torch
    import torchio as tio

    affine = np.diag([*geometry.spacing_xyz, 1.0])
    scalar = tio.ScalarImage(tensor=torch.from_numpy(np.ascontiguousarray(image.T[None])), affine=affine)
    if ghosts:
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
    return np.clip(field + rng.normal(0, 0.8) * y * y + rng.normal(0, 0.6) * y, -3, 3)


def _sample_kspace(
    image: np.ndarray, spacing: np.ndarray, settings: Acquisition, rng: np.random.Generator
) -> np.ndarray:
    """Keep the acquired part of k-space in the plane (an ellipse with a soft rim), add complex noise: Rician."""
    spectrum = fft.rfft2(image, axes=(1, 2), workers=1)
    ky = fft.fftfreq(image.shape[1], spacing[1])[:, None]
    kx = fft.rfftfreq(image.shape[2], spacing[2])[None, :]
    radius = np.sqrt(kx * kx + ky * ky) * 2 * settings.resolution_mm
    window = np.clip((1.06 - radius) / 0.12, 0, 1).astype(np.float32)
    smooth = fft.irfft2(spectrum * window, s=image.shape[1:], axes=(1, 2), workers=1)
    real, imaginary = (_white(image.shape, window, rng) * settings.noise for _ in range(2))
    return np.sqrt((smooth + real) ** 2 + imaginary**2).astype(np.float32)


def _white(shape: tuple[int, ...], window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise that only the acquired k-space holds, unit variance."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    if window.min() < 1:
        noise = fft.irfft2(fft.rfft2(noise, axes=(1, 2), workers=1) * window, s=shape[1:], axes=(1, 2), workers=1)
        noise /= noise.std() + 1e-9
    return noise
