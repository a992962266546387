"""`sctlab gamma`: two dose files by the gamma index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def gamma(
    evaluated: Annotated[Path, typer.Argument(help="Dose file, e.g. recalculated on the sCT.")],
    reference: Annotated[Path, typer.Argument(help="Dose file to compare with, in the same unit.")],
) -> int:
    """Compare two dose files: gamma 2 %/2 mm, cutoff 10 %."""
    from sctlab.evaluation.dose import gamma_pass_rate
    from sctlab_model.io.reading import read_volume

    result = gamma_pass_rate(read_volume(evaluated), read_volume(reference))
    print(f"gamma 2 %/2 mm pass rate {result.pass_rate:.2f} %, mean {result.mean_gamma:.3f}, {result.voxels} voxels")
    return 0
