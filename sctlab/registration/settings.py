"""What a caller of registration chooses: method, presets, convention, seed, device."""

from __future__ import annotations

from enum import StrEnum

from sctlab_model.settings import Settings


class Method(StrEnum):
    """How pairs are registered.

    `elastix`: the organisers' baseline. `impact`: the engine with feature metrics. `mi`: the engine with mutual
    information. `rigid`: the engine's rigid stage alone.
    """

    ELASTIX = "elastix"
    IMPACT = "impact"
    MI = "mi"
    RIGID = "rigid"


class Convention(StrEnum):
    """Which image stays and which one is resampled.

    `ct_to_source` (the organisers'): fixed = MR/CBCT, the CT is resampled onto its grid.
    `source_to_ct` (IMPACT's): fixed = CT, which stays untouched; the MR/CBCT is resampled.
    """

    CT_TO_SOURCE = "ct_to_source"
    SOURCE_TO_CT = "source_to_ct"


class RegistrationSettings(Settings):
    """Everything that changes a result.

    Args:
        method: How.
        presets: The engine's presets by name or YAML file, several are averaged; empty chooses by task and region.
        convention: Which image is fixed.
        seed: Of every random choice.
        device: `auto`, `cpu` or `cuda[:N]`.
        both_ways: Register with the roles exchanged too and report the inverse consistency.
        displacement: Also write the displacement field.
    """

    method: Method = Method.IMPACT
    presets: tuple[str, ...] = ()
    convention: Convention = Convention.CT_TO_SOURCE
    seed: int = 0
    device: str = "auto"
    both_ways: bool = False
    displacement: bool = False
