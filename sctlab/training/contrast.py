"""New MR contrasts for simulated patients, drawn patch by patch from what their voxels are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from sctlab.training.cache import PreparedCase
from sctlab.training.field_of_view import FieldOfView
from sctlab_model.cases import CaseKey
from sctlab_model.cut_edges import continue_mirrored
from sctlab_model.errors import InputError
from sctlab_model.normalisation import normalise
from sctlab_model.preparation import cut
from sctlab_model.recipe import Recipe
from sctlab_model.settings import Settings


class ContrastSettings(Settings):
    """How often a patch is drawn anew; simulated MR cohorts with fraction maps (`sctlab simulate --fractions`) only.

    Args:
        share: Of the patches.
        random_share: Of those, the ones whose contrast no sequence has.
    """

    share: float = Field(0.5, gt=0, le=1)
    random_share: float = Field(0.15, ge=0, le=1)


class ContrastDrawer:
    """Draws a patch of a case with another sequence, other relaxation times, shading, resolution and noise.

    Percentiles of the recipe's normalisation are those of the body in the patch's slices, because the rest of the
    volume isn't drawn.

    Args:
        settings: How often.
        recipe: For normalisation and grid.
    """

    def __init__(self, settings: ContrastSettings, recipe: Recipe) -> None:
        self.settings, self.recipe = settings, recipe

    def draw(
        self,
        case: PreparedCase,
        slices: Sequence[int],
        view: FieldOfView,
        start: tuple[int, int],
        size: tuple[int, int],
        rng: np.random.Generator,
    ) -> dict[int, np.ndarray] | None:
        """Normalised slices of the source, float32 [y, x], by their index in the case; None to take the case's own.

        Args:
            case: With fraction maps.
            slices: Which of its slices.
            view: What the scan sees of it; the patient goes on beyond.
            start: First row and column in the field of view; negative where the patch reaches beyond it.
            size: Rows and columns.
            rng: Of this draw.
        """
        if rng.random() >= self.settings.share:
            return None
        from sctlab.simulation.contrast import draw_contrast
        from sctlab.simulation.fractions import Channel

        first, last = min(slices), max(slices) + 1
        extent = (last - first, *size)
        box = (first, start[0] + view.first[1], start[1] + view.first[2])
        fills = [255 if channel == Channel.AIR else 0 for channel in Channel]
        fractions = np.stack([cut(case.fractions[c], box, extent, fill) for c, fill in enumerate(fills)])
        mask = cut(view.plane(case.mask), (first, *start), extent, False)
        region = CaseKey.parse(case.key).region
        image = draw_contrast(
            fractions,
            rng,
            spacing_xyz=self.recipe.spacing_xyz,
            region=region,
            random_share=self.settings.random_share,
        )
        try:
            normalised, _ = normalise(image, mask, self.recipe, case.key)
        except InputError:  # a patch without contrast: nothing to be learnt from it
            return None
        # Beyond the field of view is padding, whatever the drawn image's air is.
        plane = view.plane(case.mask).shape
        seen = cut(np.ones(plane, bool), (first, *start), extent, False)
        normalised = np.where(seen, normalised, np.float32(case.outside))
        if self.recipe.canvas.cut_edges == "mirror":
            normalised = continue_mirrored(normalised, mask, start, plane[1:], case.outside)
        return {first + k: plane for k, plane in enumerate(normalised)}
