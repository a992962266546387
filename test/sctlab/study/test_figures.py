"""The study's pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sctlab.study.figures import slices_figure
from sctlab_model.volume import Geometry, Volume


def test_slices_are_drawn_as_the_patient_lies_whatever_way_the_file_runs(
    from_the_left: Callable[[Volume], Volume],
) -> None:
    rng = np.random.default_rng(0)
    grid = Geometry((16, 12, 4), (2.0, 2.0, 3.0))
    ct, sct = (Volume(rng.integers(-200, 200, (4, 12, 16)).astype(np.float32), grid) for _ in range(2))
    body = np.zeros((4, 12, 16), bool)
    body[:, 2:10, 1:9] = True  # on one side only
    right = slices_figure({"truth": ct, "sCT": sct}, "case", body, minus=ct)
    turned = from_the_left(ct)
    left = slices_figure({"truth": turned, "sCT": from_the_left(sct)}, "case", body[..., ::-1], minus=turned)
    assert left == right
