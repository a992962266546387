"""Masked multi-scale SSIM in 3D: the challenge's variant and the textbook's, in one pass over five levels.

The challenge (SynthRAD2025) raises luminance, contrast and structure to the level's weight at every level,
voxel by voxel, and averages the map over the mask. The textbook (Wang, Simoncelli, Bovik, "Multiscale
structural similarity for image quality assessment", Asilomar 2003) averages contrast x structure at each
level and uses luminance at the coarsest level only.

Two observations make it fast without changing a number:

- C3 = C2 / 2, so contrast x structure = 2 (cov + C3) / (var_x + var_y + C2): no square roots, and one power
  a voxel. Contrast and luminance can't be negative, so clipping structure at 0 is clipping the product.
- Outside the mask both images are 0, so only the mask's bounding box and the windows around it matter.

Box sums are exact: sums of integers (or of dyadic fractions, at coarser levels) in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sctlab.measures.slabs import map_slabs

HU_RANGE = (-1024.0, 3071.0)
DATA_RANGE = HU_RANGE[1] - HU_RANGE[0]
LEVEL_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW = 7
BORDER = WINDOW // 2
MIN_AXIS = (WINDOW - 1) * 2 ** (len(LEVEL_WEIGHTS) - 1) + 1  # 97: the coarsest level still holds one window

_C1 = (0.01 * DATA_RANGE) ** 2
_C2 = (0.03 * DATA_RANGE) ** 2


@dataclass(frozen=True)
class MsSsim:
    """Both variants, each in [0, 1]; NaN where the mask is empty at some level."""

    challenge: float
    textbook: float


@dataclass
class _Level:
    """One level of the pyramid. Arrays cover a box of a larger grid on which the images are 0 elsewhere."""

    images: torch.Tensor  # [2, z, y, x]: prediction and reference
    image_start: tuple[int, ...]
    mask: torch.Tensor  # [z, y, x] bool
    mask_start: tuple[int, ...]
    shape: tuple[int, ...]  # of the whole grid, z, y, x


def ms_ssim(
    prediction: np.ndarray, reference: np.ndarray, mask: np.ndarray, *, device: str | torch.device = "cpu"
) -> MsSsim:
    """Masked MS-SSIM of two CTs.

    Args:
        prediction: HU, axes z, y, x.
        reference: HU, same shape.
        mask: Body mask, same shape; voxels above 0 count.
        device: Where to compute, in float64 on any device.

    Returns:
        The challenge's value and the textbook's.
    """
    prediction, reference, mask = (_pad_thin_axes(a) for a in (prediction, reference, np.asarray(mask) > 0))
    box = bounding_box(mask)
    if box is None:
        return MsSsim(math.nan, math.nan)
    start = tuple(s.start for s in box)
    inside = torch.from_numpy(np.ascontiguousarray(mask[box])).to(device)
    images = torch.stack([_shifted(a[box], inside, device) for a in (prediction, reference)])
    level = _Level(images, start, inside, start, mask.shape)

    challenge, textbook = 1.0, 1.0
    for index, weight in enumerate(LEVEL_WEIGHTS):
        last = index == len(LEVEL_WEIGHTS) - 1
        powered, structure, full = _level_means(level, weight)
        challenge *= min(max(powered, 0.0), 1.0) if not math.isnan(powered) else math.nan
        textbook *= (full if last else structure) ** weight
        if not last:
            level = _halved(level)
    return MsSsim(challenge, textbook)


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Smallest box that holds every voxel of a boolean array; None when there is none."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        hits = np.flatnonzero(mask.any(axis=others))
        if hits.size == 0:
            return None
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return tuple(box)


def _pad_thin_axes(array: np.ndarray) -> np.ndarray:
    """Repeat the edges of axes shorter than 97: half (rounded down) in front, the rest behind."""
    missing = [max(0, MIN_AXIS - n) for n in array.shape]
    if not any(missing):
        return array
    return np.pad(array, [(m // 2, m - m // 2) for m in missing], mode="edge")


def _shifted(array: np.ndarray, inside: torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """Clip to the HU range and shift air to 0; 0 outside the mask. float32 holds integers exactly."""
    dtype = torch.float32 if array.dtype.kind in "iub" and array.dtype.itemsize <= 2 else torch.float64
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    image = torch.from_numpy(np.ascontiguousarray(array)).to(device).to(dtype)
    return image.clamp_(*HU_RANGE).sub_(HU_RANGE[0]).mul_(inside)


def _level_means(level: _Level, weight: float) -> tuple[float, float, float]:
    """Means over the mask, a border of 3 dropped: (l c s)^w, c s, and l c s."""
    # where the map is wanted: the mask, inside the border
    lower = [max(s, BORDER) for s in level.mask_start]
    upper = [
        min(s + n, total - BORDER) for s, n, total in zip(level.mask_start, level.mask.shape, level.shape, strict=True)
    ]
    if any(a >= b for a, b in zip(lower, upper, strict=True)):
        return math.nan, math.nan, math.nan
    mask = level.mask[tuple(slice(a - s, b - s) for a, b, s in zip(lower, upper, level.mask_start, strict=True))]
    slabs = _zero_extended(level, [a - BORDER for a in lower], [b + BORDER for b in upper])
    return _windowed_means(slabs, mask, weight)


def _zero_extended(level: _Level, lower: list[int], upper: list[int]) -> torch.Tensor:
    """The images over the box [lower, upper), with the zeros that lie outside their own box."""
    shape = [b - a for a, b in zip(lower, upper, strict=True)]
    out = level.images.new_zeros((2, *shape))
    target, source = [slice(None)], [slice(None)]
    for a, b, s, n in zip(lower, upper, level.image_start, level.images.shape[1:], strict=True):
        first, last = max(a, s), min(b, s + n)
        if first >= last:
            return out
        target.append(slice(first - a, last - a))
        source.append(slice(first - s, last - s))
    out[tuple(target)] = level.images[tuple(source)]
    return out


def _windowed_means(images: torch.Tensor, mask: torch.Tensor, weight: float) -> tuple[float, float, float]:
    """Means over the mask of the maps; `images` reach 3 voxels beyond `mask` on every side."""
    count = int(mask.sum())
    if count == 0:
        return math.nan, math.nan, math.nan
    parts = map_slabs(
        lambda first, last: _window_sums(images[:, first : last + 2 * BORDER], mask[first:last], weight),
        len(mask),
        images.device,
    )
    return tuple((torch.stack(parts).sum(0) / count).tolist())


def _window_sums(images: torch.Tensor, mask: torch.Tensor, weight: float) -> torch.Tensor:
    """Slide a 7x7x7 window slice by slice with a running sum, so that everything stays in the cache."""
    depth, rows, columns = mask.shape
    options: Any = {"dtype": torch.float64, "device": images.device}
    products = torch.empty((4, rows + 2 * BORDER, columns + 2 * BORDER), **options)  # x, y, x^2 + y^2, x y
    ring = torch.zeros((WINDOW, 4, rows, columns), **options)
    total = torch.zeros((4, rows, columns), **options)
    scratch = _Scratch(products.shape, options)
    sums = torch.zeros(3, **options)
    for index in range(depth + 2 * BORDER):
        x, y, squares, cross = products
        x.copy_(images[0, index])
        y.copy_(images[1, index])
        torch.mul(x, y, out=cross)
        torch.mul(x, x, out=squares).addcmul_(y, y)
        slot = ring[index % WINDOW]
        total.sub_(slot)
        scratch.box_sum(products, slot)
        total.add_(slot)
        if index >= 2 * BORDER:
            sums += _slice_sums(total, mask[index - 2 * BORDER], weight, scratch)
    return sums


class _Scratch:
    """Buffers that are reused for every slice: fresh memory costs more than the arithmetic."""

    def __init__(self, shape: tuple[int, ...], options: dict) -> None:
        channels, rows, columns = shape
        self.pairs = torch.empty(channels * rows * columns, **options)
        self.fours = torch.empty(channels * rows * columns, **options)
        self.lines = torch.empty((channels, rows, columns - 2 * BORDER), **options)
        self.maps = torch.empty((4, rows - 2 * BORDER, columns - 2 * BORDER), **options)

    def box_sum(self, images: torch.Tensor, out: torch.Tensor) -> None:
        """Sum of 7x7 windows, `images` [c, rows + 6, columns + 6] → `out` [c, rows, columns]."""
        self._seven(images, 2, self.lines)
        self._seven(self.lines, 1, out)

    def _seven(self, images: torch.Tensor, axis: int, out: torch.Tensor) -> None:
        """Windows of seven from windows of two and four: four additions instead of six."""
        n = images.shape[axis]

        def view(buffer: torch.Tensor, length: int) -> torch.Tensor:
            shape = list(images.shape)
            shape[axis] = length
            return buffer[: math.prod(shape)].view(shape)

        pairs, fours = view(self.pairs, n - 1), view(self.fours, n - 3)
        torch.add(images.narrow(axis, 0, n - 1), images.narrow(axis, 1, n - 1), out=pairs)
        torch.add(pairs.narrow(axis, 0, n - 3), pairs.narrow(axis, 2, n - 3), out=fours)
        torch.add(fours.narrow(axis, 0, n - 6), pairs.narrow(axis, 4, n - 6), out=out)
        out.add_(images.narrow(axis, 6, n - 6))


def _slice_sums(total: torch.Tensor, mask: torch.Tensor, weight: float, scratch: _Scratch) -> torch.Tensor:
    """Sums over one slice's mask voxels of (l c s)^w, c s and l c s, from the window sums."""
    voxels = WINDOW**3
    sample = 1 / (voxels - 1)  # sample covariance: 343/342 of the population's
    sum_x, sum_y, sum_squares, sum_cross = total
    means, luminance, structure, work = scratch.maps
    # sum_x * sum_y / 343 and sum_x^2 + sum_y^2 over 343
    torch.mul(sum_x, sum_y, out=means)
    torch.mul(sum_x, sum_x, out=work).addcmul_(sum_y, sum_y)
    # luminance (2 m_x m_y + C1) / (m_x^2 + m_y^2 + C1), numerator and denominator times 343^2
    torch.add(work, _C1 * voxels**2, out=luminance)
    torch.mul(means, 2.0, out=structure).add_(_C1 * voxels**2)
    torch.div(structure, luminance, out=luminance)
    # contrast x structure = (2 cov + C2) / (var_x + var_y + C2), clipped at 0
    torch.sub(sum_cross, means, alpha=1 / voxels, out=structure).mul_(2 * sample).add_(_C2).clamp_(min=0)
    torch.sub(sum_squares, work, alpha=1 / voxels, out=work).mul_(sample).clamp_(min=0).add_(_C2)
    structure.div_(work)
    structure.mul_(mask)
    full = torch.mul(luminance, structure, out=luminance)
    powered = torch.pow(full, weight, out=work)  # 0 outside the mask, as 0^w = 0
    return torch.stack([powered.sum(), structure.sum(), full.sum()])


def _halved(level: _Level) -> _Level:
    """Next level: 2x2x2 box (each voxel with the one before it), every second voxel; the mask unfiltered.

    The box is a full convolution cropped as scipy's `fftconvolve(mode="same")` crops it, so voxel j of the
    next level is the mean of voxels 2j - 1 and 2j, with a zero before the first.
    """
    shape = tuple(-(-n // 2) for n in level.shape)
    images, mask = level.images, level.mask
    image_start, mask_start = [], []
    for axis in range(3):
        start, length = level.image_start[axis], images.shape[axis + 1]
        first = start // 2
        count = min((start + length) // 2, shape[axis] - 1) - first + 1
        begin = 2 * first - 1
        extended = _padded(images, axis + 1, start - begin, begin + 2 * count - (start + length))
        images = extended.unfold(axis + 1, 2, 2).sum(-1, dtype=torch.float64) / 2
        image_start.append(first)

        first_even = -(-level.mask_start[axis] // 2)
        mask = mask[
            tuple(
                slice(2 * first_even - level.mask_start[axis], None, 2) if a == axis else slice(None) for a in range(3)
            )
        ]
        mask_start.append(first_even)
    return _Level(images, tuple(image_start), mask, tuple(mask_start), shape)


def _padded(images: torch.Tensor, axis: int, before: int, after: int) -> torch.Tensor:
    """Zeros before and after along one axis (a negative `after` cuts)."""
    if after < 0:
        images = images.narrow(axis, 0, images.shape[axis] + after)
        after = 0
    shape = list(images.shape)
    shape[axis] += before + after
    out = images.new_zeros(shape)
    out.narrow(axis, before, images.shape[axis]).copy_(images)
    return out
