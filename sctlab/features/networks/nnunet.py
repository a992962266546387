"""TotalSegmentator's networks: nnU-Net plans built with `dynamic_network_architectures`, encoder and decoder layers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sctlab.features.extractor import (
    FeatureExtractor,
    Layer,
    Statistics,
    crop_to_stride,
    pad_to_multiple,
    z_score,
)
from sctlab.features.registry import fill, save_extractor
from sctlab.features.unet import unet_layers
from sctlab_model.anatomy.unet import unet_stages
from sctlab_model.errors import InputError, WeightsError

# The plan that TotalSegmentator v2 trains its 1.5 mm models with.
DEFAULT_PLANS: dict[str, Any] = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 6,
        "features_per_stage": [32, 64, 128, 256, 320, 320],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 6,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5,
        "n_conv_per_stage": [2] * 6,
        "n_conv_per_stage_decoder": [2] * 5,
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
}
_MR_NORMALISATION = "zero mean and unit deviation of the image"
_CT_NORMALISATION = "clip to the training percentiles, fingerprint mean and deviation"
_CLASSES = ("PlainConvUNet", "ResidualEncoderUNet")
_TYPES = {
    "torch.nn.modules.conv.Conv3d": torch.nn.Conv3d,
    "torch.nn.modules.conv.Conv2d": torch.nn.Conv2d,
    "torch.nn.modules.instancenorm.InstanceNorm3d": torch.nn.InstanceNorm3d,
    "torch.nn.modules.instancenorm.InstanceNorm2d": torch.nn.InstanceNorm2d,
    "torch.nn.modules.batchnorm.BatchNorm3d": torch.nn.BatchNorm3d,
    "torch.nn.LeakyReLU": torch.nn.LeakyReLU,
    "torch.nn.modules.activation.LeakyReLU": torch.nn.LeakyReLU,
    "torch.nn.ReLU": torch.nn.ReLU,
}


class TotalSegmentator(FeatureExtractor):
    """A U-Net of nnU-Net: encoder stages, decoder stages from deep to fine, and the softmax of the head.

    The published extractors' last layer is a one-hot map; here it is the softmax, because gradients must flow.

    Args:
        plans: `architecture` of an nnU-Net plans file: `network_class_name` and `arch_kwargs`.
        classes: Classes of the head, background included.
        fingerprint: CT only: mean, std, percentile_00_5, percentile_99_5 of the training intensities in HU.
            Without it the input is normalised to zero mean and unit deviation (the MR models).
        name: For messages and records.
    """

    def __init__(
        self,
        plans: dict[str, Any] | None = None,
        *,
        classes: int = 118,
        fingerprint: dict[str, float] | None = None,
        name: str = "totalsegmentator",
    ) -> None:
        plans = plans or DEFAULT_PLANS
        network = _build(plans, classes)
        layers = _describe(plans["arch_kwargs"], classes)
        total = max(layer.stride for layer in layers)
        super().__init__(
            name,
            dimension=2 if "Conv2d" in plans["arch_kwargs"]["conv_op"] else 3,
            channels=1,
            layers=layers,
            normalisation=_CT_NORMALISATION if fingerprint else _MR_NORMALISATION,
            minimum_size=2 * total,  # the deepest normalisation needs more than one voxel
        )
        self.network, self.plans, self.fingerprint, self.total_stride = network, plans, fingerprint, total
        self.freeze()

    def architecture(self) -> dict[str, object]:
        return {
            "kind": "totalsegmentator",
            "name": self.name,
            "plans": self.plans,
            "classes": self.layers[-1].channels,
            "fingerprint": self.fingerprint,
        }

    def rename(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """nnU-Net's own names are taken, too."""
        nnunet_names = any(k.startswith("encoder.") for k in tensors)
        return {f"network.{k}": v for k, v in tensors.items()} if nnunet_names else tensors

    def _extract(self, x: Tensor, count: int, statistics: Statistics | None) -> list[Tensor]:
        size = x.shape[2:]
        if self.fingerprint:
            f = self.fingerprint
            x = (x.float().clamp(f["percentile_00_5"], f["percentile_99_5"]) - f["mean"]) / max(f["std"], 1e-8)
        else:
            x = z_score(x, statistics)
        x = pad_to_multiple(x, self.total_stride)
        network: Any = self.network  # the library has no types
        found = unet_stages(network, x, min(count, len(self.layers) - 1))
        if count == len(self.layers):
            found.append(network.decoder.seg_layers[-1](found[-1]).softmax(dim=1))
        return [crop_to_stride(f, size, layer.stride) for f, layer in zip(found, self.layers, strict=False)]


def import_nnunet(
    plans: str | Path, checkpoint: str | Path, out: str | Path, *, configuration: str = "3d_fullres"
) -> Path:
    """Write an extractor file from what nnU-Net's training leaves: `plans.json` and `checkpoint_final.pth`.

    Args:
        plans: nnU-Net's plans (2.4 or later).
        checkpoint: Its checkpoint; tensors and numbers are read, nothing in it is executed.
        out: The `.safetensors` file that `load_extractor` takes.
        configuration: Of the plans.

    Raises:
        InputError: Not plans that name an architecture.
        WeightsError: Not a checkpoint of nnU-Net, or one of another architecture.
    """
    from sctlab.features.checkpoints import read_pickled

    architecture, fingerprint = read_plans(plans, configuration)
    expected = "nnU-Net's checkpoint_final.pth"
    state = read_pickled(Path(checkpoint), expected)
    weights = state.get("network_weights") if isinstance(state, Mapping) else None
    head = (weights or {}).get("decoder.seg_layers.0.weight")
    if not isinstance(head, torch.Tensor):
        raise WeightsError(checkpoint, found="no 'network_weights' with a segmentation head", expected=expected)
    built = TotalSegmentator(
        architecture, classes=len(head), fingerprint=fingerprint, name=f"totalsegmentator-{Path(out).stem}"
    )
    assert weights is not None
    return save_extractor(fill(built, dict(weights), Path(checkpoint)), out)


def read_plans(path: str | Path, configuration: str = "3d_fullres") -> tuple[dict[str, Any], dict[str, float] | None]:
    """`architecture` and CT fingerprint of an nnU-Net `plans.json`.

    Raises:
        InputError: Not a plans file, or one of nnU-Net before 2.4, which names no architecture.
    """
    from sctlab_model.cases import read_json

    plans = read_json(Path(path))
    try:
        settings = plans["configurations"][configuration]
        architecture = settings["architecture"]
    except (KeyError, TypeError) as error:
        raise InputError(
            path,
            found=f"no {error} in the plans",
            expected=f"configurations.{configuration}.architecture (nnU-Net 2.4 or later)",
        ) from error
    fingerprint = None
    if "CTNormalization" in settings.get("normalization_schemes", []):
        fingerprint = plans["foreground_intensity_properties_per_channel"]["0"]
        fingerprint = {k: float(fingerprint[k]) for k in ("mean", "std", "percentile_00_5", "percentile_99_5")}
    return {k: architecture[k] for k in ("network_class_name", "arch_kwargs")}, fingerprint


def _describe(keywords: dict[str, Any], classes: int) -> list[Layer]:
    """Layers of a plan: encoder stages, decoder stages, head."""
    residual = "n_blocks_per_stage" in keywords
    counts = keywords["n_blocks_per_stage" if residual else "n_conv_per_stage"]
    strides = []
    for stage, steps in enumerate(keywords["strides"], 1):
        steps = set(steps) if isinstance(steps, list | tuple) else {steps}
        if len(steps) > 1:
            raise InputError(
                "nnU-Net plans", found=f"strides {sorted(steps)} in stage {stage}", expected="one stride for all axes"
            )
        strides.append(steps.pop())
    return unet_layers(
        keywords["features_per_stage"],
        strides,
        counts if isinstance(counts, list | tuple) else [counts] * len(strides),
        residual=residual,
        classes=classes,
    )


def _build(plans: dict[str, Any], classes: int) -> torch.nn.Module:
    """The network of a plan. Class names are looked up in a list, never imported by name."""
    from dynamic_network_architectures.architectures import unet

    class_name = str(plans.get("network_class_name", "")).rsplit(".", 1)[-1]
    if class_name not in _CLASSES:
        raise InputError("nnU-Net plans", found=f"network class '{class_name}'", expected=" or ".join(_CLASSES))
    keywords = json.loads(json.dumps(plans["arch_kwargs"]))
    for key in ("conv_op", "norm_op", "nonlin", "dropout_op"):
        value = keywords.get(key)
        if value is None:
            continue
        if value not in _TYPES:
            raise InputError("nnU-Net plans", found=f"{key} '{value}'", expected="one of " + ", ".join(_TYPES))
        keywords[key] = _TYPES[value]
    if keywords.get("nonlin_kwargs"):
        keywords["nonlin_kwargs"]["inplace"] = False  # encoder stages are returned: nothing may overwrite them
    return getattr(unet, class_name)(input_channels=1, num_classes=classes, deep_supervision=False, **keywords)
