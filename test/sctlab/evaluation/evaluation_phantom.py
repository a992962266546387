"""A random phantom: a body with ellipsoid organs, and a prediction of it with moved organs and textured errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from sctlab_model.volume import Geometry, Volume


@dataclass(frozen=True)
class Phantom:
    """Everything on one grid; CT values in HU, label ids of TotalSegmentator's `total` task."""

    ct: Volume
    sct: Volume
    mask: Volume
    ct_labels: Volume
    sct_labels: Volume


def make_phantom(
    shape_zyx: tuple[int, int, int],
    spacing_xyz: tuple[float, float, float] = (1.0, 1.0, 3.0),
    *,
    classes: tuple[int, ...] = (),
    seed: int = 0,
) -> Phantom:
    """Organs (one a class) at random places of an ellipsoid body; half of them long and oblique, like ribs."""
    random = np.random.default_rng(seed)
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape_zyx]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    body = (y / 0.80) ** 2 + (x / 0.85) ** 2 + 0.05 * z**2 < 1
    mask = (y / 0.86) ** 2 + (x / 0.91) ** 2 + 0.05 * z**2 < 1
    texture = _texture(random, shape_zyx)
    ct = np.where(body, 40 + 15 * texture, -1000).astype(np.float32)
    sct = ct + np.where(body, 40 * _texture(random, shape_zyx), 5).astype(np.float32)
    ct_labels = np.zeros(shape_zyx, np.uint8)
    sct_labels = np.zeros(shape_zyx, np.uint8)
    for index, label in enumerate(classes):
        long = index % 2 == 1
        radii = random.uniform(0.03, 0.06, 3) if long else random.uniform(0.08, 0.22, 3)
        if long:
            radii[random.integers(3)] = random.uniform(0.25, 0.45)
        centre = random.uniform(-0.5, 0.5, 3)
        rotation = np.linalg.qr(random.normal(size=(3, 3)))[0]
        hounsfield = random.uniform(200, 900) if long else random.uniform(-90, 120)
        for image, labels, jitter in ((ct, ct_labels, 0.0), (sct, sct_labels, 0.012)):
            where = _ellipsoid(axes, centre + jitter * random.normal(size=3), radii * (1 + jitter * 4), rotation)
            image[where] = hounsfield + 20 * texture[where]
            labels[where] = label
    geometry = Geometry(shape_zyx[::-1], spacing_xyz)

    def volume(array: np.ndarray) -> Volume:
        return Volume(array, geometry)

    return Phantom(
        volume(np.round(ct).astype(np.int16)),
        volume(np.round(sct).astype(np.int16)),
        volume(mask),
        volume(ct_labels),
        volume(sct_labels),
    )


def _texture(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    noise = gaussian_filter(random.normal(size=shape).astype(np.float32), 1.5)
    return noise / noise.std()


def _ellipsoid(axes, centre, radii, rotation) -> tuple[np.ndarray, ...]:
    """Indices inside; only the box around the ellipsoid is looked at."""
    reach = radii.max()
    spans = [np.flatnonzero(np.abs(a - c) <= reach) for a, c in zip(axes, centre, strict=True)]
    grid = np.stack(np.meshgrid(*[a[s] - c for a, s, c in zip(axes, spans, centre, strict=True)], indexing="ij"), -1)
    inside = (((grid @ rotation) / radii) ** 2).sum(-1) < 1
    return tuple(s[i] for s, i in zip(spans, np.nonzero(inside), strict=True))
