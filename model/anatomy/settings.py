"""Which U-Net the anatomy network is; apart from it, because a plan is read, and refused, without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from sctlab_model.errors import WeightsError
from sctlab_model.settings import Settings

METADATA = "extractor"  # the key under which extractors' files describe their network


class NetworkSettings(Settings):
    """Which U-Net of `dynamic_network_architectures`.

    Args:
        kind: `ResidualEncoderUNet` or `PlainConvUNet`.
        features: Channels of every stage, the first at 6 mm; each further one halves the grid.
        convolutions: A stage's convolutions (blocks, in the residual one).
    """

    kind: str = Field("ResidualEncoderUNet", pattern="^(ResidualEncoderUNet|PlainConvUNet)$")
    features: tuple[int, ...] = (24, 48, 96, 160)
    convolutions: int = Field(1, ge=1)

    @property
    def counts(self) -> list[int]:
        """Convolutions, or blocks, of every stage."""
        return [self.convolutions] * len(self.features)

    @property
    def stride(self) -> int:
        """Voxels of the input per voxel of the deepest stage."""
        return int(2 ** len(self.features))


def network_record(path: str | Path) -> dict[str, Any]:
    """What a network's file says of it: `network`, its settings, and `classes`, the names of what it tells apart.

    Raises:
        WeightsError: Not a file of `write_network`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as handle:  # only its header is read
            metadata = dict(handle.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(path, found=f"can't be read ({error})", expected="a complete safetensors file") from error
    try:
        record = dict(json.loads(metadata[METADATA]))
        NetworkSettings.model_validate(record["network"])
        tuple(record["classes"])
    except (KeyError, ValueError, TypeError) as error:
        raise WeightsError(path, found=f"no record of an anatomy network ({error})", expected="its metadata") from error
    return record
