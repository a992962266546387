"""Extractors by name or by file: `load_extractor`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from sctlab.features.extractor import FeatureExtractor
from sctlab.features.mind import MindSSC
from sctlab.features.weights import SOURCES, local_weights, read_weights, write_weights
from sctlab_model.errors import InputError, WeightsError

BUILT_IN = ("mind", "mind-2d")
_MIND = re.compile(r"mind(?P<plane>-2d)?(?:-r(?P<radius>\d))?(?:-d(?P<dilation>\d))?")


def load_extractor(
    name: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> FeatureExtractor:
    """An extractor, frozen and in evaluation mode.

    Args:
        name: `mind`, `mind-2d` (optionally with radius and dilation: `mind-r2-d2`); `vgg16`, `vgg19`,
            `sam2.1-tiny`, `sam2.1-small`; a TorchScript name of `sctlab features list`; or a file: TorchScript
            (`.pt`), or safetensors written by `save_extractor`.
        weights: Local safetensors file for VGG or SAM; the downloaded one when left out. `random` gives seeded
            random weights, for timing and tests.
        device: Where it runs.

    Raises:
        InputError: Unknown name, or a file of another type.
        WeightsError: Weights that are missing, cut or of another architecture.
    """
    text = str(name)
    match = _MIND.fullmatch(text)
    if match:
        dimension = 2 if match["plane"] else 3
        found = MindSSC(dimension, radius=int(match["radius"] or 1), dilation=int(match["dilation"] or 2))
    elif Path(text).suffix == ".pt":
        found = _torchscript(Path(text))
    elif Path(text).suffix == ".safetensors":
        found = _from_file(Path(text))
    elif text.startswith("ts-") and text in SOURCES:
        found = _torchscript(_need(text))
    elif text in SOURCES:
        found = _with_weights(text, weights)
    else:
        known = ", ".join((*BUILT_IN, *SOURCES))
        raise InputError(
            "feature extractor", found=f"unknown name '{text}'", expected=f"{known}, or a .pt or .safetensors file"
        )
    return found.to(device)


def save_extractor(extractor: FeatureExtractor, path: str | Path) -> Path:
    """Write an extractor's weights and architecture to one safetensors file that `load_extractor` reads."""
    architecture: dict[str, object] = {"name": extractor.name}
    if hasattr(extractor, "plans"):
        architecture |= {
            "kind": "totalsegmentator",
            "plans": extractor.plans,
            "classes": extractor.layers[-1].channels,
            "fingerprint": extractor.fingerprint,
        }
    elif extractor.name not in SOURCES:
        raise InputError(
            extractor.name, found="an extractor without weights of its own", expected="VGG, SAM or TotalSegmentator"
        )
    return write_weights(_own_tensors(extractor), path, architecture)


def import_nnunet(
    plans: str | Path, checkpoint: str | Path, out: str | Path, *, configuration: str = "3d_fullres"
) -> Path:
    """Write an extractor file from what nnU-Net's training leaves: `plans.json` and `checkpoint_final.pth`.

    Args:
        plans: nnU-Net's plans (2.4 or later).
        checkpoint: Its checkpoint; tensors and numbers are read, nothing in it is executed.
        out: The `.safetensors` file that `load_extractor` takes.
        configuration: Of the plans.

    Raises:
        InputError: Not plans that name an architecture.
        WeightsError: Not a checkpoint of nnU-Net, or one of another architecture.
    """
    from sctlab.features.checkpoints import read_pickled
    from sctlab.features.totalsegmentator import TotalSegmentator, read_plans

    architecture, fingerprint = read_plans(plans, configuration)
    expected = "nnU-Net's checkpoint_final.pth"
    state = read_pickled(Path(checkpoint), expected)
    weights = state.get("network_weights") if isinstance(state, Mapping) else None
    head = (weights or {}).get("decoder.seg_layers.0.weight")
    if not isinstance(head, torch.Tensor):
        raise WeightsError(checkpoint, found="no 'network_weights' with a segmentation head", expected=expected)
    built = TotalSegmentator(
        architecture, classes=len(head), fingerprint=fingerprint, name=f"totalsegmentator-{Path(out).stem}"
    )
    return save_extractor(_filled(built, weights, Path(checkpoint)), out)


def _torchscript(path: Path) -> FeatureExtractor:
    from sctlab.features.torchscript import TorchScriptExtractor

    return TorchScriptExtractor(path)


def _need(name: str) -> Path:
    path = local_weights(name)
    if path is None:
        raise WeightsError(
            name,
            found="its weights aren't here",
            expected="a downloaded file",
            advice=f"run `sctlab features download {name}`",
        )
    return path


def _build(name: str) -> FeatureExtractor:
    if name.startswith("vgg"):
        from sctlab.features.vgg import Vgg

        return Vgg(int(name[3:]))
    from sctlab.features.sam import Sam2Hiera

    return Sam2Hiera(name.removeprefix("sam2.1-"))


def _with_weights(name: str, weights: str | Path | None) -> FeatureExtractor:
    if str(weights) == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _build(name)
    path = Path(weights) if weights is not None else _need(name)
    tensors, _ = read_weights(path)
    return _filled(_build(name), tensors, path)


def _from_file(path: Path) -> FeatureExtractor:
    tensors, metadata = read_weights(path)
    try:
        architecture = json.loads(metadata["extractor"])
        name = str(architecture["name"])
    except (KeyError, ValueError, TypeError) as error:
        raise WeightsError(
            path,
            found="no record of the architecture in its metadata",
            expected="a file written by save_extractor",
            advice="give the extractor's name and the file as its weights",
        ) from error
    if architecture.get("kind") == "totalsegmentator":
        from sctlab.features.totalsegmentator import TotalSegmentator

        built = TotalSegmentator(
            architecture["plans"],
            classes=int(architecture["classes"]),
            fingerprint=architecture["fingerprint"],
            name=name,
        )
    elif name in SOURCES and not name.startswith("ts-"):
        built = _build(name)
    else:
        raise WeightsError(path, found=f"architecture '{name}'", expected="VGG, SAM 2.1 or TotalSegmentator")
    return _filled(built, tensors, path)


def _filled(extractor: FeatureExtractor, tensors: dict[str, torch.Tensor], path: Path) -> FeatureExtractor:
    """Load weights; every parameter must be found with its shape, anything else in the file is left alone."""
    if extractor.name.startswith("sam") and not any(k.startswith("trunk.patch_embed.projection") for k in tensors):
        from sctlab.features.sam import trunk_weights

        tensors = trunk_weights(tensors)
    elif extractor.name.startswith("totalsegmentator") and any(k.startswith("encoder.") for k in tensors):
        tensors = {f"network.{k}": v for k, v in tensors.items()}  # nnU-Net's own names
    wanted = _own_tensors(extractor)
    missing = [k for k in wanted if k not in tensors]
    wrong = [k for k in wanted if k in tensors and tensors[k].shape != wanted[k].shape]
    if missing or wrong:
        first = (missing + wrong)[0]
        raise WeightsError(
            path,
            found=f"{len(missing)} weights of {extractor.name} missing, {len(wrong)} of another shape (first: {first})",
            expected=f"the weights of {extractor.name}",
        )
    extractor.load_state_dict({k: tensors[k].to(wanted[k].dtype) for k in wanted}, strict=False)
    return extractor


def _own_tensors(extractor: FeatureExtractor) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, each once (nnU-Net's networks hold theirs under several names)."""
    return dict(extractor.named_parameters()) | dict(extractor.named_buffers())
