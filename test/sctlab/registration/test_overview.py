"""The picture of a case: six columns, three planes, on oblique images too."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sctlab.registration.overview import save_overview
from sctlab.registration.pairs import PairFiles, load_pair
from sctlab.registration.settings import Convention
from sctlab.transforms.data import EulerTransform, compose
from sctlab_model.cases import find_cohort
from sctlab_model.volume import Geometry


@pytest.mark.parametrize("convention", list(Convention))
def test_overview_shows_more_agreement_after_than_before(cohort, tmp_path, cbct_sample, convention):
    pair = load_pair(PairFiles.of(find_cohort(cohort)[1]), convention)
    transform = cbct_sample.truth if not pair.ct_is_fixed else cbct_sample.truth.steps[-1].inverse()
    with Image.open(save_overview(pair, transform, tmp_path / "o.png", title="2THA001")) as image:
        width, height = image.size
        pixels = np.asarray(image.convert("L"), dtype=float)
    assert width > 1.5 * height
    columns = np.array_split(pixels[40:], 6, axis=1)
    fixed, before, after = columns[:3]
    n = min(c.shape[1] for c in columns)
    assert np.abs(fixed[:, :n] - after[:, :n]).mean() < np.abs(fixed[:, :n] - before[:, :n]).mean()


def test_overview_of_an_oblique_image(cohort, tmp_path, cbct_sample):
    pair = load_pair(PairFiles.of(find_cohort(cohort)[1]), Convention.CT_TO_SOURCE)
    turn = EulerTransform((0.3, -0.2, 0.4)).affine().matrix @ np.diag([-1.0, -1.0, 1.0])
    old = pair.fixed.geometry
    grid = Geometry(old.size_xyz, old.spacing_xyz, old.origin_xyz, tuple(turn.ravel()))
    oblique = replace(
        pair,
        fixed=replace(pair.fixed, geometry=grid),
        fixed_mask=replace(pair.fixed_mask, geometry=grid),
        fixed_labels=None,
    )
    move = EulerTransform((0.0, 0.0, 0.0), tuple(np.zeros(3)))
    assert save_overview(oblique, compose(move), tmp_path / "o.png").stat().st_size > 20_000
