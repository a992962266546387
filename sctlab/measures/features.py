"""Distance of two CTs in the features of a frozen network: d_SAM, LPIPS-like and any registered extractor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from sctlab.features import FeatureExtractor

HU_RANGE = (-1024.0, 3071.0)
EDGE = 512  # slices are padded at the end to this, as the study's


def feature_distance(
    extractor: FeatureExtractor,
    prediction: np.ndarray,
    reference: np.ndarray,
    mask: np.ndarray,
    *,
    unit: bool = False,
    centred: bool = False,
    device: str | torch.device = "cpu",
) -> float:
    """Mean absolute difference of features, over the layers' means.

    Both images are −1024 HU outside the mask and normalised by one fixed range, never each by its own. A 2D extractor sees every axial
    slice with mask, padded at the end to 512 voxels, as the registration-bias study's d_SAM; a 3D one the mask's volume.

    Args:
        extractor: Frozen network of `sctlab.features`.
        prediction, reference: HU, axes z, y, x.
        mask: Body mask, same shape.
        unit: Feature vectors are divided by their length and squared differences summed over channels, as LPIPS does (Zhang et
            al., CVPR 2018) before its learnt weights: what a layer's scale is doesn't count then.
        centred: Slices are padded on both sides instead of at the end, as the study's LPIPS.
        device: Where to compute.

    Returns:
        Mean over layers of the mean over positions (and slices); NaN for an empty mask.
    """
    from sctlab.features import Statistics

    inside = np.asarray(mask) > 0
    if not inside.any():
        return float("nan")
    statistics = Statistics.from_range(*HU_RANGE)
    images = [np.where(inside, a, HU_RANGE[0]).clip(*HU_RANGE).astype(np.float32) for a in (prediction, reference)]
    if extractor.dimension == 3:
        batches = [torch.from_numpy(np.stack(images))[:, None]]
    else:
        used = np.flatnonzero(inside.any(axis=(1, 2)))
        batches = [_padded(torch.from_numpy(np.stack([a[z] for a in images]))[:, None], centred) for z in used]
    extractor = extractor.to(device)
    total = 0.0
    with torch.inference_mode():
        for batch in batches:
            layers = extractor(batch.to(device), statistics=statistics)
            total += float(np.mean([_layer_distance(f, unit) for f in layers]))
    return total / len(batches)


def _layer_distance(features: Tensor, unit: bool) -> float:
    x, y = features.double()
    if not unit:
        return float((x - y).abs().mean())
    x, y = (f / f.norm(dim=0, keepdim=True).clamp_min(1e-10) for f in (x, y))
    return float((x - y).square().sum(0).mean())


def _padded(images: Tensor, centred: bool) -> Tensor:
    """Air at the end of both axes, or half of it (rounded down) before them, up to 512."""
    rows, columns = (max(0, EDGE - n) for n in images.shape[-2:])
    left, top = (columns // 2, rows // 2) if centred else (0, 0)
    return torch.nn.functional.pad(images, (left, columns - left, top, rows - top), value=HU_RANGE[0])
