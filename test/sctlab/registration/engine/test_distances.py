"""Mutual information and feature distances: values, gradients, masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sctlab.registration.engine.distances import DISTANCES
from sctlab.registration.engine.terms.information import mutual_information, parzen_histogram


def samples(count: int = 4000, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Fixed values in [0, 1] and moving values that follow them through a non-monotonic curve."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.rand(count, generator=generator)
    return fixed, (0.5 + 0.4 * torch.sin(6 * fixed) + 0.02 * torch.randn(count, generator=generator)).clamp(0, 1)


class TestMutualInformation:
    def test_agrees_with_numpy_where_both_are_discrete(self) -> None:
        generator = torch.Generator().manual_seed(0)
        fixed = torch.randint(0, 4, (20000,), generator=generator)
        moving = torch.where(torch.rand(20000, generator=generator) < 0.7, (fixed + 1) % 4, torch.tensor(2))
        counts = np.histogram2d(fixed, moving, bins=4)[0] / 20000
        outer = counts.sum(1, keepdims=True) @ counts.sum(0, keepdims=True)
        expected = (counts[counts > 0] * np.log(counts[counts > 0] / outer[counts > 0])).sum()
        found = mutual_information(fixed / 3, moving / 3, bins=64)  # the window is far narrower than the steps
        assert float(found) == pytest.approx(expected, abs=0.02)

    def test_is_high_for_a_relation_and_low_without_one(self) -> None:
        fixed, moving = samples()
        related = mutual_information(fixed, moving)
        unrelated = mutual_information(
            fixed, moving[torch.randperm(len(moving), generator=torch.Generator().manual_seed(1))]
        )
        assert related > 1.0 > 0.2 > unrelated

    def test_gradient(self) -> None:
        fixed, moving = samples(60)
        moving = moving.double().requires_grad_()
        assert torch.autograd.gradcheck(lambda m: mutual_information(fixed, m, bins=16), (moving,), atol=1e-4)

    def test_chunks_give_the_same_histogram(self) -> None:
        fixed, moving = samples(1000)
        whole, parts = parzen_histogram(fixed, moving), parzen_histogram(fixed, moving, chunk=77)
        torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-4)
        assert float(whole.sum()) == pytest.approx(1000, rel=1e-5)

    def test_samples_of_weight_zero_do_not_count(self) -> None:
        fixed, moving = samples(2000)
        spoiled = moving.clone()
        spoiled[1000:] = 0.3
        weights = (torch.arange(2000) < 1000).float()
        torch.testing.assert_close(
            mutual_information(fixed, spoiled, weights), mutual_information(fixed[:1000], moving[:1000])
        )


@pytest.mark.parametrize("name", DISTANCES)
class TestDistances:
    def test_best_where_the_features_agree(self, name: str) -> None:
        generator = torch.Generator().manual_seed(0)
        fixed = torch.rand(6, 500, generator=generator).round()
        other = fixed[:, torch.randperm(500, generator=generator)]
        assert DISTANCES[name](fixed, fixed, None) < DISTANCES[name](fixed, other, None)

    def test_gradient(self, name: str) -> None:
        generator = torch.Generator().manual_seed(0)
        fixed = torch.rand(3, 12, generator=generator, dtype=torch.float64)
        moving = (fixed + 0.2 + 0.3 * torch.rand(3, 12, generator=generator, dtype=torch.float64)).requires_grad_()
        weights = torch.rand(12, generator=generator, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda m: DISTANCES[name](fixed, m, weights), (moving,))

    def test_samples_of_weight_zero_do_not_count(self, name: str) -> None:
        generator = torch.Generator().manual_seed(0)
        fixed, moving = torch.rand(4, 20, generator=generator), torch.rand(4, 20, generator=generator)
        weights = (torch.arange(20) < 12).float()
        moving_spoiled = moving.clone()
        moving_spoiled[:, 12:] = 0.9
        expected = DISTANCES[name](fixed[:, :12], moving[:, :12], None)
        torch.testing.assert_close(DISTANCES[name](fixed, moving_spoiled, weights), expected, rtol=1e-4, atol=1e-5)
