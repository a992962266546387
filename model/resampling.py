"""What an image is smoothed by before it is sampled on a coarser grid, so that fine structure doesn't alias; and what is
told of a change of grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from sctlab_model.volume import Volume

# An image this many times finer, or coarser, than the network's grid along one axis is more than a change of grid.
FINER, COARSER = 3.2, 2.2
AXES = ("left to right", "front to back", "head to feet")


def alias_sigma(spacing: np.ndarray, target: np.ndarray | float, share: float) -> np.ndarray:
    """Standard deviation of the Gaussian against aliasing, in voxels of the finer grid; 0 where it isn't the finer one.

    A voxel acts like a Gaussian of `share` of its width, and widths add in squares: going from `spacing` to `target`
    takes `share` * sqrt(target² − spacing²) mm.

    Args:
        spacing: Voxel pitch along each axis, mm.
        target: Pitch that is wanted, mm; one number or one an axis, in the same order.
        share: Width of the Gaussian as a share of the pitch, 0.35 (sharp) to 0.5 (smooth).

    Example:
        >>> alias_sigma(np.array([1.0, 2.0, 4.0]), 2.0, 0.5).round(3).tolist()
        [0.866, 0.0, 0.0]
    """
    ratio = np.asarray(target, dtype=float) / np.asarray(spacing, dtype=float)
    return share * np.sqrt(np.maximum(ratio**2 - 1, 0))


def anti_aliased(
    volume: Volume,
    target_xyz: Sequence[float] | float,
    *,
    share: float = 0.4,
    least_ratio: float = 1.0,
    kernel: Literal["sampled", "discrete"] = "sampled",
) -> Volume:
    """A volume smoothed for sampling at `target_xyz` mm, float32; unchanged where no axis gets coarser.

    Args:
        volume: The image on its own grid.
        target_xyz: Pitch that is wanted along x, y, z; one number for all.
        share: See `alias_sigma`.
        least_ratio: Axes whose pitch grows by no more than this factor stay as they are.
        kernel: `sampled` is the Gaussian at the voxels' places; `discrete` is Lindeberg's kernel in ITK, which stays
            exact for widths below a voxel. Networks are trained on images of the latter.
    """
    spacing = np.array(volume.geometry.spacing_xyz)
    target = np.broadcast_to(np.asarray(target_xyz, dtype=float), 3)
    sigma = np.where(target / spacing > least_ratio, alias_sigma(spacing, target, share), 0.0)
    volume = volume.with_array(volume.array.astype(np.float32))
    if not sigma.any():
        return volume
    if kernel == "sampled":
        from scipy.ndimage import gaussian_filter

        return volume.with_array(gaussian_filter(volume.array, sigma[::-1], mode="nearest"))
    import SimpleITK as sitk

    variance = [float(s) ** 2 for s in np.where(sigma > 0, sigma, 1e-3) * spacing]  # the filter takes no zero
    smooth = sitk.DiscreteGaussian(volume.to_sitk(), variance, 16, 0.02, True)
    return Volume(sitk.GetArrayFromImage(smooth), volume.geometry, volume.name)


def describe_resampling(own_xyz: Sequence[float], network_xyz: Sequence[float]) -> tuple[str, list[str]]:
    """What resampling does to an image's resolution: a line of information, and warnings where it does a lot.

    Args:
        own_xyz: Spacing of the image along the patient's x, y, z, mm.
        network_xyz: Spacing of the grid that the network sees, mm.

    Returns:
        The line, and a warning for detail that is lost and for detail that is made up.

    Example:
        >>> describe_resampling((1.4, 1.4, 8.0), (2.0, 2.0, 3.0))[1]
        ['slices every 8 mm (head to feet) where the network wants 3 mm: what the sCT shows between them is interpolated']
    """
    own, network = _product(own_xyz), _product(network_xyz)
    told = f"resampled from {own} to {network} mm for the network; the sCT lies on the image's own grid"
    ratios = [wanted / has for has, wanted in zip(own_xyz, network_xyz, strict=True)]
    warnings = [
        f"slices every {has:.3g} mm ({axis}) where the network wants {wanted:g} mm: what the sCT shows between them is "
        "interpolated"
        for axis, has, wanted, ratio in zip(AXES, own_xyz, network_xyz, ratios, strict=True)
        if ratio < 1 / COARSER
    ]
    if max(ratios) > FINER:
        warnings.append(
            f"voxels of {own} mm are much finer than the network's {network} mm: the sCT has no detail below those"
        )
    return told, warnings


def _product(values: Sequence[float]) -> str:
    return "x".join(f"{value:.3g}" for value in values)
