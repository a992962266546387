"""The protocol of an objective, and its registry.

An objective owns its networks and its optimisers and does one step on a batch. The trainer knows none of them by name:
it places them on devices, sets learning rates, averages weights, validates, logs and keeps everything in checkpoints.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from sctlab.training.objective_settings import ObjectiveSettings, announce, settings_types
from sctlab_model.network import build_network
from sctlab_model.network.base import SynthesisNetwork

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from sctlab.training.batch import Batch
    from sctlab.training.plan import Optimiser, TrainingPlan

GENERATOR = "generator"  # the network that validates and goes into a bundle


class Objective(ABC):
    """What is learnt and how.

    Attributes:
        networks: Trained networks by name; `generator` is the one that goes into a bundle.
        losses: Frozen parts (losses with extractors), placed on the device but not trained or saved.
        optimisers: By name. The plan's learning rate and schedule hold for all: an optimiser that begins at another
            rate keeps its ratio to the plan's.

    Args:
        plan: The resolved plan; `plan.objective` has the objective's own settings.
    """

    settings: ClassVar[type[ObjectiveSettings]]
    # Nothing but the generator sees the source, which casts it to the plan's precision anyway: the loader may do it.
    source_for_generator_only: ClassVar[bool] = False

    def __init__(self, plan: TrainingPlan) -> None:
        self.plan = plan
        self.networks: dict[str, nn.Module] = {GENERATOR: new_generator(plan)}
        self.losses: dict[str, nn.Module] = {}
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        self.models: dict[str, Any] = {}  # the networks as they are called: compiled, where the plan says so
        self._fabric: Fabric | None = None
        self._stepped: dict[str, Any] = {}

    @abstractmethod
    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One step on a batch: every optimiser's update, by `update`.

        Returns:
            Numbers for the log, on the device and without gradient; `loss` must be among them and is watched for NaN.
        """

    def describe(self) -> list[dict[str, object]]:
        """What the run's record keeps about frozen extractors and the like."""
        return []

    # --- what steps use ------------------------------------------------------------------------------------------

    def autocast(self) -> AbstractContextManager[Any]:
        """The plan's precision."""
        assert self._fabric is not None
        return self._fabric.autocast()

    def update(self, name: str, loss: Tensor) -> None:
        """Gradients of `loss`, averaged over processes and clipped as the plan says, and one step of an optimiser.

        Gradients that other losses left in the optimiser's parameters are dropped before.
        """
        assert self._fabric is not None
        optimiser = self._stepped[name]
        optimiser.zero_grad()
        self._fabric.backward(loss)
        if self._fabric.world_size > 1:
            _average_gradients(parameters_of(optimiser), self._fabric.world_size)
        if self.plan.optimiser.clip_norm is not None:
            self._fabric.clip_gradients(
                self.networks[GENERATOR], optimiser, max_norm=self.plan.optimiser.clip_norm, error_if_nonfinite=False
            )
        optimiser.step()

    # --- what the trainer uses -----------------------------------------------------------------------------------

    @property
    def source_type(self) -> torch.dtype:
        """The smallest type of the batches' source that changes no bit of a step."""
        mixed = {"bf16": torch.bfloat16, "16": torch.float16}
        return (
            mixed.get(self.plan.computing.precision, torch.float32) if self.source_for_generator_only else torch.float32
        )

    def attach(self, fabric: Fabric) -> None:
        """Place networks, losses and optimisers on the devices; called once, before the first step."""
        computing = self.plan.computing
        for name, network in self.networks.items():
            if computing.batch_norm == "synchronised" and fabric.world_size > 1:
                from timm.layers import convert_sync_batchnorm  # torch's own would drop timm's fused activations

                network = convert_sync_batchnorm(network)
            own_layout = network.memory_format if isinstance(network, SynthesisNetwork) else torch.channels_last
            layout = own_layout if computing.channels_last else torch.contiguous_format
            network.to(fabric.device).to(memory_format=layout)
            self.networks[name] = network
            self.models[name] = torch.compile(network) if computing.compile else network
        for module in self.losses.values():
            module.to(fabric.device)
        self._stepped = {name: fabric.setup_optimizers(o) for name, o in self.optimisers.items()}
        self._fabric = fabric


Registered = TypeVar("Registered", bound=type[Objective])
_REGISTRY: dict[type[ObjectiveSettings], type[Objective]] = {}


def register(objective: Registered) -> Registered:
    """Class decorator: make an objective known by its settings' `kind`.

    Raises:
        TypeError: It says itself where targets come from, which a plan asks its settings.
    """
    if "pairing" in vars(objective):
        raise TypeError(f"{objective.__name__}.pairing belongs to {objective.settings.__name__}")
    _REGISTRY[objective.settings] = objective
    announce(objective.settings)
    return objective


def objective_type(settings: ObjectiveSettings) -> type[Objective]:
    """The objective of some settings: each module of this package is imported for it."""
    package = importlib.import_module("sctlab.training.objectives")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return _REGISTRY[type(settings)]


def build_objective(plan: TrainingPlan) -> Objective:
    """The objective of a plan, with fresh networks.

    Raises:
        InputError: Something in it can't be built: an unknown extractor, a layer that it hasn't got, …
    """
    return objective_type(plan.objective)(plan)


def new_generator(plan: TrainingPlan) -> SynthesisNetwork:
    """The recipe's network, whose first prediction is 0 HU."""
    network = build_network(plan.recipe.network)
    network.start_at(0, plan.recipe.target_range_hu)
    return network


def adamw(networks: Sequence[nn.Module], optimiser: Optimiser, *, fused: bool = False) -> torch.optim.AdamW:
    """AdamW over the parameters of some networks."""
    return torch.optim.AdamW(
        [p for network in networks for p in network.parameters()],
        lr=optimiser.learning_rate,
        betas=optimiser.betas,
        weight_decay=optimiser.weight_decay,
        fused=fused or None,
    )


def parameters_of(optimiser: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Every parameter that an optimiser moves."""
    return [p for group in optimiser.param_groups for p in group["params"]]


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """No gradient to the weights of some networks in the block; gradients still flow through them."""
    parameters = [p for network in networks for p in network.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _average_gradients(parameters: Sequence[nn.Parameter], world: int) -> None:
    """The mean of the processes' gradients in each of them, in one exchange."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    flat = torch.cat([g.flatten() for g in gradients])
    torch.distributed.all_reduce(flat)
    flat /= world
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


__all__ = [
    "GENERATOR",
    "Objective",
    "ObjectiveSettings",
    "adamw",
    "build_objective",
    "frozen",
    "register",
    "settings_types",
]
