"""Training of the anatomy network: bodies, samples that show one anatomy twice, exact resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sctlab.anatomy import sampling, training
from sctlab.anatomy.bodies import Body, make_body, phantom_classes, read_bodies, write_body
from sctlab.anatomy.sampling import as_batch, draw_sample
from sctlab.anatomy.settings import AnatomySettings, LabelledImage
from sctlab.anatomy.training import loss_terms, train_anatomy
from sctlab.simulation.anatomy.build import build_phantom, default_grid
from sctlab_model.anatomy.classes import IGNORE, INDEX, NAMES
from sctlab_model.anatomy.network import Output
from sctlab_model.anatomy.settings import NetworkSettings
from sctlab_model.cases import Region
from sctlab_model.errors import InputError, WeightsError

SETTINGS = AnatomySettings(
    network=NetworkSettings(features=(4, 6, 8)), procedural=1, iterations=4, save_every=1, bf16=False
)


@pytest.fixture(scope="module")
def body() -> Body:
    rng = np.random.default_rng(3)
    phantom = build_phantom(Region.AB, default_grid(Region.AB, rng, (3.0, 3.0, 3.0), (140, 100, 30)), rng)
    return make_body(phantom, phantom_classes(phantom), rng, "body")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, body: Body) -> None:
    """Small pieces of one body, so that a step takes a tenth of a second."""
    monkeypatch.setattr(sampling, "PIECES", ((16, 32, 32),))
    monkeypatch.setattr(training, "procedural_body", lambda region, rng, name: body)


def test_an_abdomen_has_the_classes_that_one_looks_for(body: Body) -> None:
    found = {NAMES[k] for k in np.unique(body.maps[-1]) if k != IGNORE}
    assert {"liver", "spine", "bowel", "aorta", "outer_fat", "inner_fat", "other_soft_tissue", "back_muscles"} <= found
    outer, inner = (float((body.maps[-1] == INDEX[n]).mean()) for n in ("outer_fat", "inner_fat"))
    assert outer > 0.02
    assert inner > 0.02
    assert set(body.regions.tolist()) <= {list(Region).index(Region.AB), list(Region).index(Region.TH), IGNORE}


def test_outer_fat_lies_outside_the_muscles(body: Body) -> None:
    """From the skin inwards along a row the first fat is outer fat."""
    classes = body.maps[-1][15]
    fat = (INDEX["outer_fat"], INDEX["inner_fat"])
    firsts = [row[np.isin(row, fat)][0] for row in classes if np.isin(row, fat).any()]
    assert np.mean(np.array(firsts) == INDEX["outer_fat"]) > 0.9


def test_a_written_body_is_the_same(body: Body, tmp_path: Path) -> None:
    write_body(body, tmp_path / "b")
    again = read_bodies([tmp_path / "b"])[0]
    assert (again.hu == body.hu).all()
    assert (again.maps == body.maps).all()
    assert (again.regions == body.regions).all()


def test_a_sample_shows_one_anatomy_twice(body: Body) -> None:
    """Air is dark and bone is where the classes say, in both views; the random numbers decide everything."""
    for seed in range(4):
        sample = draw_sample([body], np.ones(1), np.random.default_rng(seed))
        again = draw_sample([body], np.ones(1), np.random.default_rng(seed))
        assert (sample.views == again.views).all()
        assert sample.views.shape == (2, *sample.classes.shape)
        assert sample.classes.shape in sampling.PIECES
        assert np.isfinite(sample.views).all()
        air, inside = sample.classes == 0, (sample.classes > 0) & (sample.classes != IGNORE)
        if air.sum() > 500 and inside.sum() > 500:
            for view in sample.views:
                assert np.median(view[air]) < np.median(view[inside])


def test_what_lies_beyond_the_scan_is_not_learnt(body: Body) -> None:
    short = Body("short", body.hu[:6], body.maps[:, :6], body.regions[:6])
    sample = draw_sample([short], np.ones(1), np.random.default_rng(0))
    assert (sample.classes == IGNORE).any()
    views, classes, regions = as_batch([sample])
    assert views.shape[0] == 2
    assert classes.shape[0] == regions.shape[0] == 1


def test_loss_falls_with_the_truth_and_unknown_voxels_do_not_count() -> None:
    rng = np.random.default_rng(0)
    classes = torch.zeros(1, 16, 16, 16, dtype=torch.int64)
    classes[:, 4:12, 4:12, 4:12] = INDEX["liver"]
    classes[:, :, :2] = IGNORE
    regions = torch.full((1, 16), list(Region).index(Region.AB))
    both = classes.repeat_interleave(2, 0)

    def terms(sure: float, beyond: float) -> dict[str, float]:
        target = torch.where(both == IGNORE, 0, both)[:, ::2, ::2, ::2]
        logits = sure * torch.nn.functional.one_hot(target, len(NAMES)).float().movedim(-1, 1)
        logits[:, 5, :, :1] += beyond  # a wrong class in the unknown rows
        features = [torch.ones(2, 4, 4, 4, 4), torch.ones(2, 4, 8, 8, 8)]
        output = Output(logits, features, [], torch.zeros(2, len(Region), 1))
        result = loss_terms(output, both, regions.repeat_interleave(2, 0), (0, 0, 0), rng)
        return {k: float(v) for k, v in result.items()}

    vague, sure, noisy = terms(0.0, 0.0), terms(20.0, 0.0), terms(20.0, 50.0)
    assert sure["cross_entropy"] < 1e-3 < vague["cross_entropy"]
    assert sure["dice"] < 1e-3 < vague["dice"]
    assert noisy["cross_entropy"] == pytest.approx(sure["cross_entropy"])
    assert noisy["dice"] == pytest.approx(sure["dice"])
    assert vague["region"] == pytest.approx(np.log(len(Region)))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("procedural", "sources", "drawn"), [(0, 1, 0.0), (1, 0, 1.0), (1, 1, 0.4)])
def test_bodies_are_shown_by_their_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: Body, procedural: int, sources: int, drawn: float
) -> None:
    """Real anatomies alone, drawn ones alone, and both."""
    monkeypatch.setattr(training, "read_phantom", lambda source, rng: (None, False))
    monkeypatch.setattr(training, "real_body", lambda phantom, rng, name, only_head: body)
    plan = AnatomySettings(procedural=procedural, sources=(LabelledImage(image="ct", labels="l", copies=2),) * sources)
    bodies, weights = training.prepare_bodies(plan, tmp_path)
    assert len(bodies) == len(weights) == 3 * procedural + 2 * sources
    assert weights.sum() == pytest.approx(1)
    assert weights[: 3 * procedural].sum() == pytest.approx(drawn)


@pytest.mark.usefixtures("small")
def test_a_run_that_was_stopped_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = train_anatomy(SETTINGS, tmp_path / "straight").weights.read_bytes()
    step = training._step

    def stops(*arguments: object) -> dict[str, float]:
        if arguments[-1] == 2:
            raise KeyboardInterrupt
        return step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_step", stops)
    with pytest.raises(KeyboardInterrupt):
        train_anatomy(SETTINGS, tmp_path / "stopped")
    monkeypatch.setattr(training, "_step", step)
    tensors = train_anatomy(SETTINGS, tmp_path / "stopped").weights
    from safetensors.torch import load, load_file

    first, second = load(straight), load_file(tensors)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.usefixtures("small")
def test_a_run_can_begin_with_the_weights_of_another(tmp_path: Path) -> None:
    first = train_anatomy(SETTINGS, tmp_path / "first").weights
    still = SETTINGS.model_copy(update={"start": str(first), "learning_rate": 1e-12, "iterations": 1, "seed": 9})
    second = train_anatomy(still, tmp_path / "second").weights
    from safetensors.torch import load_file

    weights = [load_file(p)["classes.weight"] for p in (first, second)]
    assert torch.equal(*weights)
    other = still.model_copy(update={"network": NetworkSettings(features=(4, 6, 10))})
    with pytest.raises(InputError, match="a network of"):
        train_anatomy(other, tmp_path / "third")


@pytest.mark.usefixtures("small")
def test_a_folder_with_another_run_is_refused(tmp_path: Path) -> None:
    train_anatomy(SETTINGS, tmp_path)
    with pytest.raises(InputError, match="other settings"):
        train_anatomy(SETTINGS.model_copy(update={"iterations": 5}), tmp_path)
    (tmp_path / "run.json").unlink()  # runs of earlier releases have none
    with pytest.raises(InputError, match=r"checkpoint\.pt: a run of other settings"):
        train_anatomy(SETTINGS.model_copy(update={"iterations": 5}), tmp_path)


def test_bodies_of_a_run_that_was_stopped_before_it_learnt_are_not_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: Body
) -> None:
    """Its sources may hold a patient that the next one must not see, under the same names."""
    made: list[str] = []

    def stop_at_the_second(region: Region, rng: np.random.Generator, name: str) -> Body:
        if made:
            raise KeyboardInterrupt
        made.append(name)
        return body

    monkeypatch.setattr(training, "procedural_body", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        train_anatomy(SETTINGS, tmp_path)
    assert [p.name for p in (tmp_path / "bodies").iterdir()] == made
    with pytest.raises(InputError, match="other settings"):
        train_anatomy(SETTINGS.model_copy(update={"seed": 1}), tmp_path)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"<html>"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"checkpoint\.pt: .* expected a checkpoint of `sctlab anatomy train`"):
        train_anatomy(SETTINGS, tmp_path)
    with pytest.raises(InputError, match="can't be written"):
        train_anatomy(SETTINGS, tmp_path / "checkpoint.pt")


def test_a_ct_without_labels_teaches_nothing(tmp_path: Path) -> None:
    from sctlab.anatomy.bodies import read_phantom
    from sctlab_model.io.writing import write_volume
    from sctlab_model.volume import Geometry, Volume

    ct = np.full((10, 30, 30), -1000, np.int16)
    ct[2:8, 8:22, 8:22] = 40
    write_volume(Volume(ct, Geometry((30, 30, 10), (3.0, 3.0, 3.0))), tmp_path / "ct.nii.gz")
    with pytest.raises(InputError, match="without labels"):
        read_phantom(LabelledImage(image=str(tmp_path / "ct.nii.gz")), np.random.default_rng(0))
    with pytest.raises(InputError, match="no body"):
        train_anatomy(AnatomySettings(procedural=0), tmp_path / "none")
