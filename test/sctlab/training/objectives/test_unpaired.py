"""What the terms of the unpaired and the registration-aware objectives pull at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from scipy import ndimage
from torch import Tensor

from sctlab.training.batch import Batch
from sctlab.training.objectives import Objective, build_objective
from sctlab.training.objectives.base import GENERATOR
from sctlab.training.objectives.networks import (
    PatchDiscriminator,
    RegistrationNetwork,
    is_fake,
    is_real,
    roughness,
    shared_shift,
    untracked,
    warp,
)
from sctlab.training.plan import TrainingPlan
from sctlab_model.errors import InputError

SMALL = {"channels": 4, "layers": 1}


def blobs(seed: int = 0, count: int = 2, size: int = 64) -> Tensor:
    """[count, 1, size, size] in [-1, 1], with edges."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(count, size, size)), (0, 4, 4))
    return torch.from_numpy(np.tanh(8 * field / field.std()).astype(np.float32) * 0.8)[:, None]


def attached(make_plan: Callable[..., TrainingPlan], **objective: object) -> Objective:
    torch.manual_seed(0)
    built = build_objective(make_plan(objective=objective, losses=()))
    built.attach(Fabric(accelerator="cpu", devices=1))
    for network in built.networks.values():
        network.train()
    return built


def batch_of(source: Tensor, target: Tensor) -> Batch:
    mask = torch.ones_like(target, dtype=torch.bool)
    return Batch(source.expand(-1, 3, -1, -1).contiguous(), target, mask, mask.clone())


def test_the_contrast_is_low_for_the_same_places_only(make_plan) -> None:
    objective = attached(make_plan, kind="cut", patches=64, projection=32, discriminator=SMALL)
    image = blobs()
    mask = torch.ones_like(image, dtype=torch.bool)
    torch.manual_seed(1)
    same = float(objective._contrast(image, image, mask))
    shifted = float(objective._contrast(image, torch.roll(image, 16, dims=-1), mask))
    assert same < 0.9 * shifted
    assert same < np.log(64)  # less than guessing


def test_places_are_drawn_in_the_body(make_plan) -> None:
    objective = attached(make_plan, kind="cut", patches=100, discriminator=SMALL)
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    mask[..., 20:40, 20:40] = True
    places = objective._places(mask, torch.zeros(1, 8, 64, 64))[0]
    rows, columns = places // 64, places % 64
    inside = ((rows >= 20) & (rows < 40) & (columns >= 20) & (columns < 40)).float().mean()
    assert inside > 0.95
    assert len(set(places.tolist())) == 100


def test_what_inference_never_sees_leaves_no_trace_in_the_batch_norms(make_plan) -> None:
    """After a step the running statistics are those of one pass over the sources."""
    for kind in ("cut", "cyclegan"):
        objective = attached(make_plan, kind=kind, discriminator=SMALL)
        other = attached(make_plan, kind=kind, discriminator=SMALL)
        batch = batch_of(blobs(1), blobs(2))
        objective.step(batch)
        with torch.no_grad():
            other.networks[GENERATOR](batch.source)
        statistics = {k: v for k, v in objective.networks[GENERATOR].state_dict().items() if "running" in k}
        wanted = other.networks[GENERATOR].state_dict()
        assert statistics
        for key, value in statistics.items():
            torch.testing.assert_close(value, wanted[key], atol=1e-6, rtol=1e-5, msg=f"{kind} {key}")


def test_untracked_leaves_frozen_norms_frozen() -> None:
    norm = torch.nn.BatchNorm2d(2).eval()
    x = torch.randn(3, 2, 4, 4) * 5
    with untracked(norm):
        torch.testing.assert_close(norm(x), x, atol=1e-3, rtol=1e-3)
    assert norm.track_running_stats


def test_the_structure_term_sees_anatomy_and_not_contrast(make_plan) -> None:
    objective = attached(make_plan, kind="cyclegan", discriminator=SMALL)
    image = blobs()
    mask = torch.ones_like(image, dtype=torch.bool)
    inverted = float(objective._structure(-0.7 * image, image, mask))
    moved = float(objective._structure(torch.roll(image, 6, dims=-1), image, mask))
    assert inverted < 0.2 * moved
    assert float(objective._structure(image, image, mask)) == 0
    outside = torch.zeros_like(mask)
    assert float(objective._structure(torch.roll(image, 6, dims=-1), image, outside)) == 0


def test_layers_that_the_encoder_lacks_are_refused(make_plan) -> None:
    with pytest.raises(InputError, match="layer 9"):
        build_objective(make_plan(objective={"kind": "cut", "layers": (0, 9)}, losses=()))


def test_warp_moves_by_pixels() -> None:
    image = blobs()
    displacement = torch.zeros(2, 2, 64, 64)
    assert torch.allclose(warp(image, displacement), image, atol=1e-5)
    displacement[:, 0], displacement[:, 1] = 3, -2  # the value comes from 3 to the right and 2 above
    moved = warp(image, displacement)
    torch.testing.assert_close(moved[..., 8:-8, 8:-8], image[..., 6:-10, 11:-5], atol=1e-5, rtol=1e-4)


def test_roughness_is_the_mean_squared_difference_of_neighbours() -> None:
    ramp = torch.zeros(1, 2, 4, 5)
    ramp[:, 0] = 2 * torch.arange(5.0)
    assert float(roughness(ramp)) == pytest.approx(2)  # 4 along x in one of two components
    assert float(roughness(torch.ones(1, 2, 4, 5))) == 0


def test_the_registration_network_learns_a_shift() -> None:
    torch.manual_seed(0)
    network = RegistrationNetwork(8, depth=3)
    moving = blobs(3, 4, 48)
    fixed = torch.roll(moving, 3, dims=-1)
    assert float(network(moving, fixed).abs().max()) == 0  # it begins at zero
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    first = None
    for _ in range(120):
        displacement = network(moving, fixed)
        loss = (warp(moving, displacement) - fixed).abs().mean() + 0.01 * roughness(displacement)
        first = first or float(loss)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss) < 0.5 * first
    assert float(displacement[:, 0, 8:-8, 8:-8].median()) == pytest.approx(-3, abs=1)


def test_what_is_misaligned_pulls_less_at_the_generator_of_reggan(make_plan) -> None:
    """With the right displacement nothing pulls; the plain L1 pulls everywhere along the edges."""
    plan = make_plan(objective={"kind": "reggan", "discriminator": SMALL}, losses=({"kind": "l1"},))
    objective = build_objective(plan)
    image = blobs()
    batch = batch_of(image, torch.roll(image, 3, dims=-1))
    shift = torch.zeros(2, 2, 64, 64)
    shift[:, 0] = -3
    inner = torch.zeros_like(batch.mask)
    inner[..., 4:-4] = True
    batch = Batch(batch.source, torch.where(inner, batch.target, torch.nan), batch.mask, batch.source_mask)
    moved, _ = objective.loss(warp(image, shift), batch)
    plain, _ = objective.loss(image, batch)
    assert float(moved) < 1e-4 < float(plain)


def test_only_what_the_bodies_of_a_batch_share_is_a_drift() -> None:
    apart = torch.zeros(2, 2, 6, 6)
    apart[0, 0], apart[1, 0] = 3.0, -3.0
    body = torch.zeros(2, 1, 6, 6, dtype=torch.bool)
    body[..., :3] = True
    assert shared_shift(apart, body).tolist() == [0, 0]
    together = torch.full((2, 2, 6, 6), 2.0)
    together[..., 3:] = 50.0  # of air, where nobody sees it
    assert shared_shift(together, body).tolist() == [2, 2]
    assert shared_shift(together, torch.zeros_like(body)).tolist() == [0, 0]


def test_a_drift_that_all_pairs_share_is_pulled_back_where_the_plan_says_so(make_plan) -> None:
    """Kong et al. say nothing of it: at weight 0 the step is theirs."""

    def stepped(weight: float) -> tuple[float, float, float]:
        torch.manual_seed(0)
        own = {"kind": "reggan", "channels": 4, "drift_weight": weight, "discriminator": SMALL}
        objective = build_objective(make_plan(objective=own, losses=({"kind": "l1"},)))
        bias = objective.networks["registration"].last.bias
        with torch.no_grad():
            bias.copy_(torch.tensor([0.0, 1.5]))
        objective.attach(Fabric(accelerator="cpu", devices=1))
        logs = objective.step(batch_of(blobs(), torch.zeros(2, 1, 64, 64)))
        return float(logs["loss"]), float(logs["drift_pixels"]), float(bias.grad[1])

    (free, drift, pull), (held, same, more) = stepped(0.0), stepped(10.0)
    assert drift == same == pytest.approx(1.5, abs=0.01)
    assert held - free == pytest.approx(10 * drift**2, rel=1e-3)
    assert more - pull == pytest.approx(2 * 10 * drift, rel=1e-2)


def test_the_patch_discriminator_of_the_papers() -> None:
    """C64-C128-C256-C512, whose patches are 70 x 70 pixels; the paper's 2,762,689 parameters less biases before norms."""
    network = PatchDiscriminator(64, 3)
    assert sum(p.numel() for p in network.parameters()) == 2_762_689 - (128 + 256 + 512)
    x = torch.zeros(1, 1, 128, 128, requires_grad=True)
    plain = torch.nn.Sequential(*(m for m in network.layers if not isinstance(m, torch.nn.InstanceNorm2d)))
    verdict = plain(x + 0.1)
    (gradient,) = torch.autograd.grad(verdict[0, 0, 7, 7], x)
    rows = torch.nonzero(gradient[0, 0].abs().sum(1)).flatten()
    assert rows.max() - rows.min() + 1 == 70
    assert float(is_real(torch.ones(2))) == 0 == float(is_fake(torch.zeros(2)))
