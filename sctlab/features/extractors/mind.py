"""MIND-SSC by name, with radius and dilation; no weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sctlab.features.registry import register

if TYPE_CHECKING:
    from sctlab.features.networks.mind import MindSSC


@register(
    "mind",
    pattern=r"mind(?:-r(?P<radius>\d))?(?:-d(?P<dilation>\d))?",
    note="self-similarity in 3D, no weights; mind-r2-d3 sets radius and dilation",
)
def mind_3d(radius: str | None = None, dilation: str | None = None) -> MindSSC:
    """MIND-SSC in 3D by name."""
    from sctlab.features.networks.mind import MindSSC

    return MindSSC(3, radius=int(radius or 1), dilation=int(dilation or 2))


@register(
    "mind-2d",
    pattern=r"mind-2d(?:-r(?P<radius>\d))?(?:-d(?P<dilation>\d))?",
    note="self-similarity in the plane, no weights; mind-2d-r2-d3 sets radius and dilation",
)
def mind_2d(radius: str | None = None, dilation: str | None = None) -> MindSSC:
    """MIND-SSC in the plane by name."""
    from sctlab.features.networks.mind import MindSSC

    return MindSSC(2, radius=int(radius or 1), dilation=int(dilation or 2))
