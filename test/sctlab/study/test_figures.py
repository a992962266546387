"""The study's pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sctlab.study.figures import slices_figure
from sctlab_model.volume import Geometry, Volume


def mirrored(volume: Volume) -> Volume:
    """The same image, stored from the patient's left to the right."""
    grid = volume.geometry
    far = grid.to_physical(np.array([grid.size_xyz[0] - 1, 0, 0]))
    turned = replace(grid, origin_xyz=tuple(far), direction=tuple((np.array(grid.axes) @ np.diag([-1, 1, 1])).ravel()))
    return Volume(volume.array[..., ::-1].copy(), turned)


def test_slices_are_drawn_as_the_patient_lies_whatever_way_the_file_runs() -> None:
    rng = np.random.default_rng(0)
    grid = Geometry((16, 12, 4), (2.0, 2.0, 3.0))
    ct, sct = (Volume(rng.integers(-200, 200, (4, 12, 16)).astype(np.float32), grid) for _ in range(2))
    body = np.zeros((4, 12, 16), bool)
    body[:, 2:10, 1:9] = True  # on one side only
    right = slices_figure({"truth": ct, "sCT": sct}, "case", body, minus=ct)
    turned = mirrored(ct)
    left = slices_figure({"truth": turned, "sCT": mirrored(sct)}, "case", body[..., ::-1], minus=turned)
    assert left == right
