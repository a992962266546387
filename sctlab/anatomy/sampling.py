"""Training samples: a piece of a body in a random pose, seen twice, as CT, CBCT or MR of any contrast."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from sctlab.anatomy.bodies import Body
from sctlab.simulation.contrast import draw_contrast
from sctlab.simulation.fractions import Channel
from sctlab.simulation.painter import smooth_noise
from sctlab_model.anatomy.classes import IGNORE
from sctlab_model.anatomy.network import HOUNSFIELD, PIECES, SPACING_MM, normalised
from sctlab_model.image_statistics import Statistics

_CBCT_SHARE = 0.35  # of the views in HU
_SPACING = (SPACING_MM,) * 3


@dataclass(frozen=True)
class Sample:
    """A piece of a body.

    Args:
        views: Two images of it as the network sees them (`network.normalised`), float32 [2, z, y, x].
        classes: uint8 [z, y, x].
        regions: Of every slice, uint8 [z].
    """

    views: np.ndarray
    classes: np.ndarray
    regions: np.ndarray


def draw_sample(bodies: list[Body], weights: np.ndarray, rng: np.random.Generator, hu_share: float = 0.5) -> Sample:
    """One sample.

    Args:
        bodies: To draw from.
        weights: Chance of each.
        rng: The same state gives the same sample.
        hu_share: Chance that a view is in HU.
    """
    body = bodies[rng.choice(len(bodies), p=weights)]
    patch = PIECES[rng.integers(len(PIECES))]
    hu, maps, regions = _posed(body, _centre(body, rng), patch, rng)
    views = np.stack([_view(hu, maps[:-1], rng, hu_share) for _ in range(2)])
    return Sample(views, maps[-1], regions)


def _centre(body: Body, rng: np.random.Generator) -> np.ndarray:
    """A voxel [z, y, x]: of a random class, so that small organs are seen, or of the body at large."""
    classes = body.maps[-1]
    if rng.random() < 0.6:
        chosen = rng.choice(np.setdiff1d(np.unique(classes[::2, ::2, ::2]), (0, IGNORE)))
        where = np.flatnonzero(classes == chosen)
    else:
        where = np.flatnonzero(classes)
    return np.array(np.unravel_index(where[rng.integers(len(where))], classes.shape))


def _posed(
    body: Body, centre: np.ndarray, patch: tuple[int, int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HU, maps and slice regions of a piece: turned by up to 12°, scaled by up to 15 %, about a point near `centre`."""
    shape = np.array(body.hu.shape)
    half = np.array(patch) / 2
    low, high = np.minimum(half, shape / 2), np.maximum(shape - half, shape / 2)
    middle = np.clip(centre + rng.uniform(-0.5, 0.5, 3) * half, low - 4, high + 4)
    turn = _rotation(rng.normal(0, 5, 3).clip(-12, 12))
    matrix = turn * np.exp(rng.normal(0, 0.07, 3).clip(-0.15, 0.15))
    reach = np.ceil(np.abs(matrix) @ half).astype(int) + 2
    first = np.maximum(0, np.floor(middle).astype(int) - reach)
    last = np.minimum(shape, np.ceil(middle).astype(int) + reach)
    box = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in patch]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    points = grid @ torch.from_numpy(matrix.T.astype(np.float32)) + torch.from_numpy(
        (middle - first).astype(np.float32)
    )
    size = torch.tensor([s.stop - s.start for s in box], dtype=torch.float32)
    where = (2 * points / (size - 1).clamp_min(1) - 1).flip(-1)[None]

    hu = torch.from_numpy(np.array(body.hu[box], np.float32))
    maps = torch.from_numpy(np.array(body.maps[(slice(None), *box)], np.float32))
    nearest = [int(Channel.HOST), len(Channel)]
    smooth = [k for k in range(len(Channel)) if k not in nearest]
    # 1 more than the value, so that what lies outside (0) can be told and filled
    linear = functional.grid_sample(torch.cat([hu[None] + 2000, maps[smooth] + 1])[None], where, align_corners=True)[0]
    exact = functional.grid_sample(maps[nearest][None] + 1, where, mode="nearest", align_corners=True)[0]
    outside = exact[0] < 0.5
    posed = np.zeros((len(Channel) + 1, *patch), np.uint8)
    posed[nearest] = (exact - 1).clamp(0, 255).numpy()
    posed[smooth] = (linear[1:] - 1).clamp(0, 255).round().numpy()
    beyond = outside.numpy()
    posed[:, beyond] = 0
    posed[Channel.AIR, beyond] = 255
    posed[-1, beyond] = IGNORE  # a scan that ends is no air
    image = (linear[0] - 2000).numpy()
    image[beyond] = -1000
    rows = np.rint(np.linspace(middle[0] - half[0], middle[0] + half[0] - 1, patch[0])).astype(int)
    inside = (rows >= 0) & (rows < shape[0])
    regions = np.where(inside, body.regions[rows.clip(0, shape[0] - 1)], IGNORE)
    return image, posed, regions


def _rotation(degrees: np.ndarray) -> np.ndarray:
    """Rotation matrix of Euler angles about z, y, x."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_euler("zyx", degrees, degrees=True).as_matrix()


def _view(hu: np.ndarray, fractions: np.ndarray, rng: np.random.Generator, hu_share: float) -> np.ndarray:
    """An image of the piece, normalised. A piece without air is in HU all the same, so that is said, not guessed."""
    if rng.random() < hu_share:
        image = _cbct(hu, rng) if rng.random() < _CBCT_SHARE else _ct(hu, rng)
        return normalised(torch.from_numpy(image), HOUNSFIELD).numpy()
    image = draw_contrast(fractions, rng, spacing_xyz=_SPACING, random_share=0.2)
    thick = float(rng.uniform(0, 1.1)) if rng.random() < 0.5 else 0.0
    image = ndimage.gaussian_filter1d(image, thick, axis=0) if thick > 0.2 else image
    top = float(image.max())
    image = top * (image / max(top, 1e-6)) ** float(np.exp(rng.normal(0, 0.2)))
    piece = torch.from_numpy(image.astype(np.float32))
    seen = normalised(piece, Statistics.of(piece)).numpy()
    return seen * np.float32(np.exp(rng.uniform(-0.45, 0.35)))  # a whole image's statistics are not a piece's


def _ct(hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A planning CT, or a synthetic one: sharp or blurred, with noise."""
    blur = float(rng.uniform(0, 1.0))
    image = ndimage.gaussian_filter(hu, blur) if blur > 0.3 else hu
    noise = rng.standard_normal(hu.shape, dtype=np.float32) * np.float32(rng.uniform(0, 25))
    return (image * np.float32(rng.normal(1, 0.015)) + noise + np.float32(rng.normal(0, 8))).astype(np.float32)


def _cbct(hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """HU as a cone beam shows them: scaled, shaded and cupped, noisy; cheap stand-ins for the simulator's ray tracing."""
    image = ndimage.gaussian_filter(hu, float(rng.uniform(0.2, 0.8)))
    image = (image + 1000) * np.float32(rng.uniform(0.8, 1.12)) - 1000
    body = np.clip((image + 800) / 400, 0, 1)
    shading = smooth_noise(hu.shape, _SPACING, 90.0, rng) * rng.uniform(0, 60)
    noise = ndimage.gaussian_filter(rng.standard_normal(hu.shape, dtype=np.float32), 0.6)
    noise *= np.float32(rng.uniform(8, 60) / (noise.std() + 1e-6))
    return (image + body * (shading + rng.normal(0, 40)) + noise).astype(np.float32)


def as_batch(samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views [2B, 1, z, y, x] (both of a sample after each other), classes [B, z, y, x], regions [B, z]; int64."""
    views = torch.from_numpy(np.concatenate([s.views for s in samples]))[:, None]
    classes = torch.from_numpy(np.stack([s.classes for s in samples]).astype(np.int64))
    regions = torch.from_numpy(np.stack([s.regions for s in samples]).astype(np.int64))
    return views, classes, regions
