"""Is this the body part that was asked for, and is left left? The anatomy network's answers, before anything is predicted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sctlab_model.anatomy.classes import CLASSES, INDEX
from sctlab_model.anatomy.network import PIECES, AnatomyNetwork, looking, normalised
from sctlab_model.anatomy.segmenter import on_three_mm
from sctlab_model.anatomy.shipped import NETWORK, is_here, load_network
from sctlab_model.cases import Region
from sctlab_model.errors import InputError
from sctlab_model.gates import Finding
from sctlab_model.image_statistics import Statistics
from sctlab_model.volume import Volume

HEAD, TRUNK = 0.58, 0.2  # share of a slab's body in a region's own structures that shows the region
NO_HEAD, NO_TRUNK = 0.02, 0.15  # at most so much in any slab where the region is not shown
_FEW = 0.25  # of the largest share: the user is asked
_LOOKS = 3  # slabs, evenly over the image
# A mirrored abdomen: its own mirror image shows more liver, by this factor. True ones have 0.09 to 0.5 of theirs there.
MIRRORED = 1.4
_LIVER = 0.08  # share of a slab's body that is liver, below which nothing is said of left and right


@dataclass(frozen=True)
class RegionSeen:
    """What a look at a few slabs says.

    Args:
        shares: The largest share of a slab's body in structures that tell a region (brain and skull, lungs and heart,
            liver and hips …), in the order of `Region`.
    """

    shares: tuple[float, ...]

    @property
    def region(self) -> Region:
        """Whose structures are seen most."""
        return list(Region)[int(np.argmax(self.shares))]

    def share(self, region: Region) -> float:
        """Of one region's structures."""
        return self.shares[list(Region).index(region)]

    @property
    def is_trunk(self) -> bool:
        """Chest or abdomen, and surely nothing of a head."""
        return max(self.share(Region.TH), self.share(Region.AB)) >= TRUNK and self.share(Region.HN) <= NO_HEAD

    def is_head_without(self, region: Region) -> bool:
        """A head, and hardly anything of a region of the trunk."""
        return self.share(Region.HN) >= HEAD and self.share(region) <= NO_TRUNK


def look_at(image: Volume, network: AnatomyNetwork | None = None) -> tuple[RegionSeen, bool | None]:
    """The region that an image shows, and whether left and right are exchanged, by three slabs of 48 mm over its middle.

    Args:
        image: HU, or MR magnitudes; any grid and orientation.
        network: The shipped one when left out.

    Returns:
        The region's evidence; True where the mirror image shows more liver, None where there is too little of it.

    Raises:
        InputError: An image that can't be looked at (see `see_anatomy`).
        WeightsError: The shipped weights are missing or altered.
    """
    network = network or load_network(NETWORK)
    slabs = _slabs(image)
    found = _shares(slabs, network)
    telling = [[k for k, entry in enumerate(CLASSES) if entry.region is region] for region in Region]
    seen = RegionSeen(tuple(float(found[:, ids].sum(1).max()) for ids in telling))
    if seen.is_head_without(Region.AB):
        return seen, None
    liver = [shares[:, INDEX["liver"]] for shares in (found, _shares(slabs.flip(-1), network))]
    best = int(torch.maximum(*liver).argmax())
    plain, mirrored = (float(share[best]) for share in liver)
    if max(plain, mirrored) < _LIVER or max(plain, mirrored) <= MIRRORED * min(plain, mirrored):
        return seen, None
    return seen, mirrored > plain


def asymmetry_of(image: Volume, network: AnatomyNetwork | None = None) -> np.ndarray:
    """How much more of every class the network sees in an image than in its mirror image, [slabs, classes], in roots of shares.

    The mirror image has the same numbers of the other sign, whatever the network mistakes for what: so two images of one
    patient agree in them where they are of one side, and are opposite where they aren't. An image that is its own mirror image
    has numbers near 0.

    Args:
        image: HU, or MR magnitudes; any grid and orientation.
        network: The shipped one when left out.

    Raises:
        InputError: An image that can't be looked at (see `see_anatomy`).
        WeightsError: The shipped weights are missing or altered.
    """
    network = network or load_network(NETWORK)
    slabs = _slabs(image)
    plain, mirrored = (_shares(s, network)[:, 1:].clamp_min(0).sqrt() for s in (slabs, slabs.flip(-1)))
    difference: np.ndarray = (plain - mirrored).numpy()
    return difference


def _shares(slabs: torch.Tensor, network: AnatomyNetwork) -> torch.Tensor:
    """Share of the body of every class in every slab, [slabs, classes]."""
    with looking():
        return torch.cat([network.shares_of(slab[None]) for slab in slabs])


def _slabs(image: Volume) -> torch.Tensor:
    """What the network is shown: slabs of 48 mm evenly over an image, [slabs, 1, z, y, x], normalised."""
    coarse = on_three_mm(image)
    array = torch.from_numpy(np.ascontiguousarray(coarse.array, dtype=np.float32))
    reference = Statistics.of(array)
    depth, height, width = PIECES[0]
    middles = np.linspace(0, len(array), 2 * _LOOKS + 1)[1::2]
    firsts = sorted({int(np.clip(round(m - depth / 2), 0, max(0, len(array) - depth))) for m in middles})
    centre = [_middle(array, axis) for axis in (1, 2)]
    found = []
    for first in firsts:
        slab = array[first : first + depth]
        piece = torch.full((depth, height, width), float(array.min()))
        # at both ends the body goes on; beside it is air
        rows = np.clip(np.arange(depth), 0, len(slab) - 1)
        y, x = (max(0, c - n // 2) for c, n in zip(centre, (height, width), strict=True))
        cut = slab[rows, y : y + height, x : x + width]
        piece[:, : cut.shape[1], : cut.shape[2]] = cut
        found.append(normalised(piece, reference)[None])
    return torch.stack(found)


def check_seen_region(image: Volume, asked: Region | None) -> list[Finding]:
    """Whether the image shows the region that was asked for, and left and right as they are.

    Nothing is said where no network is shipped or no region is given. A head given as an abdomen (or the other way round)
    is a mistake and refused. Thorax and abdomen share slices: there the user is only asked. So they are of a liver on the
    left: few patients have one, more headers say so.
    """
    if asked is None or not is_here():
        return []
    try:
        seen, mirrored = look_at(image)
    except InputError:  # too thin to tell
        return []
    findings = []
    wrong = seen.is_trunk if asked is Region.HN else seen.is_head_without(asked)
    largest = max(seen.shares)
    if wrong or (seen.share(asked) < _FEW * largest and largest >= TRUNK):
        found = ", ".join(f"{r.full_name} {seen.share(r):.0%}" for r in Region)
        findings.append(
            Finding(
                f"the image does not look like {asked.full_name}: of the body, structures of {found} (anatomy network)",
                "refuse" if wrong else "warn",
            )
        )
    if mirrored and asked is not Region.HN and not wrong:
        findings.append(
            Finding(
                "the liver seems to lie on the left: are left and right exchanged in the header, or is the patient turned? "
                "(anatomy network)"
            )
        )
    return findings


def _middle(array: torch.Tensor, axis: int) -> int:
    """Where the signal's centre lies along an axis."""
    weight = (array - array.min()).sum([k for k in range(3) if k != axis])
    return int((weight * torch.arange(len(weight))).sum() / weight.sum().clamp_min(1e-6))
