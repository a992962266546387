"""From a source volume to the network's canvas, and the exact way back. Training and inference share it.

The steps, in order: axes to LPS (an exact permutation and flips), resampling to the recipe's grid where
spacing or tilt ask for it, normalisation over the mask of the whole volume, crop to the body, padding.
The way back undoes each step and ends on the source's own grid with the source's own geometry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from scipy import ndimage

from sctlab_model.cut_edges import box_on, continue_mirrored, extended, image_box
from sctlab_model.errors import InputError
from sctlab_model.io.grids import DEFAULT_MAX_VOXELS
from sctlab_model.normalisation import even_shading, normalise
from sctlab_model.outline import find_outline
from sctlab_model.recipe import Canvas, Recipe
from sctlab_model.resampling import anti_aliased
from sctlab_model.volume import AIR_HU, Geometry, Volume, resample, triple


@dataclass(frozen=True)
class Prepared:
    """A case on the network's canvas.

    Args:
        source: Normalised source, float32, axes z, y, x of the canvas. Where the recipe pads views after flipping,
            this is the plane before that padding.
        mask: Body mask on the canvas, bool.
        grid: The canvas in physical space.
        upright: The oriented (and resampled) grid that the canvas was cut from.
        original_mask: Body mask on the source's own grid.
        statistics: What normalisation measured, for the report.
        pad_value: Normalised source value of padding.
    """

    source: np.ndarray
    mask: np.ndarray
    grid: Geometry
    upright: Geometry
    original_mask: Volume
    statistics: dict[str, float]
    pad_value: float = -1.0

    @property
    def original(self) -> Geometry:
        """The source's own grid."""
        return self.original_mask.geometry

    def without_source(self) -> Prepared:
        """The same case without its source: all that `restore` needs, in less memory."""
        return replace(self, source=np.empty(0, np.float32))

    @property
    def resampled(self) -> bool:
        """Whether voxels were interpolated, or only permuted and cropped."""
        return not self.upright.same_grid(oriented_geometry(self.original))


def orient(volume: Volume) -> Volume:
    """Permute and flip the axes so that index x, y, z run closest to patient L, P, S. No interpolation."""
    order, flips = _nearest_axes(volume.geometry)
    array = volume.array.transpose([2 - order[2 - k] for k in range(3)])
    array = array[tuple(slice(None, None, -1) if flips[2 - k] else slice(None) for k in range(3))]
    return Volume(np.ascontiguousarray(array), oriented_geometry(volume.geometry), volume.name)


def oriented_geometry(geometry: Geometry) -> Geometry:
    """The grid of `orient`'s result."""
    order, flips = _nearest_axes(geometry)
    axes = geometry.axes[:, order]
    corner = np.zeros(3)
    for new, old in enumerate(order):
        if flips[new]:
            axes[:, new] *= -1
            corner[old] = geometry.size_xyz[old] - 1
    return Geometry(
        triple(geometry.size_xyz[old] for old in order),
        triple(geometry.spacing_xyz[old] for old in order),
        triple(geometry.to_physical(corner)),
        tuple(axes.ravel()),
    )


def _nearest_axes(geometry: Geometry) -> tuple[list[int], list[bool]]:
    """For each patient axis (L, P, S): the index axis closest to it, and whether it runs backwards."""
    axes = geometry.axes  # rows: patient axis, columns: index axis
    order = max(permutations(range(3)), key=lambda p: sum(abs(axes[k, p[k]]) for k in range(3)))
    return list(order), [bool(axes[k, order[k]] < 0) for k in range(3)]


def upright_grid(geometry: Geometry, recipe: Recipe) -> Geometry:
    """The recipe's grid for an oriented source: its own where it already fits, else one that covers it."""
    wanted = np.array(recipe.spacing_xyz)
    fits = np.all(np.abs(np.array(geometry.spacing_xyz) / wanted - 1) <= recipe.spacing_tolerance)
    tilt = np.degrees(np.arccos(np.clip(np.diag(geometry.axes), -1, 1))).max()
    if tilt <= recipe.max_tilt_deg:
        return geometry if fits else geometry.resized(tuple(wanted))
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in geometry.size_xyz])).reshape(3, -1).T
    points = geometry.to_physical(corners)
    low, high = points.min(axis=0), points.max(axis=0)
    size = np.maximum(1, np.ceil((high - low) / wanted - 1e-6)).astype(int)
    origin = (low + high) / 2 - (size - 1) / 2 * wanted
    return Geometry(tuple(size), tuple(wanted), tuple(origin))


def prepare(source: Volume, mask: Volume, recipe: Recipe) -> Prepared:
    """Bring a source to the network's canvas.

    Args:
        source: MR or CBCT, any orientation and spacing.
        mask: Body mask on the source's grid, bool.
        recipe: The choices.

    Raises:
        InputError: The mask is empty or on another grid, or the source is constant inside it.
    """
    if not mask.geometry.same_grid(source.geometry):
        raise InputError(
            mask.name or "mask", found=f"grid {mask.geometry}", expected=f"the source's grid {source.geometry}"
        )
    oriented, oriented_mask = orient(source), orient(mask.with_array(mask.array > 0))
    upright = upright_grid(oriented.geometry, recipe)
    if math.prod(upright.size_xyz) > DEFAULT_MAX_VOXELS:
        raise InputError(
            source.name or "source",
            found=f"{_product(source.geometry.size_xyz)} voxels with a spacing of "
            f"{_product(source.geometry.spacing_xyz)} mm, {_product(upright.size_xyz)} when resampled",
            expected=f"at most {DEFAULT_MAX_VOXELS} voxels",
            advice="is the spacing right?",
        )
    edges = recipe.canvas.cut_edges
    box = image_box(oriented.array)
    # What is interpolated at the image's end must not hold what software has filled in beyond it.
    shown = oriented.with_array(extended(oriented.array, box)) if edges != "air" else oriented
    image, body = to_upright(shown, upright), _mask_to_upright(oriented_mask, upright)
    box = box_on(upright, box, oriented.geometry) or image_box(image.array)
    if not body.array.any():
        raise InputError(mask.name or "mask", found="an empty body mask", expected="a mask that covers the body")
    if recipe.bias_correction == "n4":
        image = even_shading(image, body)
    outline = find_outline(image.array, body.array, box, upright.spacing_xyz[::-1])
    normalised, statistics = normalise(image.array, body.array, recipe, source.name or "source", outline)
    start, size = canvas_box(body.array, recipe.canvas)
    pad_value = statistics["outside"] if recipe.canvas.pad_value is None else recipe.canvas.pad_value
    placed, inside = cut(normalised, start, size, pad_value), cut(body.array, start, size, False)
    start_yx = start[1] - box[0][0], start[2] - box[0][1]  # in what was imaged
    if edges == "mirror":
        placed = continue_mirrored(placed, inside, start_yx, box[1], statistics["outside"])
    elif edges == "blank":
        seen = cut(np.ones((1, *box[1]), bool), (0, *start_yx), (1, *size[1:]), False)
        placed = np.where(seen, placed, np.float32(pad_value))
    return Prepared(
        source=placed,
        mask=inside,
        grid=upright.cropped(start[::-1], size[::-1]),
        upright=upright,
        original_mask=mask.with_array(mask.array > 0),
        statistics=statistics,
        pad_value=pad_value,
    )


def _product(values: tuple[float, ...]) -> str:
    return "x".join(f"{v:g}" for v in values)


def prepare_target(target: Volume, prepared: Prepared, recipe: Recipe) -> np.ndarray:
    """Bring the CT of a registered pair to the canvas of its source: HU to [-1, 1], -1 outside the mask.

    Args:
        target: CT in HU on the source's grid.

    Returns:
        float32, axes z, y, x of the canvas.
    """
    if not target.geometry.same_grid(prepared.original):
        raise InputError(
            target.name or "target",
            found=f"grid {target.geometry}",
            expected=f"the source's grid {prepared.original}",
            advice="register the pair first",
        )
    image = to_upright(orient(target), prepared.upright, outside=float(AIR_HU))
    start = np.rint(prepared.upright.to_index(np.array(prepared.grid.origin_xyz))).astype(int)[::-1]
    scaled = hu_to_unit(cut(image.array, tuple(start), prepared.grid.shape_zyx, AIR_HU), recipe)
    return np.where(prepared.mask, scaled, np.float32(-1))


def hu_to_unit(hu: np.ndarray, recipe: Recipe) -> np.ndarray:
    """HU, clipped to the recipe's target range, to [-1, 1]; float32."""
    low, high = recipe.target_range_hu
    return (np.clip(hu.astype(np.float32), low, high) - low) * np.float32(2 / (high - low)) - 1


def unit_to_hu(unit: np.ndarray, recipe: Recipe) -> np.ndarray:
    """[-1, 1] to HU; works on NumPy arrays and torch tensors alike."""
    low, high = recipe.target_range_hu
    return (unit + 1) * ((high - low) / 2) + low


def restore(hu: np.ndarray, prepared: Prepared, recipe: Recipe, *, outside: float = AIR_HU) -> Volume:
    """Bring a predicted canvas back to the source's grid.

    Args:
        hu: Values on the canvas, axes z, y, x.
        outside: Value outside the mask.

    Returns:
        int16 on the source's own grid, clipped to [-1024, 3071], `outside` outside the mask.
    """
    array = restore_float(hu, prepared, outside=outside)
    low, high = (-1024, 3071)
    return Volume(np.clip(np.rint(array), low, high).astype(np.int16), prepared.original)


def restore_float(values: np.ndarray, prepared: Prepared, *, outside: float) -> np.ndarray:
    """The geometry part of `restore`: float32 on the source's own grid, `outside` outside the mask."""
    start = np.rint(prepared.grid.to_index(np.array(prepared.upright.origin_xyz))).astype(int)[::-1]
    upright = Volume(
        cut(values.astype(np.float32, copy=False), tuple(start), prepared.upright.shape_zyx, outside), prepared.upright
    )
    original = prepared.original
    order, flips = _nearest_axes(original)
    if prepared.resampled:
        inside = cut(prepared.mask, tuple(start), prepared.upright.shape_zyx, False)
        array = _interpolate_inside(upright, inside, prepared.original_mask)
    else:
        array = upright.array[tuple(slice(None, None, -1) if flips[2 - k] else slice(None) for k in range(3))]
        array = array.transpose(np.argsort([2 - order[2 - k] for k in range(3)]))
    return np.where(prepared.original_mask.array, array, np.float32(outside))


def _interpolate_inside(values: Volume, inside: np.ndarray, mask: Volume) -> np.ndarray:
    """Interpolate linearly onto the mask's grid from voxels inside the body only; float32.

    The network says nothing outside the body, and slices without body aren't even run: mixing them in
    would pull the skin and the last slices towards air. Weights are renormalised (normalised convolution,
    Knutsson 1993); mask voxels with no inside neighbour take the nearest inside value.
    """
    weights = resample(values.with_array(inside.astype(np.float32)), mask.geometry).array
    result = resample(values.with_array(np.where(inside, values.array, np.float32(0))), mask.geometry).array
    lonely = mask.array & (weights < 0.01)
    np.divide(result, weights, out=result, where=weights >= 0.01)
    if lonely.any():
        nearest = ndimage.distance_transform_edt(
            ~inside, values.geometry.spacing_xyz[::-1], return_distances=False, return_indices=True
        )
        points = mask.geometry.to_physical(np.argwhere(lonely)[:, ::-1])
        index = np.rint(values.geometry.to_index(points)).astype(int)[:, ::-1]
        index = tuple(index.clip(0, np.array(inside.shape) - 1).T)
        result[lonely] = values.array[tuple(axis[index] for axis in nearest)]
    return result


def to_upright(volume: Volume, upright: Geometry, *, outside: float | None = None) -> Volume:
    """Resample an oriented volume (linear, anti-aliased where the grid gets coarser); float32."""
    volume = volume.with_array(volume.array.astype(np.float32))
    if upright.same_grid(volume.geometry):
        return volume
    if outside is None:
        outside = float(volume.array.min())
    image = anti_aliased(volume, upright.spacing_xyz, share=0.35, least_ratio=1.5, kernel="discrete")
    return resample(image, upright, interpolation="linear", outside=outside)


def _mask_to_upright(mask: Volume, upright: Geometry) -> Volume:
    return mask if upright.same_grid(mask.geometry) else resample(mask, upright, interpolation="nearest")


def canvas_box(mask: np.ndarray, canvas: Canvas) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Start (may be negative: padding) and size of the canvas on the upright grid, both z, y, x.

    All slices are kept. The margin ends where the grid does, but not where `cut_edges` continues the image: a network is not
    quite blind to where on its canvas a body lies, and the same body in a wider field of view should lie there, too. Padding
    that the recipe adds to each flipped view is not part of it (`framing`).
    """
    starts, sizes = [0], [mask.shape[0]]
    for axis in (1, 2):
        length = mask.shape[axis]
        first, last = 0, length
        if canvas.crop == "body":
            used = np.flatnonzero(mask.any(axis=(0, 3 - axis)))
            first, last = used[0] - canvas.margin, used[-1] + 1 + canvas.margin
            if canvas.cut_edges == "air":
                first, last = max(0, first), min(length, last)
        size = last - first if canvas.flip_before_padding else padded_length(last - first, canvas, axis - 1)
        before = (size - (last - first)) // 2 if canvas.padding == "centre" else 0
        starts.append(int(first - before))
        sizes.append(int(size))
    return triple(starts), triple(sizes)


def padded_length(length: int, canvas: Canvas, axis: int) -> int:
    """Voxels of a padded plane along `axis` (0: y, 1: x) whose image part has `length` voxels."""
    size = max(length, canvas.minimum_yx[axis])
    if canvas.fixed_yx is not None:
        size = max(size, canvas.fixed_yx[axis])
    return -(-size // canvas.multiple) * canvas.multiple


def cut(array: np.ndarray, start: tuple[int, ...], size: tuple[int, ...], fill: float) -> np.ndarray:
    """Copy a box out of an array; what lies outside the array is `fill`."""
    out = np.full(size, fill, dtype=array.dtype)
    source, target = [], []
    for begin, length, limit in zip(start, size, array.shape, strict=True):
        first, last = max(begin, 0), min(begin + length, limit)
        source.append(slice(first, max(first, last)))
        target.append(slice(first - begin, max(first, last) - begin))
    out[tuple(target)] = array[tuple(source)]
    return out


def stack_indices(slices: int, count: int) -> np.ndarray:
    """Indices of the 2.5D stacks: [slices, count] z of the neighbours, reflected at the ends.

    Example:
        >>> stack_indices(4, 3)[0].tolist()
        [1, 0, 1]
    """
    offsets = np.arange(count) - count // 2
    index = np.arange(slices)[:, None] + offsets
    if slices == 1:
        return np.zeros_like(index)
    period = 2 * (slices - 1)
    index = np.abs(index) % period
    return np.where(index >= slices, period - index, index)
