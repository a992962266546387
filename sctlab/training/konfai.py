"""Checkpoints of the reference implementation (KonfAI) as a bundle, read without executing anything in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sctlab.features.checkpoints import Inert, read_pickled
from sctlab.training.card import model_card
from sctlab.training.pack import CARD, INTENDED_USE
from sctlab.training.plan import load_plan
from sctlab.weights.apps import CHECKPOINT, app_checkpoints, check_checkpoint
from sctlab.workflow.locking import one_at_a_time
from sctlab_model.bundle import (
    MANIFEST,
    Bundle,
    Fold,
    RegionGroup,
    Registration,
    StorageType,
    read_bundle,
    save_fold,
    write_bundle,
)
from sctlab_model.cases import Region, Task
from sctlab_model.errors import InputError, WeightsError
from sctlab_model.io.atomic import added_files, write_text
from sctlab_model.network import build_network
from sctlab_model.network.base import SynthesisNetwork
from sctlab_model.recipe import Recipe
from sctlab_model.revision import describe_software

PARTS = ("encoder", "decoder", "segmentation_head")  # of segmentation_models_pytorch
BESIDE = ("ema", "optim")  # what stands beside the live weights in a checkpoint, by parts of its names
DEEPEST = 4  # mappings within mappings


def read_konfai(path: Path) -> dict[str, Tensor]:
    """Weights of the `smp.UnetPlusPlus` inside a KonfAI checkpoint, under that library's own names.

    The network of the challenge is this one followed by tanh. The live weights (`Model`) are read, as the
    reference's own prediction does; a moving average beside them is left alone. Flat checkpoints (the tensors
    themselves, with or without `Model` around them) are read too, and objects of KonfAI's classes in the file, such
    as the `ModelPatch` of the published models, are passed over.

    Raises:
        WeightsError: Not a checkpoint, objects other than tensors and numbers in it, or another network.
    """
    check_checkpoint(path)
    state = read_pickled(path, CHECKPOINT, inert="konfai")
    networks = _networks(state)
    if networks is None:
        raise WeightsError(path, found=_without_network(state), expected="a checkpoint of KonfAI's trainer")
    found: dict[str, dict[str, Tensor]] = {}
    for network, tensors in networks.items():
        for key, value in tensors.items():
            pieces = str(key).split(".")
            first = next((i for i, piece in enumerate(pieces) if piece in PARTS), None)
            if isinstance(value, Inert):
                continue
            if first is None or not isinstance(value, Tensor):
                raise WeightsError(
                    path,
                    found=f"a weight named {network}/{key}",
                    expected="those of smp.UnetPlusPlus: " + ", ".join(f"{p}.…" for p in PARTS),
                )
            prefix = f"{network}/{'.'.join(pieces[:first])}"
            found.setdefault(prefix, {})[".".join(pieces[first:])] = _plain(value, pieces[-1], f"{network}/{key}", path)
    if len(found) != 1:
        raise WeightsError(
            path, found=f"{len(found)} networks ({', '.join(found) or 'none'})", expected="one smp.UnetPlusPlus"
        )
    return next(iter(found.values()))


def _plain(value: Tensor, kind: str, name: str, path: Path) -> Tensor:
    """A weight as a tensor of its own, float32; counters as they are.

    Raises:
        WeightsError: Anything that a network would compute other things with, or nothing.
    """
    counter = kind == "num_batches_tracked"
    wrong = ""
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        wrong = f"a {'meta' if value.is_meta else 'quantised' if value.is_quantized else 'sparse'} tensor"
    elif value.is_complex() or not (value.is_floating_point() or counter):
        wrong = f"{str(value.dtype).removeprefix('torch.')} values"
    if not wrong:
        value = value.detach().float().clone() if value.is_floating_point() else value.detach().clone()
        if not value.isfinite().all():
            wrong = "values that are not finite"
        elif kind == "running_var" and (value < 0).any():
            wrong = "a negative variance"
    if wrong:
        raise WeightsError(path, found=f"{wrong} in {name}", expected="plain floating-point numbers")
    return value


def _networks(state: Any) -> Mapping[str, Any] | None:
    """Network name → tensors: those under `Model`, however deep it or they lie, or the tensors of a flat checkpoint; None
    where there are neither. Moving averages and optimisers are beside the point."""
    if not isinstance(state, Mapping):
        return None
    model = next((node["Model"] for _, node in _mappings(state) if "Model" in node), None)
    if model is None:
        flat = {k: v for k, v in state.items() if isinstance(v, Tensor)}
        return {"checkpoint": flat} if flat else None
    if not isinstance(model, Mapping):
        return None
    # With what else is among a network's own tensors, which is refused.
    holders = ((path, node) for path, node in _mappings(model) if any(isinstance(v, Tensor) for v in node.values()))
    return {"/".join(path) or "checkpoint": node for path, node in holders}


def _mappings(
    node: Mapping[Any, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """A mapping and those within it, outside first, by their path of names; none of what stands beside live weights."""
    yield path, node
    if len(path) < DEEPEST and not any(isinstance(value, Tensor) for value in node.values()):
        for name, value in node.items():
            if isinstance(value, Mapping) and not any(word in str(name).lower() for word in BESIDE):
                yield from _mappings(value, (*path, str(name)))


def fit_recipe(weights: Mapping[str, Tensor], recipe: Recipe, path: Path) -> Recipe:
    """The recipe with the number of slices that the weights take; the rest must fit as it is."""
    slices = _slices(weights, path)
    if slices % 2 == 0 or slices > 31:
        raise WeightsError(
            path,
            found=f"a network of {slices} slices",
            expected="an odd number up to 31: the middle slice is predicted",
        )
    network = recipe.network.model_copy(update={"slices": slices})
    fitted = Recipe.model_validate(recipe.model_dump() | {"network": network.model_dump()})
    with torch.device("meta"):
        wanted = reference_state(build_network(fitted.network))
    missing, more = [k for k in wanted if k not in weights], [k for k in weights if k not in wanted]
    wrong = [k for k in wanted if k in weights and wanted[k].shape != weights[k].shape]
    if missing or more or wrong:
        raise WeightsError(
            path,
            found=f"{len(missing)} weights missing, {len(more)} unknown, {len(wrong)} of another shape "
            f"(first: {(missing + more + wrong)[0]})",
            expected=network.description,
            advice="give the recipe that it was trained with: --recipe",
        )
    return fitted


def reference_state(network: SynthesisNetwork) -> dict[str, Tensor]:
    """The network's state under the reference's names, which are those of its parts."""
    return {f"{name}.{k}": v for name, part in network.parts.items() for k, v in part.state_dict().items()}


def own_names(weights: Mapping[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """The reference's weights under the names that `build_network` gives them."""
    with torch.device("meta"):
        network = build_network(recipe.network)
    names = {id(tensor): name for name, tensor in network.state_dict(keep_vars=True).items()}
    parts = {
        f"{name}.{k}": names[id(tensor)]
        for name, part in network.parts.items()
        for k, tensor in part.state_dict(keep_vars=True).items()
    }
    return {parts[k]: v for k, v in weights.items()}


def _slices(weights: Mapping[str, Tensor], path: Path) -> int:
    """Slices that the network takes: the channels of its first convolution."""
    first = next((v for k, v in weights.items() if k.startswith("encoder.") and v.ndim >= 4), None)
    if first is None or first.ndim > 4:
        found = "no convolution in its encoder" if first is None else f"a convolution of {first.ndim - 2} dimensions"
        raise WeightsError(path, found=found, expected="a 2D network")
    return int(first.shape[1])


def published_recipe(task: Task, slices: int) -> str:
    """The recipe of published weights that take so many slices.

    The challenge entry's CBCT networks take 3 slices, the follow-up study's 5. MR networks of both take 5 and can't be
    told apart: the challenge entry's recipe is chosen, `mri-paper` has to be asked for.
    """
    return "cbct-paper" if task is Task.CBCT and slices == 5 else f"{task}-submission"


def pack_konfai(
    checkpoints: Sequence[Path],
    out: Path,
    *,
    task: Task,
    recipe: str | None = None,
    regions: str,
    storage: StorageType,
) -> Bundle:
    """Write a bundle whose folds are KonfAI checkpoints, one each; a second call adds the models of other regions.

    Args:
        checkpoints: Files, or folders of the framework's apps, which hold an app.json and the checkpoints.
        recipe: Recipe name or YAML file; `published_recipe` chooses when it is left out.
        regions: Regions that the checkpoints serve, e.g. `AB,TH`.

    Raises:
        WeightsError: A checkpoint that isn't one of the network, two that are the same, or folds of different inputs.
        InputError: A recipe of the other task, an unknown region, or a folder that holds another bundle.
    """
    checkpoints = [file for path in checkpoints for file in app_checkpoints(path)]
    if not checkpoints:
        raise InputError("pack", found="no checkpoint", expected="at least one")
    if recipe is None:
        recipe = published_recipe(task, _slices(read_konfai(checkpoints[0]), checkpoints[0]))
    plan = load_plan(recipe)
    if plan.recipe.task is not task:
        raise InputError("--recipe", found=f"{recipe} is for task {plan.recipe.task}", expected=f"a recipe for {task}")
    named = {Region.parse(r.strip(), "--regions") for r in regions.split(",") if r.strip()}
    served = tuple(r for r in Region if r in named)  # in one order: files are named by them
    if not served:
        raise InputError("--regions", found=f"'{regions}'", expected="regions such as AB,TH")
    loaded = [(path, read_konfai(path)) for path in checkpoints]
    fitted = [fit_recipe(weights, plan.recipe, path) for path, weights in loaded]
    if any(f != fitted[0] for f in fitted):
        raise WeightsError(
            checkpoints[0], found="checkpoints with different numbers of slices", expected="folds of one recipe"
        )
    for (first, weights), (second, same) in combinations(loaded, 2):
        if all(torch.equal(weights[k], same[k]) for k in weights):
            raise WeightsError(
                second, found=f"the weights of {first}", expected="another fold", advice="give each checkpoint once"
            )
    with one_at_a_time(out / "pack"), added_files(out, MANIFEST) as part:
        others, imported = _other_groups(out, fitted[0], served)
        folds = []
        for index, (_, weights) in enumerate(loaded):
            state = own_names(weights, fitted[0])
            file = f"{'-'.join(served)}_fold_{index}.safetensors"
            folds.append(Fold(weights=save_fold(state, part, file, storage), storage=storage))
        sources = [{"file": p.name, "format": "konfai", "regions": list(served)} for p in checkpoints]
        bundle = Bundle(
            name=out.name,
            recipe=fitted[0],
            groups=(*others, RegionGroup(regions=served, folds=tuple(folds))),
            registration=Registration(method="unknown (imported weights)", convention="ct_to_source"),
            intended_use=INTENDED_USE,
            provenance={
                "imported_from": [*imported, *sources],
                "note": "Training and validation cases aren't recorded in these checkpoints: predictions of cases of the "
                "published training set can't be told apart and say nothing about quality.",
                **describe_software(),
            },
        )
        write_bundle(bundle, part)
        write_text(part / CARD, model_card(bundle))
    return bundle


def _other_groups(
    out: Path, recipe: Recipe, served: tuple[Region, ...]
) -> tuple[tuple[RegionGroup, ...], list[dict[str, Any]]]:
    """Groups of other regions that were imported into the bundle before, and their sources.

    Raises:
        InputError: The folder's bundle isn't an import of this recipe, or one of its groups overlaps in part.
    """
    if not (out / MANIFEST).is_file():
        return (), []
    bundle = read_bundle(out)
    if "imported_from" not in bundle.provenance or bundle.recipe != recipe:
        raise InputError(
            out,
            found="a bundle that isn't an import with this recipe",
            expected="an empty folder",
            advice="choose another folder",
        )
    kept = tuple(g for g in bundle.groups if not set(g.regions) <= set(served))
    for group in kept:
        if set(group.regions) & set(served):
            raise InputError(
                "--regions",
                found=",".join(served),
                expected=f"regions beside {','.join(group.regions)}, which the bundle holds, or all of these",
            )
    before = [r for g in bundle.groups for r in g.regions]  # of records that name no regions
    sources = [s for s in bundle.provenance["imported_from"] if not set(s.get("regions", before)) <= set(served)]
    return kept, sources


def _without_network(state: Any) -> str:
    """What a checkpoint without a network's tensors is, in words."""
    if not isinstance(state, Mapping):
        return f"a {type(state).__name__.lower()}"
    if "Model" in state:
        return f"a 'Model' that is a {type(state['Model']).__name__}"
    if any("ema" in str(key).lower() for key in state):
        return f"a moving average without the live weights (keys: {_keys(state)})"
    return f"no 'Model' in it (keys: {_keys(state)})" if state else "nothing in it"


def _keys(state: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, list(state)[:5]))
