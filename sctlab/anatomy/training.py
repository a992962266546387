"""Train the anatomy network: bodies once, then steps whose random numbers depend on the seed and the step alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from time import process_time

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sctlab.anatomy.bodies import (
    Body,
    procedural_body,
    read_bodies,
    read_phantom,
    real_body,
    write_body,
)
from sctlab.anatomy.sampling import as_batch, draw_sample
from sctlab.anatomy.settings import AnatomySettings
from sctlab.features.checkpoints import read_pickled
from sctlab.workflow.keys import content_key
from sctlab_model.anatomy.classes import CLASSES, IGNORE
from sctlab_model.anatomy.network import AnatomyNetwork, Output, read_network, write_network
from sctlab_model.cases import Region, read_json
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import atomic_path, write_json
from sctlab_model.monitor import Monitor
from sctlab_model.volume import triple

RUN = "run.json"  # the settings' key
_TEMPERATURE, _POINTS = 0.1, 96


@dataclass(frozen=True)
class AnatomyResult:
    """What a training left.

    Args:
        weights: The network's file.
        iterations: Steps it made in all.
    """

    weights: Path
    iterations: int


def train_anatomy(settings: AnatomySettings, out: Path, monitor: Monitor = Monitor()) -> AnatomyResult:
    """Train, or go on where a run in `out` stopped: the result is the same bit by bit on one machine.

    Args:
        settings: Of the run.
        out: `run.json`, `bodies/`, `checkpoint.pt` and `anatomy.safetensors` are written there.

    Raises:
        InputError: A source that can't be used; a folder with a run of other settings, or that can't be written to.
        WeightsError: The checkpoint is damaged.
    """
    key = content_key("anatomy/4", settings=settings)
    _claim(out, key)
    bodies, weights = prepare_bodies(settings, out / "bodies", monitor)
    torch.manual_seed(settings.seed)
    network = _first_network(settings).to(memory_format=torch.channels_last_3d)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
    first, spent = _resume(out / "checkpoint.pt", key, network, optimiser)
    started = process_time()
    smooth: dict[str, float] = {}
    for step in range(first, settings.iterations):
        terms = _step(network, optimiser, bodies, weights, settings, step)
        smooth = {k: 0.98 * smooth.get(k, v) + 0.02 * v for k, v in terms.items()}
        monitor.progress(step + 1, settings.iterations, "steps")
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.iterations:
            seconds = spent + process_time() - started
            _save(out / "checkpoint.pt", key, network, optimiser, step + 1, seconds)
            line = ", ".join(f"{k} {v:.3f}" for k, v in smooth.items())
            monitor.info(f"step {step + 1}: {line}; {seconds:.0f} processor seconds")
    facts = {
        "seed": settings.seed,
        "iterations": settings.iterations,
        "start": None if settings.start is None else Path(settings.start).name,
        "sources": [f"{Path(s.image).parent.name}/{Path(s.image).name}" for s in settings.sources],
        "processor_seconds": round(spent + process_time() - started),
    }
    path = write_network(network.eval(), out / "anatomy.safetensors", facts)
    write_json(out / "anatomy.json", {"settings": settings.model_dump(mode="json")} | facts)
    return AnatomyResult(path, settings.iterations)


def _claim(out: Path, key: str) -> None:
    """Say whose folder it is before the first body is made: bodies of other sources have the same names.

    Raises:
        InputError: It is another run's.
    """
    path = out / RUN
    if path.is_file():
        found = read_json(path)
        if not isinstance(found, dict) or found.get("key") != key:
            raise _other_run(path)
    write_json(path, {"key": key})


def _other_run(path: Path) -> InputError:
    return InputError(
        path,
        found="a run of other settings",
        expected="the same settings",
        advice="choose another folder, or delete it",
    )


def _first_network(settings: AnatomySettings) -> AnatomyNetwork:
    if settings.start is None:
        return AnatomyNetwork(settings.network)
    network = read_network(settings.start)
    if network.settings != settings.network:
        raise InputError(
            settings.start,
            found=f"a network of {network.settings.model_dump()}",
            expected=f"{settings.network.model_dump()}",
            advice="give `network` as the file has it",
        )
    return network


def prepare_bodies(
    settings: AnatomySettings, folder: Path, monitor: Monitor = Monitor()
) -> tuple[list[Body], np.ndarray]:
    """All bodies, made where they are missing, and the chance of each."""
    drawn = [(region, k) for region in Region for k in range(settings.procedural)]
    folders = [folder / f"drawn_{region}_{k:03d}" for region, k in drawn]
    real = [[folder / f"real_{n}_{k:03d}" for k in range(s.copies)] for n, s in enumerate(settings.sources)]
    count = len(folders) + sum(map(len, real))
    if not count:
        raise InputError("anatomy training", found="no body to learn from", expected="`sources` or `procedural`")
    done = 0
    for (region, k), path in zip(drawn, folders, strict=True):
        if not path.is_dir():
            rng = np.random.default_rng((settings.seed, 1, list(Region).index(region), k))
            write_body(procedural_body(region, rng, path.name), path)
        monitor.progress(done := done + 1, count, "bodies")
    for n, (source, paths) in enumerate(zip(settings.sources, real, strict=True)):
        phantom, head = None, False
        for k, path in enumerate(paths):
            if not path.is_dir():
                if phantom is None:
                    phantom, head = read_phantom(source, np.random.default_rng((settings.seed, 2, n)))
                rng = np.random.default_rng((settings.seed, 3, n, k))
                write_body(real_body(phantom, rng, path.name, only_head=head), path)
            monitor.progress(done := done + 1, count, "bodies")
    share = settings.real_share if real and drawn else float(bool(real))
    whole = sum(s.weight for s in settings.sources) or 1.0
    weights = [(1 - share) / len(drawn) for _ in drawn]
    weights += [share * s.weight / whole / s.copies for s in settings.sources for _ in range(s.copies)]
    paths = [*folders, *(p for group in real for p in group)]
    return read_bodies(paths), np.array(weights) / sum(weights)


def _step(
    network: AnatomyNetwork,
    optimiser: torch.optim.Optimizer,
    bodies: list[Body],
    weights: np.ndarray,
    settings: AnatomySettings,
    step: int,
) -> dict[str, float]:
    rng = np.random.default_rng((settings.seed, 4, step))
    rate = settings.learning_rate * _schedule(step / settings.iterations)
    for group in optimiser.param_groups:
        group["lr"] = rate
    network.train()
    optimiser.zero_grad(set_to_none=True)
    total: dict[str, float] = {}
    for _ in range(settings.batch):  # one body at a time: pieces differ in shape
        views, classes, regions = as_batch([draw_sample(bodies, weights, rng, settings.hu_share)])
        # Neighbouring voxels say nearly the same: an eighth of them is counted, another one every time.
        part = triple(int(v) for v in rng.integers(2, size=3))
        output = _forward(network, views, settings, part)
        terms = loss_terms(output, classes.repeat_interleave(2, 0), regions.repeat_interleave(2, 0), part, rng)
        loss = (
            terms["cross_entropy"]
            + terms["dice"]
            + terms["coarse"]
            + settings.region_weight * terms["region"]
            + settings.contrast_weight * terms["contrast"]
        )
        (loss / settings.batch).backward()
        total = {k: total.get(k, 0.0) + float(v.detach()) / settings.batch for k, v in terms.items()}
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    if bool(norm.isfinite()):  # one step without use must not end hours of work
        optimiser.step()
    total["skipped"] = float(not norm.isfinite())
    return total


def _schedule(done: float) -> float:
    return done / 0.02 + 0.02 if done < 0.02 else 0.5 * (1 + cos(pi * (done - 0.02) / 0.98))


def _forward(
    network: AnatomyNetwork, views: Tensor, settings: AnatomySettings, part: tuple[int, int, int] = (0, 0, 0)
) -> Output:
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
        return network(views.contiguous(memory_format=torch.channels_last_3d), part)


def loss_terms(
    output: Output, classes: Tensor, regions: Tensor, part: tuple[int, int, int], rng: np.random.Generator
) -> dict[str, Tensor]:
    """Cross entropy (deep, too) and soft Dice over the classes that are there, the slices' regions, agreement of features.

    Args:
        output: Of views that come in pairs: 2k and 2k + 1 show one anatomy.
        classes: int64 [B, z, y, x], IGNORE where none is known.
        regions: int64 [B, z].
        part: Of which voxels the output's logits are (`AnatomyNetwork.forward`).
        rng: Which places' features are compared.
    """
    logits = output.logits.float()
    target = classes[:, part[0] :: 2, part[1] :: 2, part[2] :: 2]
    entropy = functional.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
    known = target != IGNORE
    entropy = entropy / known.sum().clamp_min(1)
    chance = logits.softmax(1) * known[:, None]
    flat, truth = chance.transpose(1, 0).flatten(1), target.flatten()
    truth = torch.where(truth == IGNORE, 0, truth)
    kept = known.flatten().float()
    both = torch.zeros(len(CLASSES)).index_add_(0, truth, flat.gather(0, truth[None])[0] * kept)
    there = torch.zeros(len(CLASSES)).index_add_(0, truth, kept)
    dice = 2 * both / (flat.sum(1) + there).clamp_min(1)
    seen = there > 8
    seen[0] = False
    dice_loss = 1 - dice[seen].mean() if bool(seen.any()) else flat.sum() * 0
    step = classes.shape[1] // output.regions.shape[-1]
    middle = regions[:, step // 2 :: step][:, : output.regions.shape[-1]]
    known_regions = middle != IGNORE
    region = (
        functional.cross_entropy(output.regions.float(), middle, ignore_index=IGNORE)
        if bool(known_regions.any())
        else output.regions.float().sum() * 0
    )
    coarse = flat.sum() * 0
    for scores in output.coarse:  # deep supervision
        stride = classes.shape[-1] // scores.shape[-1]
        sparse = classes[:, stride // 2 :: stride, stride // 2 :: stride, stride // 2 :: stride]
        coarse = coarse + 0.5 * functional.cross_entropy(scores.float(), sparse, ignore_index=IGNORE)
    contrast = torch.stack([_agreement(f, classes, rng) for f in output.features[-2:]]).mean()
    return {"cross_entropy": entropy, "dice": dice_loss, "coarse": coarse, "region": region, "contrast": contrast}


def _agreement(features: Tensor, classes: Tensor, rng: np.random.Generator) -> Tensor:
    """InfoNCE between two contrasts of one anatomy: a voxel's features are nearest to its own in the other image.

    van den Oord et al., arXiv 1807.03748, eq. 4, both ways.
    """
    step = classes.shape[-1] // features.shape[-1]
    coarse = classes[:, step // 2 :: step, step // 2 :: step, step // 2 :: step]
    losses = []
    for k in range(0, len(features), 2):
        places = torch.nonzero((coarse[k].flatten() > 0) & (coarse[k].flatten() != IGNORE))[:, 0]
        if len(places) < 8:
            continue
        chosen = places[torch.from_numpy(rng.permutation(len(places))[:_POINTS])]
        first, second = (functional.normalize(features[k + i].flatten(1)[:, chosen].float(), dim=0) for i in (0, 1))
        alike = first.T @ second / _TEMPERATURE
        own = torch.arange(len(chosen))
        losses.append((functional.cross_entropy(alike, own) + functional.cross_entropy(alike.T, own)) / 2)
    return torch.stack(losses).mean() if losses else features.float().sum() * 0


def _save(
    path: Path, key: str, network: AnatomyNetwork, optimiser: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    state = {"key": key, "step": step, "seconds": seconds}
    with atomic_path(path) as temporary:
        torch.save(state | {"network": network.state_dict(), "optimiser": optimiser.state_dict()}, temporary)


def _resume(path: Path, key: str, network: AnatomyNetwork, optimiser: torch.optim.Optimizer) -> tuple[int, float]:
    if not path.is_file():
        return 0, 0.0
    state = read_pickled(path, "a checkpoint of `sctlab anatomy train`")
    if not isinstance(state, dict) or state.get("key") != key:
        raise _other_run(path)
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"]), float(state["seconds"])
