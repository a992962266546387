"""Networks that only training needs: a patch discriminator, projectors of features, a small registration network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


class PatchDiscriminator(nn.Module):
    """[N, 1, y, x] → one number per overlapping patch; instance norm, so that samples don't see each other."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        widths = [channels * min(2**k, 8) for k in range(layers + 1)]
        modules: list[nn.Module] = [nn.Conv2d(1, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for index, (narrow, wide) in enumerate(pairwise(widths)):
            stride = 2 if index < layers - 1 else 1
            # A bias before a norm changes nothing; its gradient is rounding, which Adam would make steps of.
            convolution = nn.Conv2d(narrow, wide, 4, stride, 1, bias=False)
            modules += [convolution, nn.InstanceNorm2d(wide), nn.LeakyReLU(0.2)]
        modules.append(nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.layers = nn.Sequential(*modules)

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


def is_real(verdict: Tensor) -> Tensor:
    """Least-squares GAN (Mao et al. 2017): mean squared distance of a discriminator's verdict to 1."""
    return (verdict.float() - 1).square().mean()


def is_fake(verdict: Tensor) -> Tensor:
    """Mean squared distance of a discriminator's verdict to 0."""
    return verdict.float().square().mean()


def discriminator_loss(discriminator: nn.Module, real: Tensor, fake: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Half the sum of both (the discriminator learns at half the generator's pace), and its mean verdicts."""
    on_real, on_fake = discriminator(real), discriminator(fake.detach())
    verdicts = {"verdict_real": on_real.float().mean().detach(), "verdict_fake": on_fake.float().mean().detach()}
    return 0.5 * (is_real(on_real) + is_fake(on_fake)), verdicts


class Projectors(nn.Module):
    """Two-layer perceptrons that bring features of each layer to one space, onto the unit sphere (Park et al. 2020).

    Args:
        channels: Of each layer.
        width: Of the space.
    """

    def __init__(self, channels: Sequence[int], width: int = 256) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(c, width), nn.ReLU(), nn.Linear(width, width)) for c in channels
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[N, S, channels] of each layer → [N, S, width]."""
        return [functional.normalize(layer(f).float(), dim=-1) for layer, f in zip(self.layers, features, strict=True)]


class RegistrationNetwork(nn.Module):
    """A small U-Net: two images on one grid → displacements in pixels, [N, 2, y, x] (x first). It begins at zero.

    Args:
        channels: Of the finest stage; they double at each of `depth` halvings.
    """

    def __init__(self, channels: int = 16, depth: int = 4) -> None:
        super().__init__()
        widths = [channels * 2**k for k in range(depth + 1)]
        self.first = _convolutions(2, widths[0])
        self.down = nn.ModuleList(_convolutions(a, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_convolutions(a + b, b) for a, b in pairwise(widths[::-1]))
        self.last = nn.Conv2d(widths[0], 2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        x = self.first(torch.cat((moving, fixed), dim=1))
        skips = []
        for stage in self.down:
            skips.append(x)
            x = stage(functional.avg_pool2d(x, 2))
        for stage, skip in zip(self.up, reversed(skips), strict=True):
            x = functional.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=False)
            x = stage(torch.cat((x, skip), dim=1))
        return self.last(x)


def _convolutions(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),  # the norm has one
        nn.InstanceNorm2d(width, affine=True),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, width, 3, padding=1),
        nn.LeakyReLU(0.2),
    )


def warp(image: Tensor, displacement: Tensor) -> Tensor:
    """`image` [N, C, y, x] at each pixel plus its displacement (pixels, x first), linear; edges are repeated."""
    height, width = image.shape[2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=image.device, dtype=torch.float32),
        torch.arange(width, device=image.device, dtype=torch.float32),
        indexing="ij",
    )
    places = torch.stack((x, y)) + displacement.float()
    scale = torch.tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)], device=image.device)
    grid = places.permute(0, 2, 3, 1) * scale - 1
    return functional.grid_sample(image.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)


def roughness(displacement: Tensor) -> Tensor:
    """Mean squared difference between neighbouring displacements, along both axes."""
    d = displacement.float()
    return d.diff(dim=2).square().mean() + d.diff(dim=3).square().mean()


def shared_shift(displacement: Tensor, mask: Tensor) -> Tensor:
    """Mean displacement (x, y; pixels) over the bodies of a batch: [N, 2, y, x] and bool [N, 1, y, x] → [2]; zero without a body."""
    inside = mask.to(torch.float32)
    return (displacement.float() * inside).sum(dim=(0, 2, 3)) / inside.sum().clamp(min=1)


def stacked(image: Tensor, slices: int) -> Tensor:
    """One slice [N, 1, y, x] as a stack of equal ones: what a 2.5D network is given where no neighbours are known."""
    return image.expand(-1, slices, -1, -1)


def middle(stacks: Tensor) -> Tensor:
    """The middle slice of stacks, [N, 1, y, x]."""
    index = stacks.shape[1] // 2
    return stacks[:, index : index + 1]


@contextmanager
def untracked(network: nn.Module) -> Iterator[None]:
    """Batch norms use the batch's statistics and don't remember them: for inputs that inference never sees, such as
    CTs or stacks of equal slices."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = not norm.training  # frozen ones keep theirs
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
