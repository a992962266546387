"""A small 3D U-Net with residual blocks: a slab of slices in, its middle slice out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from sctlab_model.network.base import SynthesisNetwork
from sctlab_model.network.settings import ResidualUNet3DSettings


class Network(SynthesisNetwork):
    """ResidualEncoderUNet of dynamic-network-architectures (Isensee 2024) over [N, 1, slices, Y, X].

    Instance norms make a sample's result independent of its batch. Slices are thick and few: strides are in the plane.
    """

    memory_format = torch.contiguous_format
    half_parts = ("decoder",)

    def __init__(self, settings: ResidualUNet3DSettings) -> None:
        super().__init__()
        from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

        stages = len(settings.features)
        self.slices = settings.slices
        self.unet = ResidualEncoderUNet(
            input_channels=1,
            n_stages=stages,
            features_per_stage=settings.features,
            conv_op=nn.Conv3d,
            kernel_sizes=3,
            strides=[(1, 1, 1), *[(1, 2, 2)] * (stages - 1)],
            n_blocks_per_stage=settings.blocks,
            num_classes=1,
            n_conv_per_stage_decoder=1,
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
        )
        # The library lets the decoder own the encoder, for its own use; each part is named once here.
        self.unet.decoder.encoder = None

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """Encoder and decoder, which ends in the head."""
        return {"encoder": self.unet.encoder, "decoder": self.unet.decoder}

    @property
    def head_bias(self) -> nn.Parameter:
        """Of the finest segmentation layer."""
        return self.unet.decoder.seg_layers[-1].bias

    def prepare_stacks(self, stacks: torch.Tensor) -> torch.Tensor:
        """One channel, slices as the depth."""
        return stacks[:, None].contiguous()

    def middle_slice(self, values: torch.Tensor) -> torch.Tensor:
        """[N, 1, Y, X] of [N, 1, slices, Y, X]."""
        return values[:, :, self.slices // 2]
