"""Make other patients of a real one: a CT and its labels, warped smoothly and far.

Stature and girth, a fat layer that is thicker or thinner, organs that are larger or smaller, and a smooth random field on
top. Bones change shape by what differs between people (they are not rigid here: nobody moves, another person is made).
"""

from __future__ import annotations

import numpy as np

from sctlab.simulation.deformation import Motion, corner_jacobian
from sctlab.simulation.painter import smooth_noise
from sctlab.simulation.phantom import Phantom
from sctlab.simulation.tissues import Tissue
from sctlab_model.volume import AIR_HU, Geometry, Volume, resample, triple

NODE_MM = 6.0
SMALLEST_JACOBIAN = 0.3
# Organs that differ most between people, and the standard deviation of the logarithm of their size along an axis
ORGANS = {1: 0.10, 2: 0.06, 3: 0.06, 4: 0.15, 5: 0.08, 6: 0.15, 7: 0.08, 21: 0.2, 22: 0.12, 51: 0.06}


def vary_body(phantom: Phantom, rng: np.random.Generator, strength: float = 1.0) -> Phantom:
    """Another patient, on the same grid.

    Args:
        phantom: The patient that is warped: HU, tissues and labels alike.
        strength: 1 gives the variation between adults (95th percentile of the displacement about 25 mm); 0 none.

    Returns:
        The warped patient; the field never folds (smallest Jacobian 0.3, else everything is made smaller).
    """
    if strength == 0:
        return phantom
    nodes = phantom.geometry.resized((NODE_MM,) * 3)
    nodes = nodes.cropped((-1, -1, -1), triple(n + 2 for n in nodes.size_xyz))
    field = _draw(phantom, nodes, rng) * strength
    while corner_jacobian(field, nodes.spacing_xyz).min() < SMALLEST_JACOBIAN:
        field *= 0.85
    transform = Motion(field.astype(np.float32), nodes).transform()

    def warped(array: np.ndarray, outside: float, interpolation: str) -> np.ndarray:
        volume = Volume(array, phantom.geometry)
        return resample(
            volume, phantom.geometry, interpolation=interpolation, outside=outside, transform=transform
        ).array

    return Phantom(
        warped(phantom.hu, AIR_HU, "linear"),
        warped(phantom.tissue, int(Tissue.AIR), "nearest"),
        warped(phantom.label, 0, "nearest"),
        phantom.geometry,
    )


def _draw(phantom: Phantom, nodes: Geometry, rng: np.random.Generator) -> np.ndarray:
    """Displacement (x, y, z in mm) [z, y, x, 3] from points of the new patient to points of the old one."""
    axes = [nodes.origin_xyz[a] + np.arange(nodes.size_xyz[a]) * NODE_MM for a in range(3)]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    points = np.stack([x, y, z], -1)
    body = phantom.tissue != Tissue.AIR
    where = np.argwhere(body)[:, ::-1]
    if not len(where):
        return np.zeros((*nodes.shape_zyx, 3))
    inside = phantom.geometry.to_physical(where[:: max(1, len(where) // 20000)])
    centre = inside.mean(0)
    offset = points - centre
    girth = np.maximum(inside.std(0)[:2] * 2, 40)  # half axes of an ellipse like the body's

    # 1: stature and girth; the middle of the grid stays
    field = -offset * np.clip(rng.normal(0, (0.05, 0.06, 0.04)), -0.12, 0.12)
    # 2: habitus: what lies outside the muscles is stretched or squeezed, the core stays
    radius = np.sqrt((offset[..., 0] / girth[0]) ** 2 + (offset[..., 1] / girth[1]) ** 2)
    fat = np.clip(rng.normal(0, 0.10), -0.18, 0.18)
    outer = np.clip((radius - 0.5) / 0.5, 0, 1.6)
    field[..., :2] -= fat * (outer * outer / (0.5 + outer))[..., None] * offset[..., :2]
    # 3: organs
    for label, spread in ORGANS.items():
        organ = np.argwhere(phantom.label == label)
        if len(organ) < 50:
            continue
        voxels = phantom.geometry.to_physical(organ[:: max(1, len(organ) // 4000), ::-1])
        middle, reach = voxels.mean(0), 2.2 * float(voxels.std(0).mean())
        away = points - middle
        near = np.exp(-0.5 * ((away**2).sum(-1) / reach**2))
        growth = np.clip(rng.normal(0, spread, 3), -0.3, 0.3)
        field -= near[..., None] * away * growth
    # 4: everything else
    for scale, amount in ((110.0, 7.0), (55.0, 2.5)):
        for axis in range(3):
            field[..., axis] += amount * smooth_noise(nodes.shape_zyx, nodes.spacing_xyz, scale, rng)
    return field
