"""Write MIND-SSC as a TorchScript extractor with the public interface: `python benchmarks/mind_torchscript.py OUT.pt`.

itk-impact takes its features from such a file; this one is the descriptor that our own default uses.
"""

from __future__ import annotations

import sys
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional

from sctlab.features import MindSSC


class ScriptedMind(nn.Module):
    """3D MIND-SSC of radius 1 and dilation 2."""

    def __init__(self) -> None:
        super().__init__()
        kernel = torch.zeros(12, 1, 5, 5, 5)
        for channel, (first, second) in enumerate(MindSSC(3).pairs):
            kernel[(channel, 0, *(2 + 2 * v for v in first))] += 1
            kernel[(channel, 0, *(2 + 2 * v for v in second))] -= 1
        self.register_buffer("kernel", kernel)

    def forward(self, x: Tensor, nb_layers: Tensor, stats: Tensor, direction: Tensor) -> list[Tensor]:
        """Features of [B, 1, z, y, x]."""
        low, high = x.min(), x.max()
        if stats.numel() == 4:
            low, high = stats[0], stats[1]
        x = (x - low) / torch.clamp(high - low, min=1e-6)
        difference = functional.conv3d(functional.pad(x, [2, 2, 2, 2, 2, 2], mode="replicate"), self.kernel)
        padded = functional.pad(difference * difference, [1, 1, 1, 1, 1, 1], mode="replicate")
        distance = functional.avg_pool3d(padded, 3, stride=1)
        distance = distance - distance.min(1, keepdim=True)[0]
        variance = distance.mean(1, keepdim=True)
        typical = float(variance.mean())
        return [torch.exp(-distance / variance.clamp(typical * 0.001 + 1e-12, typical * 1000 + 1e-12))]


def main(path: str) -> None:
    """Script the model, check it against our own and save it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.jit.script(ScriptedMind())
    x = torch.rand(1, 1, 20, 21, 22)
    empty = torch.empty(0)
    torch.testing.assert_close(model(x, torch.tensor([1]), empty, empty)[0], MindSSC()(x)[0], rtol=1e-4, atol=1e-4)
    model.save(path)


if __name__ == "__main__":
    main(sys.argv[1])
