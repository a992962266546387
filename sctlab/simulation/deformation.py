"""How the patient moves between the planning CT and the treatment image, from physical parts.

`forward` says where a point of the CT's pose goes: setup error (rigid), breathing (diaphragm and chest
wall), filling of bladder and rectum (incompressible swelling), flexion of spine or neck with every bone a
rigid body, jaw opening, and soft-tissue drift (a divergence-free random field). Its numerical inverse, on
a grid of nodes that covers both images, is the stored ITK transform: points of the source grid → points
of the CT (ITK's resampling direction). Between nodes ITK interpolates linearly; the images are made with
the stored field, so the field on disk is the truth itself, not an approximation of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from sctlab.measures.jacobian import determinant
from sctlab.simulation.painter import smooth_noise
from sctlab.simulation.phantom import MANDIBLE, Phantom
from sctlab.simulation.tissues import Tissue
from sctlab_model.cases import Region
from sctlab_model.volume import Geometry, Volume

NODE_MM = 5.0
SMALLEST_JACOBIAN = 0.15
SLIDING = (1, 4, 5, 6, 10, 11, 12, 13, 14)  # spleen, gallbladder, liver, stomach and lungs: they slide along the wall
SLIDING_MM = 10.0  # depth over which they come to slide: the pleura as the nodes can show it
_BONE_GROUPS: tuple[tuple[int, ...], ...] = (
    *((i,) for i in range(26, 51)),  # vertebrae S1, L5 … C1, each a body
    (25, 77, 78),  # sacrum and hip bones: one ring
    (75,), (76,), (69,), (70,), (71, 73), (72, 74),
    (91, 90), (MANDIBLE,), (116,),
    *((i,) for i in (*range(92, 104), *range(104, 116))),
)  # fmt: skip


@dataclass(frozen=True)
class Motion:
    """The stored transform and what it is made of.

    Args:
        field: Displacement (x, y, z in mm, float32) [z, y, x, 3] at the nodes: T(p) = p + field(p), from points
            of the source grid to points of the CT.
        geometry: The nodes.
        facts: Amplitudes of the parts, for truth.json.
    """

    field: np.ndarray
    geometry: Geometry
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def transform(self) -> Any:
        """SimpleITK displacement field transform, source points → CT points."""
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(self.field.astype(np.float64), isVector=True)
        image.SetSpacing(self.geometry.spacing_xyz)
        image.SetOrigin(self.geometry.origin_xyz)
        image.SetDirection(self.geometry.direction)
        return sitk.DisplacementFieldTransform(image)

    def jacobian(self) -> np.ndarray:
        """Smallest Jacobian determinant of the linearly interpolated field in every cell's eight corners."""
        return corner_jacobian(self.field, self.geometry.spacing_xyz)


def corner_jacobian(field: np.ndarray, spacing_xyz: tuple[float, float, float]) -> np.ndarray:
    """Jacobian determinants of a trilinear displacement field at the corners of its cells; the smallest per cell.

    Args:
        field: [z, y, x, 3], mm, components x, y, z.

    Returns:
        [z - 1, y - 1, x - 1].
    """
    difference = [np.diff(field, axis=2 - a) / spacing_xyz[a] for a in range(3)]
    smallest = None
    n = np.array(field.shape[:3]) - 1
    for corner in np.ndindex(2, 2, 2):
        columns = []
        for a in range(3):
            take = [slice(corner[k], corner[k] + n[k]) for k in range(3)]
            take[2 - a] = slice(None)
            columns.append(difference[a][tuple(take)].astype(np.float64))
        matrix = np.stack(columns, -1) + np.eye(3)
        det = determinant(np.moveaxis(matrix, (-2, -1), (0, 1)))
        smallest = det if smallest is None else np.minimum(smallest, det)
    assert smallest is not None
    return smallest


def sample_motion(
    phantom: Phantom, source_grid: Geometry, region: Region, amplitude_mm: float, rng: np.random.Generator
) -> Motion:
    """Draw a motion whose displacement, setup error included, reaches about `amplitude_mm`.

    The 95th percentile of the displacement's length inside the body is `amplitude_mm` within a few percent,
    unless the tissue would fold: then everything is made smaller until no Jacobian falls below 0.15.

    Args:
        phantom: The patient in the CT's pose.
        source_grid: Grid of the source image; the field covers it and the phantom.
        amplitude_mm: 0 gives the identity.
    """
    nodes = _node_grid(phantom.geometry, source_grid)
    if amplitude_mm == 0:
        return Motion(np.zeros((*nodes.shape_zyx, 3), np.float32), nodes, {"amplitude_mm": 0.0, "parts": {}})
    scene = _Scene(phantom, nodes, region, rng)
    scale, smallest, length = 1.0, 0.0, 0.0
    for _ in range(9):
        forward = scene.forward(scale)
        length = float(np.percentile(np.linalg.norm(forward[scene.body], axis=1), 95))
        wanted = amplitude_mm / max(length, 1e-6)
        if 0.96 < wanted < 1.04 or _ >= 5:
            inverse = invert(forward, nodes.spacing_xyz)
            smallest = float(corner_jacobian(inverse, nodes.spacing_xyz).min())
            if smallest > SMALLEST_JACOBIAN:
                break
            amplitude_mm *= 0.8
            wanted *= 0.8
        scale *= float(np.clip(wanted, 0.2, 5))
    else:
        raise RuntimeError(f"no motion without folding found (smallest Jacobian {smallest:.2f})")
    facts = {"amplitude_mm": round(length, 3), "smallest_jacobian": round(smallest, 4), "parts": scene.parts(scale)}
    return Motion(inverse.astype(np.float32), nodes, facts)


def invert(field: np.ndarray, spacing_xyz: tuple[float, float, float], iterations: int = 40) -> np.ndarray:
    """Displacement v with x + v(x) = y such that y + field(y) = x, by fixed-point iteration v ← −field(x + v)."""
    spacing = np.array(spacing_xyz)
    index = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float64) for n in field.shape[:3]], indexing="ij"))
    result = -field.astype(np.float64)
    for _ in range(iterations):
        at = [index[k] + result[..., 2 - k] / spacing[2 - k] for k in range(3)]
        update = -np.stack(
            [ndimage.map_coordinates(field[..., c], at, order=1, mode="nearest", output=np.float64) for c in range(3)],
            -1,
        )
        change = np.abs(update - result).max()
        result = update
        if change < 1e-3:
            break
    return result


def _node_grid(first: Geometry, second: Geometry) -> Geometry:
    parts = []
    for grid in (first, second):
        index = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in grid.size_xyz])).reshape(3, -1).T
        parts.append(grid.to_physical(index))
    corners = np.concatenate(parts)
    low, high = corners.min(0) - NODE_MM, corners.max(0) + NODE_MM
    size = np.ceil((high - low) / NODE_MM).astype(int) + 1
    return Geometry(tuple(size), (NODE_MM,) * 3, tuple(low))


class _Scene:
    """The patient on the nodes, and the random parameters of every part at scale 1."""

    def __init__(self, phantom: Phantom, nodes: Geometry, region: Region, rng: np.random.Generator) -> None:
        self.nodes = nodes
        axes = [nodes.origin_xyz[i] + np.arange(nodes.size_xyz[i]) * NODE_MM for i in range(3)]
        z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
        self.points = np.stack([x, y, z], -1)
        label = _nearest(phantom.label, phantom.geometry, nodes)
        tissue = _nearest(phantom.tissue, phantom.geometry, nodes)
        outside = np.isin(tissue, (Tissue.AIR, Tissue.COUCH_SHELL, Tissue.COUCH_FOAM)) & (label == 0)
        self.body = ndimage.binary_opening(~outside) | (label > 0)
        if not self.body.any():
            self.body = ~outside if (~outside).any() else np.ones_like(outside)
        self.centre = self.points[self.body].mean(0)
        distance_out = ndimage.distance_transform_edt(~self.body, sampling=NODE_MM)
        self.near = np.exp(-np.clip(distance_out - 5, 0, None) / 25.0)[..., None]  # the couch does not breathe
        self.label = label
        self._bones(phantom, region)
        self.sliding = self._cavity(label)
        self._draw(region, phantom, rng)

    def _cavity(self, label: np.ndarray) -> np.ndarray:
        """1 inside lungs and the organs under the diaphragm, 0 in the wall, over about a node: [z, y, x, 1]."""
        inside = np.isin(label, SLIDING)
        if not inside.any():
            return np.zeros((*label.shape, 1))
        distance = ndimage.distance_transform_edt(inside, sampling=NODE_MM)
        return np.clip(distance / SLIDING_MM, 0, 1)[..., None]

    def _bones(self, phantom: Phantom, region: Region) -> None:
        """Distance of every node to every rigid body that is there, and the bodies' centres."""
        fine, geometry = phantom.label, phantom.geometry
        self.bones: list[tuple[tuple[int, ...], np.ndarray]] = []
        weights, nearest = [], np.full(self.label.shape, np.inf)
        for group in _BONE_GROUPS:
            where = np.isin(fine, group)
            if where.sum() < 20:
                continue
            zyx = np.argwhere(where)
            mark = np.zeros(self.label.shape, bool)
            points = geometry.to_physical(zyx[:, ::-1])
            at = np.round(self.nodes.to_index(points)).astype(int)[:, ::-1]
            at = at[((at >= 0) & (at < mark.shape)).all(1)]
            mark[tuple(at.T)] = True
            distance = ndimage.distance_transform_edt(~mark, sampling=NODE_MM).astype(np.float32)
            self.bones.append((group, points.mean(0)))
            weights.append(1 / (np.clip(distance - 0.9 * NODE_MM, 0, None) + 0.4) ** 3)
            nearest = np.minimum(nearest, distance)
        self.weights = np.stack(weights) if weights else np.zeros((0, *self.label.shape), np.float32)
        if weights:
            self.weights /= self.weights.sum(0)
        t = np.clip((nearest - 1.2 * NODE_MM) / 28.0, 0, 1)
        self.rigid = (1 - t * t * (3 - 2 * t))[..., None]  # 1 at bones, 0 from 34 mm on

    def _draw(self, region: Region, phantom: Phantom, rng: np.random.Generator) -> None:
        """Random parameters; lengths in mm and angles in degrees at scale 1."""
        thorax, head = region == Region.TH, region == Region.HN
        self.setup_mm = rng.normal(0, 2.5, 3)
        self.setup_degrees = rng.normal(0, 1.0, 3)
        self.flexion_degrees = rng.normal(0, 5.0 if head else 2.2, 3) * (1, 0.5, 0.6)
        self.jaw_degrees = float(abs(rng.normal(0, 4.0))) if head else 0.0
        self.breath_mm = float(rng.normal(0, 9 if thorax else 7)) if not head else 0.0
        self.chest_mm = 0.25 * self.breath_mm + float(rng.normal(0, 0.8)) if not head else 0.0
        self.drift_mm = float(rng.uniform(1.5, 3.5))
        self.filling = [(name, float(rng.normal(0, 0.28)), c, r) for name, c, r in _hollow(phantom)]
        scales = rng.uniform(22, 55, 2)
        potential = [
            np.stack([smooth_noise(self.label.shape, self.nodes.spacing_xyz, s, rng) for _ in range(3)], -1)
            for s in scales
        ]
        curl = sum(_curl(p, NODE_MM) * s for p, s in zip(potential, scales, strict=True))
        self.drift = curl / (np.sqrt((curl[self.body] ** 2).sum(1).mean()) + 1e-9)
        self.dome_z = _dome(phantom)

    def parts(self, scale: float) -> dict:
        """The parameters that were used."""
        return {
            "setup_translation_mm": (self.setup_mm * scale).round(3).tolist(),
            "setup_rotation_degrees": (self.setup_degrees * scale).round(3).tolist(),
            "flexion_degrees": (self.flexion_degrees * scale).round(3).tolist(),
            "jaw_degrees": round(self.jaw_degrees * scale, 3),
            "diaphragm_mm": round(self.breath_mm * scale, 3),
            "chest_wall_mm": round(self.chest_mm * scale, 3),
            "soft_tissue_rms_mm": round(self.drift_mm * scale, 3),
            "filling_radius_factor": {name: round(1 + f * min(scale, 1.5), 3) for name, f, *_ in self.filling},
        }

    def forward(self, scale: float) -> np.ndarray:
        """Displacement [z, y, x, 3] in mm of points in the CT's pose."""
        breathing = self._breathing(scale)
        soft = breathing + self._filling(scale) + self.drift * self.drift_mm * scale
        bend = self._bend(self.points, scale)
        moved = (soft + bend) * (1 - self.rigid)
        # What lies inside the chest slides along it: breathing there is not held back by the ribs.
        held = breathing * self.rigid
        held[..., :2] = 0
        moved += held * self.sliding
        for k, (group, centre) in enumerate(self.bones):
            if k == 0:
                rigid = np.zeros_like(soft)
            rigid += self.weights[k][..., None] * self._bone(group, centre, scale)
        if self.bones:
            moved = moved + rigid * self.rigid
        moved *= self.near
        rotation = rotation_matrix(self.setup_degrees * scale)
        position = self.points + moved
        return (position - self.centre) @ rotation.T + self.centre + self.setup_mm * scale - self.points

    def _bend(self, points: np.ndarray, scale: float) -> np.ndarray:
        """Flexion: a turn that grows along the body, smooth in z; what bones sample and soft tissue follows."""
        half = max(60.0, 0.5 * (self.points[..., 2].max() - self.points[..., 2].min()))
        t = (points[..., 2] - self.centre[2]) / half
        ax, ay, az = np.deg2rad(self.flexion_degrees * scale)
        arm = half * (t * t * np.sign(t) * 0.5 + 0.15 * t)  # ∫ angle dz for an angle that grows with |t|
        angle = np.abs(t)
        dx, dy = points[..., 0] - self.centre[0], points[..., 1] - self.centre[1]
        ux = arm * ay - dy * az * t
        uy = -arm * ax + dx * az * t
        uz = (dy * ax - dx * ay) * angle
        return np.stack([ux, uy, uz], -1)

    def _bone(self, group: tuple[int, ...], centre: np.ndarray, scale: float) -> np.ndarray:
        """Rigid displacement of one bone: the bend's value and rotation at its centre, and its own motion."""
        h = 1.0
        steps = np.concatenate([centre + np.eye(3) * h, centre - np.eye(3) * h])
        values = self._bend(steps, scale)
        gradient = (values[:3] - values[3:]).T / (2 * h)
        rotation = _nearest_rotation(np.eye(3) + gradient)
        shift = self._bend(centre[None], scale)[0]
        if 92 <= group[0] <= 116:  # ribs and sternum follow the chest wall
            shift = shift + np.array([0, -1, 0.5]) * self.chest_mm * scale * np.clip(
                (self.centre[1] + 60 - centre[1]) / 120, 0, 1
            )
        if group[0] == MANDIBLE and self.jaw_degrees:
            hinge = centre + np.array([0, 38.0, 32.0])  # temporomandibular joint: behind and above the centre
            jaw = rotation_matrix((self.jaw_degrees * scale, 0, 0))
            turned = (self.points - hinge) @ jaw.T + hinge
            return (turned - centre) @ rotation.T + centre + shift - self.points
        return (self.points - centre) @ rotation.T + centre + shift - self.points

    def _breathing(self, scale: float) -> np.ndarray:
        """Craniocaudal motion, largest at the diaphragm, and the wall's rise in front."""
        if self.breath_mm == 0:
            return np.zeros_like(self.points)
        z = self.points[..., 2] - self.dome_z
        along = np.where(z > 0, np.exp(-((z / 95) ** 2)), np.exp(-((z / 130) ** 2)))
        offset = self.points - self.centre
        inside = np.exp(-((offset[..., 0] / 125) ** 4) - (np.clip(offset[..., 1] - 20, 0, None) / 75) ** 2)
        front = np.clip(0.5 - offset[..., 1] / 160, 0, 1)
        uz = -self.breath_mm * scale * along * inside
        uy = -self.chest_mm * scale * along * front * 1.2
        return np.stack([np.zeros_like(uz), uy, uz], -1)

    def _filling(self, scale: float) -> np.ndarray:
        """Hollow organs swell or shrink: uniform inside, and outside the flow of an incompressible medium."""
        total = np.zeros_like(self.points)
        for _, factor, centre, radius in self.filling:
            f = 1 + np.clip(factor * min(scale, 1.5), -0.35, 0.5)
            offset = self.points - centre
            r = np.linalg.norm(offset, axis=-1) + 1e-6
            outside = np.cbrt(np.clip(r**3 + (f**3 - 1) * radius**3, (0.2 * r) ** 3, None)) / r
            ratio = np.where(r < radius, f, outside) - 1
            total += offset * (ratio * np.exp(-((r / (5 * radius)) ** 2)))[..., None]
        return total


def _hollow(phantom: Phantom) -> list[tuple[str, np.ndarray, float]]:
    """Bladder and rectum, with centre and the radius of the sphere of equal volume."""
    found = []
    index = {"bladder": phantom.label == 21}
    for name, where in index.items():
        count = int(where.sum())
        if count > 200:
            centre = phantom.geometry.to_physical(np.argwhere(where).mean(0)[::-1])
            found.append((name, centre, float(np.cbrt(count * phantom.geometry.voxel_volume_mm3 * 3 / (4 * np.pi)))))
    return found


def _dome(phantom: Phantom) -> float:
    """Height of the diaphragm: top of the liver, or the bottom of the lungs, or the grid's middle."""
    z = phantom.geometry.origin_xyz[2] + np.arange(phantom.geometry.size_xyz[2]) * phantom.geometry.spacing_xyz[2]
    liver = (phantom.label == 5).any((1, 2))
    if liver.any():
        return float(z[liver].max() - 20)
    lung = np.isin(phantom.label, (10, 11, 12, 13, 14)).any((1, 2))
    return float(z[lung].min() + 20) if lung.any() else float(z.mean())


def rotation_matrix(degrees_xyz: Sequence[float] | np.ndarray) -> np.ndarray:
    """Rotation about x, then y, then z, 3x3."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_euler("xyz", degrees_xyz, degrees=True).as_matrix()


def _nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    u, _, v = np.linalg.svd(matrix)
    return u @ np.diag([1, 1, np.linalg.det(u @ v)]) @ v


def _curl(potential: np.ndarray, step_mm: float) -> np.ndarray:
    """Curl of a vector potential [z, y, x, 3]: a field without sources."""
    d = [[np.gradient(potential[..., c], step_mm, axis=2 - a) for a in range(3)] for c in range(3)]
    return np.stack([d[2][1] - d[1][2], d[0][2] - d[2][0], d[1][0] - d[0][1]], -1)


def _nearest(array: np.ndarray, grid: Geometry, nodes: Geometry) -> np.ndarray:
    from sctlab_model.volume import resample

    return resample(Volume(array, grid), nodes, interpolation="nearest").array
