"""The treatment couch under the patient: a thin shell around foam, and vacuum-cushion or headrest shapes."""

from __future__ import annotations

import numpy as np

from sctlab.simulation.painter import Painter
from sctlab.simulation.tissues import Tissue


def paint_couch(painter: Painter, skin: np.ndarray) -> None:
    """Paint a couch that touches the back of the body. Flat in the room: the painter's warp does not bend it."""
    body = skin < 0
    columns = np.nonzero(body.any(axis=(0, 2)))[0]
    if not len(columns):
        return
    y = painter.axes[1][columns[-1]] + 2.0
    rng = painter.rng
    thickness = rng.uniform(25, 55)
    half_width = rng.uniform(205, 265)
    curved = rng.random() < 0.3
    grid_x = painter.axes[0][None, None, :]
    grid_y = painter.axes[1][None, :, None]
    depth = grid_y - y + (0.0006 * grid_x**2 if curved else 0 * grid_x)
    shape = np.maximum(np.abs(depth - thickness / 2) - thickness / 2, np.abs(grid_x) - half_width)
    shape = np.broadcast_to(shape, painter.hu.shape)
    air = ~body & (skin > 1.0)
    for distance, tissue in ((shape, Tissue.COUCH_SHELL), (shape + 2.2, Tissue.COUCH_FOAM)):
        alpha = np.clip(0.5 - distance / painter.edge_mm, 0, 1) * air
        painter.hu += alpha * (painter.hu_of[tissue] - painter.hu)
        painter.tissue[(distance < 0) & air] = tissue
