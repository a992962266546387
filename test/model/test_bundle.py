"""Bundles: what is refused, what is chosen, and that nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

import sctlab_model.bundle as bundle_module
from sctlab_model.backends.torch_backend import load_network
from sctlab_model.bundle import choose_bundle, find_bundles, load_fold, read_bundle, save_fold, unseen_folds
from sctlab_model.cases import Case, Region, Task
from sctlab_model.errors import ExitCode, InputError, WeightsError
from sctlab_model.network.settings import ResidualUNet3DSettings
from sctlab_model.recipe import Canvas, Recipe

BundleMaker = Callable[..., Path]


def edit(folder: Path, change: Callable[[dict], None]) -> None:
    manifest = json.loads((folder / "bundle.json").read_text())
    change(manifest)
    (folder / "bundle.json").write_text(json.dumps(manifest))


def case(region: Region | None, name: str = "x") -> Case:
    return Case(name, Task.CBCT, Path(f"{name}.mha"), region=region)


# --- weights ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("storage", "tolerance"), [("float32", 0), ("float16", 2e-3)])
def test_folds_come_back(tmp_path: Path, storage: str, tolerance: float) -> None:
    state = {"a": torch.rand(3, 4), "count": torch.tensor(7)}
    entry = save_fold(state, tmp_path, "fold_0.safetensors", storage)
    assert entry.sha256 == hashlib.sha256((tmp_path / "fold_0.safetensors").read_bytes()).hexdigest()
    fold = bundle_module.Fold(weights=entry, storage=storage)
    back = load_fold(tmp_path, fold)
    assert back["a"].dtype == torch.float32
    assert back["count"].dtype == torch.int64
    torch.testing.assert_close(back["a"], state["a"], atol=tolerance, rtol=0)


@pytest.mark.parametrize(("value", "advice"), [(1e5, "float32"), (float("nan"), "train again")])
def test_values_that_a_storage_cannot_hold_are_not_written(tmp_path: Path, value: float, advice: str) -> None:
    with pytest.raises(WeightsError, match=advice):
        save_fold({"a": torch.tensor([1.0, value])}, tmp_path, "fold_0.safetensors", "float16")
    assert not list(tmp_path.iterdir())


def test_an_altered_file_is_refused_with_both_hashes(make_bundle: BundleMaker) -> None:
    folder = make_bundle(folds=1)
    fold = read_bundle(folder).groups[0].folds[0]
    path = folder / fold.weights.file
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(WeightsError) as caught:
        load_fold(folder, fold)
    assert all(text in str(caught.value) for text in (fold.weights.file, found, fold.weights.sha256))
    assert caught.value.exit_code == ExitCode.BAD_WEIGHTS == 3
    path.unlink()
    with pytest.raises(WeightsError, match=f"{fold.weights.file}: no such file"):
        load_fold(folder, fold)


class Bomb:
    """Unpickling this leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_pickles_are_refused_unopened(make_bundle: BundleMaker, tmp_path: Path, writer: str) -> None:
    """Even with the right hash in the manifest, and under any name."""
    folder = make_bundle(folds=1)
    name = "fold_0.pth"
    if writer == "torch":
        torch.save(Bomb(tmp_path / "exploded"), folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    edit(folder, lambda m: m["groups"][0]["folds"][0].update(weights={"file": name, "sha256": digest}))
    with pytest.raises(WeightsError, match="not safetensors"):
        load_fold(folder, read_bundle(folder).groups[0].folds[0])
    assert not (tmp_path / "exploded").exists()


# --- the manifest ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda m: m.update(format=3), "newer release"),
        (lambda m: m.update(format="x"), "format"),
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m.update(groups=[]), "groups"),
        (lambda m: m["recipe"].update(spacing_xyz=[0, 1, 1]), "spacing_xyz"),
        (lambda m: m["recipe"]["network"].update(slices=4), "odd"),
        (lambda m: m["groups"][0]["folds"][0]["weights"].update(file="../../x.safetensors"), "bare file name"),
        (lambda m: m["groups"][0]["folds"][0]["weights"].update(file="/etc/passwd"), "bare file name"),
        (lambda m: m["groups"][0]["folds"][0]["weights"].update(sha256="0"), "sha256"),
        (lambda m: m["groups"][0].update(regions=["KNEE"]), "regions"),
        (lambda m: m["groups"].append(m["groups"][0]), "region AB, HN, TH stands in the groups more than once"),
        (lambda m: m["groups"][0].update(regions=["AB", "AB"]), "region AB"),
        (lambda m: m["groups"][0].update(folds=[m["groups"][0]["folds"][0]] * 2), "the same weights"),
        (lambda m: m.update(name="two\nlines"), "name"),
        (lambda m: m["recipe"]["canvas"].update(multiple=8), "canvas.multiple is 8; expected a multiple of 32"),
        (lambda m: m["recipe"]["canvas"].update(multiple=48), "canvas.multiple is 48; expected a multiple of 32"),
        (lambda m: m["recipe"]["canvas"].update(multiple=1), "canvas.multiple is 1; "),
        (lambda m: m["recipe"]["canvas"].update(multiple=0), "canvas.multiple: 0"),
        (lambda m: m["recipe"]["canvas"].update(multiple=10**9), "canvas.multiple: 1000000000"),
        (lambda m: m["recipe"]["canvas"].update(minimum_yx=[10**6, 64]), r"canvas.minimum_yx.0: 1000000"),
        (lambda m: m["recipe"].update(spacing_xyz=[1e-6, 1, 1]), "spacing_xyz.0: 1e-06"),
        (lambda m: m["recipe"].update(target_range_hu=[0, math.nan]), "target_range_hu.1: nan"),
        (lambda m: m["recipe"].update(normalisation={"kind": "range", "upper": math.nan}), "range.upper: nan"),
        (lambda m: m["recipe"].update(normalisation={"kind": "range", "lower": -1e308}), "range.lower: -1e\\+308"),
        (lambda m: m["recipe"].update(normalisation={"kind": "percentile", "fill": math.inf}), "fill: inf"),
        (lambda m: m["recipe"].update(normalisation={"kind": "zscore", "outside": math.nan}), "outside: nan"),
        (lambda m: m.update(validation={"cases": 5, "ranges": {"gas_share": {"low": 5, "high": 1}}}), "gas_share"),
    ],
)
def test_damaged_manifests_are_refused(make_bundle: BundleMaker, change: Callable[[dict], None], word: str) -> None:
    folder = make_bundle(folds=1)
    edit(folder, change)
    with pytest.raises(WeightsError, match=word) as caught:
        read_bundle(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("features", [(4, 4), (4, 4, 4, 4, 4)])
def test_a_canvas_suits_the_network_that_it_is_for(features: tuple[int, ...]) -> None:
    """Another architecture halves the plane less often."""
    stride = 2 ** (len(features) - 1)
    network = ResidualUNet3DSettings(features=features)
    assert Recipe(task=Task.MRI, network=network, canvas=Canvas(multiple=stride)).network.stride == stride
    with pytest.raises(ValidationError, match=f"expected a multiple of {stride}"):
        Recipe(task=Task.MRI, network=network, canvas=Canvas(multiple=stride + 1))


def test_weights_that_the_recipe_is_not_of_are_named_with_file_and_field(make_bundle: BundleMaker) -> None:
    folder = make_bundle(folds=1)
    for change, where, words in (
        ({"slices": 5}, "group_0_fold_0.safetensors", "5 slices, as recipe.network says in bundle.json"),
        ({"encoder": "nonsense"}, "bundle.json", "recipe.network.encoder: 'nonsense'"),
    ):
        edit(folder, lambda m, change=change: m["recipe"]["network"].update(change))
        bundle = read_bundle(folder)
        with pytest.raises(WeightsError, match=words) as caught:
            load_network(folder, bundle.groups[0].folds[0], bundle.recipe.network)
        assert Path(caught.value.where).name == where
        assert len(str(caught.value)) < 700


def without_new_fields(manifest: dict) -> None:
    """The manifest as format 1 wrote it."""
    manifest["format"] = 1
    for key in ("padding", "pad_value", "flip_before_padding", "larger"):
        del manifest["recipe"]["canvas"][key]
    manifest["recipe"]["normalisation"].pop("scope", None)


def test_bundles_of_format_1_mean_what_they_meant(make_bundle: BundleMaker) -> None:
    folder = make_bundle(folds=1)
    before = read_bundle(folder)
    edit(folder, without_new_fields)
    assert read_bundle(folder) == before
    assert (before.recipe.canvas.padding, before.recipe.canvas.flip_before_padding) == ("centre", False)


def test_imports_of_format_1_are_refused(make_bundle: BundleMaker) -> None:
    """Their recipe centred the slice on the canvas, which is another function than the one that was trained."""
    folder = make_bundle(folds=1)
    edit(folder, without_new_fields)
    edit(folder, lambda m: m["provenance"].update(imported_from=[{"file": "CV_0.pt", "format": "konfai"}]))
    with pytest.raises(WeightsError, match="pack again: sctlab pack --from-konfai") as caught:
        read_bundle(folder)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == ExitCode.BAD_WEIGHTS


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_manifests_that_are_no_manifests(tmp_path: Path, text: str) -> None:
    (tmp_path / "bundle.json").write_text(text)
    with pytest.raises(WeightsError, match="damaged manifest"):
        read_bundle(tmp_path)


# --- which bundle, which folds ---------------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Stand-ins for /opt/ml/model and the shipped weights."""
    challenge, shipped = tmp_path / "opt", tmp_path / "weights"
    monkeypatch.setattr(bundle_module, "CHALLENGE_WEIGHTS", challenge)
    monkeypatch.setattr(bundle_module, "SHIPPED_WEIGHTS", shipped)
    return challenge, shipped


def test_order_of_precedence(make_bundle: BundleMaker, places: tuple[Path, Path], tmp_path: Path) -> None:
    challenge, shipped = places
    for task in Task:
        make_bundle(shipped / f"demo-{task}", task=task, folds=1)
    assert choose_bundle(Task.CBCT) == shipped / "demo-cbct"
    challenge.mkdir()
    assert choose_bundle(Task.MRI) == shipped / "demo-mri"  # empty: as if it weren't there
    make_bundle(challenge, folds=1)  # bundle.json at the root
    assert choose_bundle(Task.CBCT) == challenge
    given = make_bundle(tmp_path / "given", folds=1)
    assert choose_bundle(Task.CBCT, given) == given


def test_uploaded_weights_never_fall_back_to_the_shipped_ones(
    make_bundle: BundleMaker, places: tuple[Path, Path]
) -> None:
    challenge, shipped = places
    make_bundle(shipped / "demo-mri", task=Task.MRI, folds=1)
    make_bundle(challenge / "mine", task=Task.CBCT, folds=1)
    with pytest.raises(WeightsError, match=r"no bundles for task mri among mine \(cbct\)"):
        choose_bundle(Task.MRI)
    for path in sorted(challenge.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (challenge / "readme.txt").write_text("not empty")
    with pytest.raises(WeightsError, match="no weights bundle"):
        choose_bundle(Task.MRI)


def test_several_bundles_for_a_task_are_listed(make_bundle: BundleMaker, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_bundle(tmp_path / name, folds=1)
    assert find_bundles(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(WeightsError, match=r"2 bundles for task cbct among a \(cbct\), b \(cbct\)"):
        choose_bundle(Task.CBCT, tmp_path)
    with pytest.raises(WeightsError, match="no weights bundle"):
        choose_bundle(Task.CBCT, tmp_path / "absent")


def test_region_groups(make_bundle: BundleMaker) -> None:
    bundle = read_bundle(make_bundle(groups=((Region.AB, Region.TH), (Region.HN,)), folds=1))
    assert bundle.regions == (Region.AB, Region.TH, Region.HN)
    assert bundle.group_for(case(Region.TH)) is bundle.groups[0]
    assert bundle.group_for(case(Region.HN)) is bundle.groups[1]
    with pytest.raises(InputError, match="--region"):
        bundle.group_for(case(None))
    single = read_bundle(make_bundle(groups=((Region.HN,),), folds=1))
    assert single.group_for(case(None)) is single.groups[0]
    with pytest.raises(InputError, match="region AB; expected one of HN"):
        single.group_for(case(Region.AB))


def test_seen_cases(make_bundle: BundleMaker) -> None:
    group = read_bundle(make_bundle(training_cases=(("a", "b"), ("b", "c")))).groups[0]
    assert unseen_folds(group, "new") == [0, 1]
    assert unseen_folds(group, "a") == [1]
    with pytest.raises(WeightsError, match="b: every fold of the bundle was trained on this case"):
        unseen_folds(group, "b")


def test_the_shipped_bundles_are_whole_and_small() -> None:
    """Every shipped fold has its hash, and all of them together stay below 40 MB."""
    folders = find_bundles(bundle_module.SHIPPED_WEIGHTS)
    if not folders:
        pytest.skip("no shipped weights in this checkout")
    for folder in folders:
        for group in read_bundle(folder).groups:
            for fold in group.folds:
                load_fold(folder, fold)
    assert sum(p.stat().st_size for p in bundle_module.SHIPPED_WEIGHTS.rglob("*") if p.is_file()) <= 40e6
