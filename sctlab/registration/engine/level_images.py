"""Both images at one level: on isotropic voxels along the fixed image's axes, the moving one carried over rigidly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sctlab.features import load_extractor
from sctlab.registration.engine.bspline import ControlGrid, evaluate
from sctlab.registration.engine.images import Images
from sctlab.registration.engine.lattice import Lattice, carry, extent_zyx, inside, reach_of, sample_at, smoothed
from sctlab.registration.engine.sample import Sample
from sctlab.registration.engine.settings import Preset
from sctlab.registration.engine.sliding import Domains
from sctlab.transforms.data import EulerTransform
from sctlab_model.errors import InputError
from sctlab_model.volume import triple

MARGIN_MM = 20.0  # around the fixed mask: context of the features
REACH_MM = 40.0  # around that: where the field may point to
FEATURE_BYTES = 800_000_000  # of the feature maps of a level; making them takes about twice that for a moment


class LevelImages:
    """Images, masks and extractors of one level, and the drawing of samples.

    Args:
        images: Both images on their own grids.
        rigid: From fixed points to moving points.
        preset: Its extractors are loaded, and their channels bound the voxel size.
        voxel_mm: Wanted voxels; never finer than the finest of both images.

    Attributes:
        up: The patient's long axis along the fixed image's axes, z, y, x.
        lattice, moving_lattice: Voxels of the fixed and of the (wider) moving image.
        fixed, moving: Images [1, 1, z, y, x] on these.
        mask: Fixed mask, within the fixed image's grid.
        valid: Where the moving image and its mask have data.
        bone: Bone of the moving image; None where it isn't known.
        domains: Which of two splines moves a voxel; None where one moves all.
        extractors: One for each of the preset's feature terms.

    Raises:
        InputError: Nothing is left of the fixed mask at these voxels.
    """

    def __init__(self, images: Images, rigid: EulerTransform, preset: Preset, voxel_mm: float) -> None:
        fixed, moving = images.fixed_geometry, images.moving_geometry
        finest = min(min(fixed.spacing_xyz), min(moving.spacing_xyz))
        extent = extent_zyx(fixed)
        # A thin stack still gets a few voxels across: none of them would lie inside it otherwise.
        spacing = max(min(voxel_mm, float(extent.min()) / 3), finest)
        affine = rigid.affine()
        mapping = (affine.matrix, affine.offset)
        low = np.maximum(images.low_zyx - MARGIN_MM, 0)
        high = np.minimum(images.high_zyx + MARGIN_MM, extent)
        # Little further than the moving image goes: beyond it only its border's values would be repeated.
        least, greatest = reach_of(moving, fixed, mapping)
        near = np.minimum(np.maximum(low - REACH_MM, least - 2 * spacing), low)
        far = np.maximum(np.minimum(high + REACH_MM, greatest + 2 * spacing), high)
        self.extractors = [load_extractor(t.extractor, device=images.device) for t in preset.features]
        spans = [high - low, far - near]
        if preset.sliding is not None and images.cavity is not None:  # either side has a moving map of its own
            spans.append(far - near)
        spacing = planned_spacing(spans, spacing, self._channels(preset, spacing))
        self._carried = _Carried(images, mapping, (low, high), (near, far))
        (self.fixed, self.lattice), (self.moving, self.moving_lattice) = self._carried.at(spacing)
        self.up = fixed.axes[2, ::-1]  # the patient's long axis in the fixed image's axes (z, y, x)
        mask = carry(images.fixed_mask, fixed, self.lattice, fixed)
        self.mask = ((mask > 0.5) & (inside(fixed, self.lattice, fixed, images.device) > 0.5)).float()
        valid = carry(images.moving_mask, moving, self.moving_lattice, fixed, mapping, outside="zeros")
        valid = (valid > 0.5).float() * inside(moving, self.moving_lattice, fixed, images.device, mapping)
        self.valid = _without_border(valid)
        self.domains: Domains | None = None
        self.bone = None
        if images.bone is not None:
            self.bone = carry(images.bone, moving, self.moving_lattice, fixed, mapping, outside="zeros")
        if not bool((self.mask > 0).any()):
            raise InputError(
                "fixed mask", found=f"nothing left of it at {spacing:g} mm voxels", expected="a larger mask"
            )

    def images_at(self, voxel_mm: float | None) -> tuple[tuple[Tensor, Lattice], tuple[Tensor, Lattice]]:
        """The fixed and the moving image, each on its lattice, at this level's voxels or at others of one's own."""
        if voxel_mm is None or voxel_mm == self.lattice.spacing:
            return (self.fixed, self.lattice), (self.moving, self.moving_lattice)
        return self._carried.at(voxel_mm)

    def depths(self, fixed: Lattice, moving: Lattice) -> tuple[Tensor, Tensor] | None:
        """Signed distances to the surface along which organs slide, mm, positive inside, of the voxels of a lattice of the
        fixed and of one of the moving image ([1, 1, z, y, x] each); None where nothing slides."""
        return None if self.domains is None else (self.domains.depth(fixed), self.domains.moving_depth(moving))

    def bases(self, grid: ControlGrid) -> tuple[Tensor, Tensor, Tensor]:
        """`grid.basis` at every voxel position of the lattice, z, y, x."""
        z, y, x = (grid.basis(axis, self.lattice.positions(axis)).to(self.fixed) for axis in range(3))
        return z, y, x

    def stride(self, points: int) -> int:
        """Stride of the subgrid that holds about `points` voxels of the mask."""
        count = float(self.mask.sum())
        return max(1, round((count / max(points, 1)) ** (1 / 3)))

    def random_window(self, stride: int, generator: torch.Generator) -> tuple[slice, ...]:
        """A strided subgrid of the lattice at a random offset."""
        size = self.lattice.size_zyx
        return tuple(slice(int(torch.randint(min(stride, n), (1,), generator=generator)), None, stride) for n in size)

    def sample(
        self, coefficients: Tensor, grid: ControlGrid, bases: tuple[Tensor, ...], window: tuple[slice, ...]
    ) -> Sample:
        """The points of the mask on a subgrid, and where a field sends them.

        Args:
            coefficients, grid: The field.
            bases: Of `bases`.
            window: The subgrid, z, y, x.
        """
        mask = self.mask[0, 0][window]
        chosen = torch.nonzero(mask.flatten() > 0)[:, 0]
        field = evaluate(coefficients, triple(b[w] for b, w in zip(bases, window, strict=True)))
        points, index = self._points(window, chosen, mask.shape)
        displaced = field.flatten(1).index_select(1, chosen)
        if self.domains is None:
            moved = points + displaced.T
        else:
            moved = self.domains.joined(points, displaced, self.domains.flat[index])
        with torch.no_grad():
            weights = (sample_at(self.valid, self.moving_lattice, moved)[0] > 0.9).float()
        return Sample(coefficients, grid, points, moved, weights, index, window, chosen, self.domains)

    def intensities(self, index: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        """Fixed intensities at voxels (flat index, [N]) and moving ones at points [N, 3], both scaled to [0, 1]."""
        fixed, moving = self._scaled
        return fixed[index], sample_at(moving, self.moving_lattice, moved)[0]

    @cached_property
    def _scaled(self) -> tuple[Tensor, Tensor]:
        return _scaled(self.fixed, self.mask > 0).flatten(), _scaled(self.moving, self.valid > 0)

    def _channels(self, preset: Preset, spacing: float) -> float:
        """Feature channels that are kept for every voxel; strided layers count by their share of the voxels."""
        total = 0.0
        for term, extractor in zip(preset.features, self.extractors, strict=True):
            if term.mode == "static":
                layers = [extractor.layers[i] for i in term.layers]
                share = 1.0 if term.voxel_mm is None else (spacing / term.voxel_mm) ** 3
                total += share * sum(layer.channels / layer.stride**extractor.dimension for layer in layers)
        return total

    def _points(self, window: tuple[slice, ...], chosen: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Positions [N, 3] in mm (z, y, x) of chosen voxels of a window, and their flat index in the lattice."""
        size = self.lattice.size_zyx
        axes = [torch.arange(n, device=chosen.device)[w] for n, w in zip(size, window, strict=True)]
        z = chosen // (shape[1] * shape[2])
        y = chosen // shape[2] % shape[1]
        x = chosen % shape[2]
        z, y, x = axes[0][z], axes[1][y], axes[2][x]
        voxels = torch.stack((z, y, x), dim=1)
        points = voxels.float() * self.lattice.spacing + voxels.new_tensor(self.lattice.start_zyx, dtype=torch.float32)
        return points, (z * size[1] + y) * size[2] + x


@dataclass(frozen=True)
class _Carried:
    """Both images over their parts of the fixed image's axes, at any voxel size.

    Args:
        images: On their own grids.
        mapping: From fixed points to moving points.
        fixed_span, moving_span: Lowest and highest corner (z, y, x; mm) that is covered.
    """

    images: Images
    mapping: tuple[np.ndarray, np.ndarray]
    fixed_span: tuple[np.ndarray, np.ndarray]
    moving_span: tuple[np.ndarray, np.ndarray]

    def at(self, spacing: float) -> tuple[tuple[Tensor, Lattice], tuple[Tensor, Lattice]]:
        """Images [1, 1, z, y, x], smoothed for these voxels, with their lattices."""
        fixed, moving = self.images.fixed_geometry, self.images.moving_geometry
        own_fixed, own_moving = (np.array(g.spacing_xyz[::-1]) for g in (fixed, moving))
        lattice, wide = (Lattice.between(*span, spacing) for span in (self.fixed_span, self.moving_span))
        near = carry(smoothed(self.images.fixed, own_fixed, spacing), fixed, lattice, fixed)
        far = carry(smoothed(self.images.moving, own_moving, spacing), moving, wide, fixed, self.mapping)
        return (near, lattice), (far, wide)


def planned_spacing(extents_zyx_mm: Iterable[np.ndarray], spacing: float, channels: float) -> float:
    """The wanted voxel size, or a coarser one where the feature maps of all images would not fit the plan."""
    while True:
        voxels = sum(np.prod(extent / spacing + 1) for extent in extents_zyx_mm)
        if 4 * channels * voxels <= FEATURE_BYTES:
            return spacing
        spacing *= 1.1


def _without_border(valid: Tensor) -> Tensor:
    """Zeros in the outermost voxels [1, 1, z, y, x]: sampling repeats them for every point beyond the lattice."""
    return functional.pad(valid[..., 1:-1, 1:-1, 1:-1], [1] * 6)


def _scaled(image: Tensor, where: Tensor) -> Tensor:
    """Intensities to [0, 1] between the 0.5th and 99.5th percentile of the voxels that count."""
    chosen = image[where] if bool(where.any()) else image
    chosen = chosen.flatten()[:: max(1, chosen.numel() // 1_000_000)]
    low, high = torch.quantile(chosen, chosen.new_tensor((0.005, 0.995))).tolist()
    return ((image - low) / max(high - low, 1e-6)).clamp(0, 1)
