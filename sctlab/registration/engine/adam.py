"""Adam for one tensor."""

from __future__ import annotations

import torch
from torch import Tensor


class Adam:
    """Adam (Kingma and Ba, 2015) on a leaf tensor.

    `torch.optim` is not used here because building any of its optimisers imports torch's compiler, which takes
    longer than a whole registration stage.

    Args:
        parameters: The leaf; changed in place.
        betas: Decay of the running mean and of the running square of the gradient.
    """

    def __init__(self, parameters: Tensor, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        self.parameters, self.betas, self.steps = parameters, betas, 0
        self.mean, self.square = torch.zeros_like(parameters), torch.zeros_like(parameters)

    def step(self, rate: float) -> None:
        """Follow the gradient of the parameters by about `rate`, and clear it."""
        gradient = self.parameters.grad
        assert gradient is not None, "backward() comes before a step"
        first, second = self.betas
        self.steps += 1
        with torch.no_grad():
            self.mean.lerp_(gradient, 1 - first)
            self.square.lerp_(gradient.square(), 1 - second)
            mean = self.mean / (1 - first**self.steps)
            deviation = (self.square / (1 - second**self.steps)).sqrt()
            self.parameters -= rate * mean / (deviation + 1e-8)
        self.parameters.grad = None
