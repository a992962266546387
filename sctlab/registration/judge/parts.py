"""Whether both images of a registered pair show the same part of the body, and the same side, as the anatomy network sees them.

The network looks at each image alone, the moving one where the registration puts it, unbent: a patient that was turned back is no
mirror image. By which features they were registered does not matter to it. Which organs meet is a longer look: `sctlab segment FIXED
OUT --against REGISTERED`.
"""

from __future__ import annotations

import numpy as np

from sctlab.registration.judge.view import nearest_rigid
from sctlab.registration.pairs import Pair
from sctlab.transforms.apply import apply_to_image
from sctlab.transforms.data import Transform
from sctlab_model.anatomy.judge import asymmetry_of, look_at
from sctlab_model.anatomy.network import SPACING_MM, AnatomyNetwork
from sctlab_model.anatomy.shipped import NETWORK, is_here, load_network
from sctlab_model.cases import Region
from sctlab_model.errors import InputError
from sctlab_model.volume import Volume

# Chosen on simulated pairs: sound chests and abdomens have 0.28 and more, CBCTs 0.83 and more, mirrored ones the same below 0; of
# heads in MR, in which the network tells hardly anything, sound ones have −0.14 to 0.26.
OPPOSITE = -0.5
LEAST_ASYMMETRY = 0.07  # of either image; below it the network tells one side from the other by next to nothing


def different_parts(pair: Pair, transform: Transform, network: AnatomyNetwork | None = None) -> str:
    """A sentence where one image surely shows a head and the other surely none, or where the sides are exchanged.

    Thorax and abdomen share too much for a word.

    Args:
        pair: The images.
        transform: From fixed points to moving points.
        network: The shipped one when left out; nothing is said where there is none, or an image is too thin to tell.
    """
    if network is None and not is_here():
        return ""
    network = network or load_network(NETWORK)
    try:
        images = as_registered(pair, transform)
        (one, first), (other, second) = (look_at(image, network) for image in images)
    except InputError:
        return ""
    for head, trunk in ((one, other), (other, one)):
        if head.is_head_without(Region.AB) and trunk.is_trunk:
            return (
                f"different parts of the body: a head in one image ({head.share(Region.HN):.0%} of a slab are its "
                f"structures) and none in the other ({trunk.share(Region.HN):.0%}), says the anatomy network"
            )
    if {first, second} == {True, False}:
        return (
            "mirrored anatomy: the liver lies on the left in one image and on the right in the other (anatomy network)"
        )
    correlation = side_correlation(*(asymmetry_of(image, network) for image in images))
    if correlation is not None and correlation <= OPPOSITE:
        return (
            "mirrored anatomy: what lies more to one side in one image lies more to the other side in the other "
            f"(correlation {correlation:.2f}, anatomy network)"
        )
    return ""


def side_correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """How alike two images' asymmetries (`asymmetry_of`) are, −1 (mirrored) to 1; None where one of them has hardly any."""
    if one.shape != other.shape:
        return None
    lengths = [float(np.sqrt((a**2).sum())) for a in (one, other)]
    return float((one * other).sum() / np.prod(lengths)) if min(lengths) >= LEAST_ASYMMETRY else None


def as_registered(pair: Pair, transform: Transform) -> tuple[Volume, Volume]:
    """The fixed image, and the moving one turned and moved onto it, at the network's voxels.

    Only by the rigid motion nearest to the transform: a mirrored image that was bent until it fits looks like the other one.
    """
    grid = pair.fixed.geometry.resized((SPACING_MM,) * 3)
    rigid = nearest_rigid(transform, grid)
    outside = float(pair.moving.array.min())
    return pair.fixed, apply_to_image(pair.moving, rigid, grid, interpolation="linear", outside=outside)
