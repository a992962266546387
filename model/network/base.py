"""The one door to a network: what training, inference, import and export may know of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from sctlab_model.window import Window


class SynthesisNetwork(nn.Module, ABC):
    """Adjacent slices in, the middle slice out.

    A subclass names its parts, which are run one after the other, and the last bias of its head. Input
    [N, slices, Y, X], output [N, 1, Y, X] in [-1, 1]; Y and X are multiples of the recipe's `canvas.multiple`.
    """

    memory_format: ClassVar[torch.memory_format] = torch.channels_last
    half_parts: ClassVar[tuple[str, ...]] = ()
    """Parts that an fp16 file runs in half precision; chosen by measurement, for the rest costs accuracy."""

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, nn.Module]:
        """The network's parts in the order in which they run; what one returns, the next one takes."""

    @property
    @abstractmethod
    def head_bias(self) -> nn.Parameter:
        """The bias that is added to the last convolution's result, before tanh."""

    def prepare_stacks(self, stacks: torch.Tensor) -> torch.Tensor:
        """Stacks [N, slices, Y, X] as the first part takes them."""
        return stacks

    def middle_slice(self, values: torch.Tensor) -> torch.Tensor:
        """The last part's result as [N, 1, Y, X]."""
        return values

    def logits(self, stacks: torch.Tensor) -> torch.Tensor:
        """The result before tanh, [N, 1, Y, X]; in the type of the weights."""
        values = self.prepare_stacks(stacks)
        for part in self.parts.values():
            values = part(values)
        return self.middle_slice(values)

    def logits_in(self, stacks: torch.Tensor, window: Window) -> torch.Tensor:
        """The part of `logits` that lies in a window of the plane, [N, 1, y, x]."""
        return self.logits(stacks)[window.part]

    def prepare_inference(self) -> None:
        """Rearrange the weights for less work, in place, where an architecture knows how; batch norms were folded. The
        function stays the same but for rounding, the state's names don't."""

    def forward(self, stacks: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.logits(stacks))

    def start_at(self, hu: float, target_range_hu: tuple[float, float] = (-1024.0, 3071.0)) -> None:
        """Set the head's bias so that an untrained network answers about `hu`.

        A fresh head answers the middle of the range, 1023 HU; hundreds of steps go by until it reaches tissue.
        """
        low, high = target_range_hu
        with torch.no_grad():
            # In float32, as training has always done: a seed gives the same network bit by bit.
            unit = (np.float32(hu) - np.float32(low)) * np.float32(2 / (high - low)) - np.float32(1)
            self.head_bias.fill_(float(np.arctanh(unit)))
