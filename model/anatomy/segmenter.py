"""Segment an image with the anatomy network: whatever grid and orientation, onto 3 mm and back."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from sctlab_model.anatomy.classes import FILE_IDS, SOFT
from sctlab_model.anatomy.network import HU_BELOW, PIECES, SPACING_MM, AnatomyNetwork, looking, normalised
from sctlab_model.anatomy.shipped import NETWORK, load_network
from sctlab_model.cases import Region
from sctlab_model.errors import InputError
from sctlab_model.image_statistics import Statistics
from sctlab_model.resampling import anti_aliased
from sctlab_model.volume import AIR_HU, Geometry, Volume, resample

SHORTEST_MM, LONGEST_MM = 15.0, 3000.0  # along an axis
SOFT_BELOW_HU = 200.0  # over 3 mm, with a contrast medium, too: liver reaches 150
_FINE = 0.7  # grids finer than this share of 3 mm get interpolated chances instead of the nearest label


class TooThinError(InputError):
    """An image that shows too little along an axis to tell anatomy by."""


class NoContrastError(InputError):
    """An image of one value."""


@dataclass(frozen=True)
class Anatomy:
    """What the network sees in an image.

    Args:
        labels: Ids as in files (`classes.FILE_IDS`), uint8, on the image's own grid.
        regions: Chance of every region (order of `Region`) for each slice of 3 mm, [z, regions], feet first.
        volumes_ml: Millilitres of every class, [classes].
        in_hu: Whether the intensities were taken as HU, and not as magnitudes of an MR.
    """

    labels: Volume
    regions: np.ndarray
    volumes_ml: np.ndarray
    in_hu: bool

    @property
    def region(self) -> Region:
        """The region that most slices show."""
        return list(Region)[int(self.regions.mean(0).argmax())]


def see_anatomy(image: Volume, network: AnatomyNetwork | None = None) -> Anatomy:
    """Labels, regions and volumes of a CT, CBCT, MR or sCT; nothing of a class of `SOFT` is above `SOFT_BELOW_HU` in HU.

    Args:
        image: HU, or MR magnitudes; any grid and orientation.
        network: The shipped one when left out.

    Raises:
        InputError: An image without finite values, or more than 3 m along an axis.
        NoContrastError: An image of one value.
        TooThinError: Less than 15 mm along an axis.
        WeightsError: The shipped weights are missing or altered.
    """
    network = network or load_network(NETWORK)
    coarse = on_three_mm(image)
    chances, regions = _chances(coarse, network)
    in_hu = bool(coarse.array.min() < HU_BELOW)
    if in_hu:
        # A rib is thinner than the network's blocks of 6 mm, and HU say what it isn't: the likeliest of the others is it.
        chances[np.ix_(SOFT)] *= coarse.array <= SOFT_BELOW_HU
    labels = _labels_on(image.geometry, chances, coarse.geometry)
    counts = np.bincount(chances.argmax(0).ravel(), minlength=len(FILE_IDS))
    return Anatomy(
        Volume(FILE_IDS[labels], image.geometry, image.name),
        regions,
        counts * coarse.geometry.voxel_volume_mm3 / 1000,
        in_hu,
    )


def on_three_mm(image: Volume) -> Volume:
    """The image along the patient's axes at 3 mm, without stray values; float32."""
    import SimpleITK as sitk

    values = image.array.astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(image.name, found="values that are not finite", expected="numbers everywhere")
    low, high = np.percentile(values[::2, ::2, ::2], (0.02, 99.98))
    if not high > low:
        raise NoContrastError(image.name, found=f"{low:g} nearly everywhere", expected="an image of a patient")
    extent = np.array(image.geometry.size_xyz) * image.geometry.spacing_xyz
    if extent.min() < SHORTEST_MM:
        raise TooThinError(
            image.name,
            found=f"{extent.min():.0f} mm along an axis",
            expected=f"at least {SHORTEST_MM:.0f} mm to tell anatomy by",
        )
    if extent.max() > LONGEST_MM:  # its grid of 3 mm would fill the memory
        raise InputError(
            image.name,
            found=f"{extent.max():.0f} mm along an axis",
            expected=f"a patient, at most {LONGEST_MM:.0f} mm",
            advice="is the spacing in millimetres?",
        )
    smooth = anti_aliased(image.with_array(np.clip(values, low, high)), SPACING_MM)
    turned = Volume.from_sitk(sitk.DICOMOrient(smooth.to_sitk(), "LPS"), image.name)
    grid = turned.geometry.resized((SPACING_MM,) * 3)
    return resample(turned, grid, outside=AIR_HU if low < HU_BELOW else 0.0)


def _chances(image: Volume, network: AnatomyNetwork) -> tuple[np.ndarray, np.ndarray]:
    """Chance of every class [classes, z, y, x] and of every region [z, regions]: means over overlapping pieces."""
    array = torch.from_numpy(np.ascontiguousarray(image.array, dtype=np.float32))
    reference = Statistics.of(array)
    stride, size = network.settings.stride, tuple(array.shape)
    piece = next((p for p in PIECES[:-1] if p[0] >= size[0]), PIECES[-2])
    shape = [min(n + -n % stride, p) for n, p in zip(size, piece, strict=True)]
    pads = [max(p - n, 0) for n, p in zip(size, shape, strict=True)]
    fill = float(AIR_HU) if reference.minimum < HU_BELOW else max(reference.minimum, 0.0)
    # air beside the patient; at both ends the body goes on
    wide = torch.nn.functional.pad(array[None, None], (0, pads[2], 0, pads[1]), value=fill)
    wide = torch.nn.functional.pad(wide, (0, 0, 0, 0, 0, pads[0]), mode="replicate")
    x = normalised(wide, reference)
    ramps = [torch.minimum(torch.arange(n) + 1, n - torch.arange(n)).float() / n for n in shape]
    weight = ramps[0][:, None, None] * ramps[1][:, None] * ramps[2]
    whole = x.shape[2:]
    classes, regions = torch.zeros(len(FILE_IDS), *whole), torch.zeros(len(Region), whole[0])
    total, rows = torch.zeros(whole), torch.zeros(whole[0])
    with looking():
        for corner in product(*(_starts(n, p) for n, p in zip(whole, shape, strict=True))):
            box = tuple(slice(a, a + n) for a, n in zip(corner, shape, strict=True))
            if float(x[0, 0][box].amax() - x[0, 0][box].amin()) == 0:
                classes[0][box] += weight  # nothing but air
                total[box] += weight
                continue
            output = network(x[(slice(None), slice(None), *box)].contiguous(memory_format=torch.channels_last_3d))
            classes[(slice(None), *box)] += output.logits[0].softmax(0) * weight
            total[box] += weight
            said = output.regions[0].float().softmax(0)
            regions[:, box[0]] += said.repeat_interleave(shape[0] // said.shape[1], 1) * ramps[0]
            rows[box[0]] += ramps[0]
    classes /= total
    regions = torch.where(rows > 0, regions / rows.clamp_min(1e-9), 1 / len(Region))
    return classes[:, : size[0], : size[1], : size[2]].numpy(), regions[:, : size[0]].T.numpy()


def _starts(size: int, piece: int) -> list[int]:
    """First voxels of equal pieces that cover an axis and overlap by a third at least."""
    count = 1 if size <= piece else 1 + -(-(size - piece) // (piece * 2 // 3))
    return [round(k * (size - piece) / max(1, count - 1)) for k in range(count)]


def _labels_on(geometry: Geometry, chances: np.ndarray, coarse: Geometry) -> np.ndarray:
    """Class of every voxel of a grid: the likeliest, its chance interpolated where the grid is finer than the network's."""
    labels = chances.argmax(0).astype(np.uint8)
    if min(geometry.spacing_xyz) > _FINE * SPACING_MM:
        return resample(Volume(labels, coarse), geometry, interpolation="nearest").array
    best = np.full(geometry.shape_zyx, 0.0, np.float32)
    result = np.zeros(geometry.shape_zyx, np.uint8)
    for k in np.unique(labels):
        seen = np.argwhere((labels == k) | (chances[k] > 0.05))
        low, high = np.maximum(seen.min(0) - 1, 0), np.minimum(seen.max(0) + 2, labels.shape)
        part = coarse.cropped(tuple(low[::-1].tolist()), tuple((high - low)[::-1].tolist()))
        target, box = _covering(geometry, part)
        if target is None:
            continue
        values = chances[k][tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(np.float32)
        fine = resample(Volume(values, part), target, outside=0.0).array
        better = fine > best[box]
        best[box][better] = fine[better]
        result[box][better] = k
    return result


def _covering(geometry: Geometry, part: Geometry) -> tuple[Geometry | None, tuple[slice, slice, slice]]:
    """The part of a grid that covers another, and where it lies in the array [z, y, x]."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in part.size_xyz])).reshape(3, -1).T
    index = geometry.to_index(part.to_physical(corners))
    low = np.maximum(np.floor(index.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(index.max(0)).astype(int) + 1, geometry.size_xyz)
    if (high <= low).any():
        return None, (slice(0), slice(0), slice(0))
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return geometry.cropped(tuple(low.tolist()), tuple((high - low).tolist())), (z, y, x)
