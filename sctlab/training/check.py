"""What can't be built is refused before hours of preparation."""

from __future__ import annotations

import torch

from sctlab.training.objectives import build_objective
from sctlab.training.plan import TrainingPlan
from sctlab.training.start import first_weights
from sctlab_model.errors import InputError
from sctlab_model.network import build_network
from sctlab_model.network.base import SynthesisNetwork

SMALLEST = 64  # a plane that every architecture can halve often enough, with more than one value left for its norms


def check_plan(plan: TrainingPlan) -> None:
    """Build a plan's networks and losses once, and let the network see a plane.

    Raises:
        InputError: An unknown encoder or extractor, a layer that it hasn't got, a 3D extractor without slabs, two
            terms of one name, planes or a batch that the network can't take, or a bundle to start from that doesn't fit.
        WeightsError: The extractor's weights, or the bundle to start from, aren't here.
    """
    network = plan.recipe.network
    try:
        built = build_network(network)  # with its numbers: some encoders can't be built without
    except Exception as error:  # every library below has exceptions of its own
        raise InputError(
            "recipe.network",
            found=f"{network!r} can't be built ({_first_line(error)})",
            expected="a network that its library can build, e.g. an encoder of segmentation_models_pytorch",
        ) from error
    _try_planes(built, plan)
    build_objective(plan)
    for stage in plan.stages:
        if stage.start_bundle is not None:
            first_weights(plan, stage, 0)


@torch.no_grad()
def _try_planes(network: SynthesisNetwork, plan: TrainingPlan) -> None:
    """Planes as validation and inference will show them, and a batch of one slice if that is the plan's.

    Raises:
        InputError: The network refuses one.
    """
    multiple = plan.recipe.canvas.multiple
    count = -(-SMALLEST // multiple)
    side = multiple * (count + 1 - count % 2)  # an odd number of times, as a canvas may be
    try:
        network.eval()(torch.zeros(1, plan.recipe.network.slices, side, side))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            "recipe.canvas.multiple",
            found=f"{multiple}, and the network can't take a plane of {side} x {side} ({_first_line(error)})",
            expected="a multiple of its stride, e.g. 32",
        ) from error
    if plan.patch.batch > 1:
        return
    try:
        network.train()(torch.zeros(1, plan.recipe.network.slices, *plan.patch.size_yx))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            "patch.batch",
            found=f"1, and the network can't learn from one patch of {plan.patch.size_yx} ({_first_line(error)})",
            expected="a batch of 2 at least, or larger patches",
        ) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__
