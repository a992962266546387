"""SAM 2.1's image encoder, the Hiera trunk (Ravi et al., 2024), through `transformers`."""

from __future__ import annotations

import re

from torch import Tensor

from sctlab.features.extractor import (
    FeatureExtractor,
    Layer,
    Statistics,
    crop_to_stride,
    imagenet,
    pad_to_multiple,
)

# Hiera sizes as published with SAM 2.1: blocks a stage, blocks with global attention.
SIZES: dict[str, tuple[list[int], list[int]]] = {
    "tiny": ([1, 2, 7, 2], [5, 7, 9]),
    "small": ([1, 2, 11, 2], [7, 10, 13]),
}
_ATTENTION_WINDOW = 8  # patches of stage 1: the positional window must tile the patch grid
_PATCH = 4


class Sam2Hiera(FeatureExtractor):
    """The four stages of SAM 2.1's trunk, strides 4, 8, 16 and 32.

    The input keeps its resolution (no resizing to 1024); edges are repeated up to a multiple of 32.
    Stages 3 and 4 hold blocks of global attention, so that their field of view is the whole image; the numbers
    given are those of windowed attention.

    Args:
        size: `tiny` or `small`.
    """

    def __init__(self, size: str = "small") -> None:
        from transformers import Sam2HieraDetConfig, Sam2HieraDetModel

        if size not in SIZES:
            raise ValueError(f"SAM 2.1 size '{size}'; expected one of {', '.join(SIZES)}")
        blocks, attention = SIZES[size]
        widths = [96, 192, 384, 768]
        windows = [8, 4, 14, 7]
        config = Sam2HieraDetConfig(
            blocks_per_stage=blocks,
            global_attention_blocks=attention,
            embed_dim_per_stage=widths,
            num_attention_heads_per_stage=[1, 2, 4, 8],
            window_size_per_stage=windows,
            window_positional_embedding_background_size=[7, 7],
        )
        layers = [
            Layer(f"stage {i + 1}", width, _PATCH * 2**i, _PATCH * 2**i * window, _PATCH * (2**i - 1) / 2)
            for i, (width, window) in enumerate(zip(widths, windows, strict=True))
        ]
        super().__init__(
            f"sam2.1-{size}",
            dimension=2,
            channels=3,
            layers=layers,
            normalisation="min-max, then ImageNet mean and deviation",
            minimum_size=32,
        )
        self.trunk = Sam2HieraDetModel(config)
        self.freeze()

    def architecture(self) -> dict[str, object]:
        return {"name": self.name}

    def rename(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Own names stay; those of a checkpoint of the whole SAM 2.1 become the trunk's."""
        return tensors if any(k.startswith("trunk.patch_embed.projection") for k in tensors) else trunk_weights(tensors)

    def _extract(self, x: Tensor, count: int, statistics: Statistics | None) -> list[Tensor]:
        size = x.shape[2:]
        x = pad_to_multiple(imagenet(x, statistics), _PATCH * _ATTENTION_WINDOW)
        trunk = self.trunk
        x = trunk.patch_embed(x)
        x = x + trunk._get_pos_embed((x.shape[1], x.shape[2]))  # stops at the last stage wanted, which forward() can't
        found: list[Tensor] = []
        for index, block in enumerate(trunk.blocks):
            x = block(x)
            if index in trunk.stage_ends:
                found.append(crop_to_stride(x.permute(0, 3, 1, 2), size, self.layers[len(found)].stride))
                if len(found) == count:
                    break
        return found


_ORIGINAL_NAMES = (  # names of the trunk in the original checkpoints → in transformers
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
)


def trunk_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The trunk's weights out of a checkpoint of the whole SAM 2.1, in transformers' or the original names."""
    found = {}
    for name, value in weights.items():
        match = re.match(r"(?:model\.)?(?:vision_encoder\.backbone|image_encoder\.trunk|trunk)\.(.+)", name)
        if not match:
            continue
        inner = match[1]
        for pattern, replacement in _ORIGINAL_NAMES:
            inner = re.sub(pattern, replacement, inner)
        found[f"trunk.{inner}"] = value
    return found
