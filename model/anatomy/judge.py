"""Is this the body part that was asked for? The anatomy network's answer, in a second, before anything is predicted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sctlab_model.anatomy.network import PIECES, AnatomyNetwork, Intensities, normalised
from sctlab_model.anatomy.segmenter import on_three_mm
from sctlab_model.anatomy.shipped import NETWORK, is_here, load_network
from sctlab_model.cases import Region
from sctlab_model.errors import InputError
from sctlab_model.gates import Finding
from sctlab_model.volume import Volume

SURE = 0.9  # chance of another region, over all slices looked at, that makes a request a mistake
DOUBTFUL = 0.05  # chance of the region that was asked for, below which the user is asked
_LOOKS = 3  # slabs, evenly over the image


@dataclass(frozen=True)
class RegionSeen:
    """What a look at a few slabs says.

    Args:
        chances: Of every region, in the order of `Region`; they add to one.
    """

    chances: tuple[float, ...]

    @property
    def region(self) -> Region:
        """The likeliest."""
        return list(Region)[int(np.argmax(self.chances))]

    def chance(self, region: Region) -> float:
        """Of one region."""
        return self.chances[list(Region).index(region)]


def see_region(image: Volume, network: AnatomyNetwork | None = None) -> RegionSeen:
    """The region that an image shows, by three slabs of 48 mm over its middle.

    Args:
        image: HU, or MR magnitudes; any grid and orientation.
        network: The shipped one when left out.

    Raises:
        InputError: An image that can't be looked at (see `see_anatomy`).
        WeightsError: The shipped weights are missing or altered.
    """
    network = network or load_network(NETWORK)
    coarse = on_three_mm(image)
    array = torch.from_numpy(np.ascontiguousarray(coarse.array, dtype=np.float32))
    reference = Intensities.of(array)
    depth, height, width = PIECES[0]
    middles = np.linspace(0, len(array), 2 * _LOOKS + 1)[1::2]
    firsts = sorted({int(np.clip(round(m - depth / 2), 0, max(0, len(array) - depth))) for m in middles})
    centre = [_middle(array, axis) for axis in (1, 2)]
    said = []
    with torch.inference_mode():
        for first in firsts:
            slab = array[first : first + depth]
            piece = torch.full((depth, height, width), float(array.min()))
            # at both ends the body goes on; beside it is air
            rows = np.clip(np.arange(depth), 0, len(slab) - 1)
            y, x = (max(0, c - n // 2) for c, n in zip(centre, (height, width), strict=True))
            cut = slab[rows, y : y + height, x : x + width]
            piece[:, : cut.shape[1], : cut.shape[2]] = cut
            seen = normalised(piece, reference)[None, None]
            said.append(network.regions_of(seen)[0].softmax(0).mean(1).numpy())
    chances = np.mean(said, axis=0)
    return RegionSeen(tuple(float(c) for c in chances / chances.sum()))


def check_seen_region(image: Volume, asked: Region | None) -> list[Finding]:
    """Whether the image shows the region that was asked for; nothing where no network is shipped or no region is given.

    A head given as an abdomen (or the other way round) is a mistake and refused. Thorax and abdomen share slices: there
    the user is only asked.
    """
    if asked is None or not is_here():
        return []
    try:
        seen = see_region(image)
    except InputError:  # too thin to tell
        return []
    region, chance = seen.region, seen.chance(seen.region)
    if region is asked or seen.chance(asked) > DOUBTFUL:
        return []
    apart = Region.HN in (region, asked)
    return [
        Finding(
            f"the image looks like {region.full_name} (anatomy network: {chance:.0%}), and was given as {asked.full_name}",
            "refuse" if apart and chance >= SURE else "warn",
        )
    ]


def _middle(array: torch.Tensor, axis: int) -> int:
    """Where the signal's centre lies along an axis."""
    weight = (array - array.min()).sum([k for k in range(3) if k != axis])
    return int((weight * torch.arange(len(weight))).sum() / weight.sum().clamp_min(1e-6))
