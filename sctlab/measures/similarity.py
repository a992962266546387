"""How much two images have in common when their grey values mean different things."""

from __future__ import annotations

import numpy as np

from sctlab_model.volume import Volume

NMI_BINS = 64


def normalised_mutual_information(a: np.ndarray, b: np.ndarray, bins: int = NMI_BINS) -> float:
    """(H(a) + H(b)) / H(a, b) (Studholme et al., Pattern Recognition 32(1), 1999): 1 independent, 2 identical.

    Values are clipped to their 0.5th and 99.5th percentiles.
    """
    if a.size == 0:
        return 1.0
    indices = []
    for values in (a, b):
        low, high = np.percentile(values, (0.5, 99.5))
        scaled = (values - low) / max(high - low, 1e-9) * bins
        indices.append(np.clip(scaled, 0, bins - 1).astype(np.int64))
    joint = np.bincount(indices[0] * bins + indices[1], minlength=bins * bins).reshape(bins, bins) / a.size
    entropies = [-(p[p > 0] * np.log(p[p > 0])).sum() for p in (joint.sum(1), joint.sum(0), joint.ravel())]
    return float((entropies[0] + entropies[1]) / max(entropies[2], 1e-12))


def edge_agreement(fixed: Volume, warped: Volume, region: np.ndarray) -> float:
    """Mean squared cosine between the gradients of two images over `region`, weak gradients damped (0 to 1).

    Haber and Modersitzki's normalised gradient field (Methods Inf Med 46(3), 2007), averaged with the fixed
    image's gradient as the weight: the edges of one image that the other has too.
    """
    gradients = []
    for volume in (fixed, warped):
        values = volume.array.astype(np.float32)
        # NumPy has no gradient along an axis of one voxel; nothing changes along it
        parts = [
            np.gradient(values, step, axis=axis)[region]
            if values.shape[axis] > 1
            else np.zeros(region.sum(), np.float32)
            for axis, step in enumerate(volume.geometry.spacing_xyz[::-1])
        ]
        gradient = np.stack(parts, axis=-1)
        noise = np.median(np.linalg.norm(gradient, axis=-1)) + 1e-6
        gradients.append((gradient, noise))
    (f, f_noise), (m, m_noise) = gradients
    f_norm, m_norm = (f**2).sum(-1), (m**2).sum(-1)
    agreement = (f * m).sum(-1) ** 2 / ((f_norm + f_noise**2) * (m_norm + m_noise**2))
    weight = np.sqrt(f_norm)
    return float((agreement * weight).sum() / max(weight.sum(), 1e-9))
