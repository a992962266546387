"""Where the images fit better, as a smooth field: the judge registers the solution once more, by a measure of its own.

A window alone is chosen among noise; a spline lets windows agree. It maximises the squared correlation in small windows, which
no preset optimises, of the fixed image with the moving one in the fixed image's contrast (the mean fixed value of each moving
value, under the solution): lungs are dark in one image and clipped in the other, and without that the windows follow noise.
Of a sound solution the field is short; what moves far was wrong there.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from sctlab.registration.engine.bspline import ControlGrid, evaluate
from sctlab.registration.judge.view import View

STEPS = ((60.0, 20, 2.5), (30.0, 20, 1.2))  # knots in mm, iterations, their length in mm
BENDING = 9.0  # weight of the squared second differences of the knots, in units of the knots' distance
BINS = 32
SMOOTH_MM = 8.0  # standard deviation of the windows in which a place's mean counts
DEEP_MM = 10.0  # from the skin and from where data end
LEAST_PLACES = 50  # voxels


def better_places(view: View) -> np.ndarray:
    """The displacement [3 (z, y, x), z, y, x] in mm after which the moving image agrees better.

    Args:
        view: What the judge sees.
    """
    counted = view.region & view.data
    spacing, shape = view.spacing_mm, view.fixed.shape
    if min(shape) < 5 or counted.sum() < LEAST_PLACES:
        return np.zeros((3, *shape), np.float32)
    fixed, moving = (torch.from_numpy(a)[None, None] for a in (view.fixed, in_contrast_of(view)))
    measure = _Correlation(fixed, counted)
    index = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij"))
    scale = torch.tensor([2 / max(n - 1, 1) for n in shape])[:, None, None, None]
    extent = (spacing * (shape[0] - 1), spacing * (shape[1] - 1), spacing * (shape[2] - 1))
    found = torch.zeros(3, *shape)
    for knots, iterations, rate in STEPS:
        grid = ControlGrid.covering(extent, knots, margin=spacing)
        z, y, x = (grid.basis(a, spacing * np.arange(shape[a])) for a in range(3))
        bases = (z, y, x)
        coefficients = torch.zeros(3, *grid.size_zyx, requires_grad=True)
        optimiser = torch.optim.Adam([coefficients], lr=rate)
        for _ in range(iterations):
            field = evaluate(coefficients, bases) + found
            places = ((index + field / spacing) * scale - 1).flip(0).permute(1, 2, 3, 0)[None]
            moved = functional.grid_sample(moving, places, align_corners=True, padding_mode="border")
            loss = BENDING * _bending(coefficients, knots) - measure(moved)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            found = found + evaluate(coefficients, bases)
    return found.numpy()


def in_contrast_of(view: View) -> np.ndarray:
    """The moving image with the mean fixed value of each of its values, float32; of a wrong solution it gets flat."""
    counted = view.region & view.data
    moving, fixed = view.moving[counted], view.fixed[counted]
    limits = np.unique(np.quantile(moving, np.linspace(0, 1, BINS + 1)))
    number = np.clip(np.searchsorted(limits, moving, side="right") - 1, 0, max(len(limits) - 2, 0))
    count = np.bincount(number)
    filled = count > 0
    means, wanted = (np.bincount(number, values)[filled] / count[filled] for values in (moving, fixed))
    return np.asarray(np.interp(view.moving, means, wanted), np.float32)


def lengths_mm(field: np.ndarray, view: View, *, without_whole: bool = False) -> np.ndarray:
    """How far a field moves each place: means in windows over the body, in mm; NaN outside.

    Args:
        field: Of `better_places`.
        view: The same.
        without_whole: Less the body's median displacement: a contrast's own shift, such as a chemical one, is no place's.
    """
    body = view.mask & view.data
    if without_whole and body.any():
        field = field - np.median(field[:, body], axis=1)[:, None, None, None]
    sigma = SMOOTH_MM / view.spacing_mm
    length = np.sqrt((field**2).sum(0))
    sums, weights = (
        ndimage.gaussian_filter(a.astype(np.float32), sigma, mode="constant") for a in (length * body, body)
    )
    return np.where(body, sums / np.maximum(weights, 1e-6), np.nan)


def refit_signals(field: np.ndarray, view: View) -> dict[str, float]:
    """`refit mean mm`: over the body; `refit place mm`: at the place inside the body that moves farthest."""
    body = view.mask & view.data
    inner = ndimage.distance_transform_edt(np.pad(body, 1))[1:-1, 1:-1, 1:-1] * view.spacing_mm > DEEP_MM
    if inner.sum() < LEAST_PLACES:
        return {}
    whole, places = lengths_mm(field, view), lengths_mm(field, view, without_whole=True)
    return {"refit mean mm": float(whole[inner].mean()), "refit place mm": float(places[inner].max())}


class _Correlation:
    """Mean squared correlation in windows (two means of three voxels along each axis), weighted by the fixed image's structure."""

    def __init__(self, fixed: Tensor, counted: np.ndarray) -> None:
        self.fixed = fixed - fixed.mean()
        self.mean, self.variance = self._moments(self.fixed)
        deviation = self.variance.sqrt()
        inside = _window(torch.from_numpy(counted.astype(np.float32))[None, None])
        strong = np.percentile(deviation[inside > 0.5].numpy(), 90) if (inside > 0.5).any() else 1.0
        self.weight = (deviation / max(float(strong), 1e-6)).clamp_max(1) * inside
        self.weight = self.weight / self.weight.sum().clamp_min(1e-6)
        self.floor = 1e-3 * float(self.variance.mean()) + 1e-9

    def __call__(self, moved: Tensor) -> Tensor:
        moved = moved - moved.mean().detach()
        mean, variance = self._moments(moved)
        covariance = _window(self.fixed * moved) - self.mean * mean
        squared = covariance**2 / ((self.variance + self.floor) * (variance + self.floor))
        return (squared * self.weight).sum()

    def _moments(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean = _window(image)
        return mean, (_window(image * image) - mean**2).clamp_min(0)


def _window(image: Tensor) -> Tensor:
    """Means in windows, at every second voxel."""
    once = functional.avg_pool3d(image, 3, stride=1, padding=1, count_include_pad=False)
    return functional.avg_pool3d(once, 3, stride=2, padding=1, count_include_pad=False)


def _bending(coefficients: Tensor, knots_mm: float) -> Tensor:
    """Mean squared second differences along each axis, in units of the knots' distance."""
    parts = [(coefficients.diff(n=2, dim=axis) ** 2).mean() for axis in (1, 2, 3)]
    return sum(parts, coefficients.new_zeros(())) / knots_mm**2
