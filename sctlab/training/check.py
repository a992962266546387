"""What can't be built is refused before hours of preparation."""

from __future__ import annotations

from sctlab.training.objectives import build_objective
from sctlab.training.plan import TrainingPlan
from sctlab.training.start import first_weights
from sctlab_model.errors import InputError
from sctlab_model.network import build_network


def check_plan(plan: TrainingPlan) -> None:
    """Build a plan's networks and losses once.

    Raises:
        InputError: An unknown encoder or extractor, a layer that it hasn't got, a 3D extractor without slabs, two
            terms of one name, or a bundle to start from that doesn't fit.
        WeightsError: The extractor's weights, or the bundle to start from, aren't here.
    """
    network = plan.recipe.network
    try:
        build_network(network)  # with its numbers: some encoders can't be built without
    except Exception as error:  # every library below has exceptions of its own
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise InputError(
            "recipe.network",
            found=f"{network!r} can't be built ({reason})",
            expected="a network that its library can build, e.g. an encoder of segmentation_models_pytorch",
        ) from error
    build_objective(plan)
    for stage in plan.stages:
        if stage.start_bundle is not None:
            first_weights(plan, stage, 0)
