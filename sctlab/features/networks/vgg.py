"""VGG16 and VGG19 (Simonyan and Zisserman, 2014): the last ReLU of each block."""

from __future__ import annotations

from torch import Tensor, nn

from sctlab.features.extractor import FeatureExtractor, Layer, Statistics, crop_to_stride, imagenet, pad_to_multiple


class Vgg(FeatureExtractor):
    """VGG without its classifier; weights in torchvision's names (`features.N.weight`).

    Edges are repeated up to a multiple of 16, so that feature maps have ceil(size / stride) pixels.
    Layers are relu1_2, relu2_2, relu3_3, relu4_3, relu5_3 of VGG16 (relu3_4, relu4_4, relu5_4 of VGG19).

    Args:
        depth: 16 or 19.
    """

    def __init__(self, depth: int = 16) -> None:
        from torchvision.models import vgg16, vgg19

        if depth not in (16, 19):
            raise ValueError(f"VGG{depth}; expected 16 or 19")
        features = (vgg16 if depth == 16 else vgg19)(weights=None).features
        layers, self._ends = _blocks(features)
        super().__init__(
            f"vgg{depth}",
            dimension=2,
            channels=3,
            layers=layers,
            normalisation="min-max, then ImageNet mean and deviation",
            minimum_size=16,
        )
        for module in features:
            if isinstance(module, nn.ReLU):
                module.inplace = False  # the block's output is returned: nothing may overwrite it
        self.features = features
        self.freeze()

    def architecture(self) -> dict[str, object]:
        return {"name": self.name}

    def _extract(self, x: Tensor, count: int, statistics: Statistics | None) -> list[Tensor]:
        size = x.shape[2:]
        x = pad_to_multiple(imagenet(x, statistics), self.layers[-1].stride)
        found: list[Tensor] = []
        for index, module in enumerate(self.features):
            x = module(x)
            if index in self._ends:
                found.append(crop_to_stride(x, size, self.layers[len(found)].stride))
                if len(found) == count:
                    break
        return found


def _blocks(features: nn.Sequential) -> tuple[list[Layer], list[int]]:
    """The last ReLU of every block: what it is and its index, with the field of view from the kernels before it."""
    layers, ends = [], []
    block, convolution, view, stride, channels = 1, 0, 1, 1, 0
    for index, module in enumerate(features):
        if isinstance(module, nn.Conv2d):
            convolution += 1
            view += 2 * stride
            channels = module.out_channels
        elif isinstance(module, nn.MaxPool2d):
            layers.append(Layer(f"relu{block}_{convolution}", channels, stride, view, (stride - 1) / 2))
            ends.append(index - 1)
            view, stride = view + stride, stride * 2
            block, convolution = block + 1, 0
    return layers, ends
