"""Presets from YAML files: what they say reaches the engine, and what they can't say is refused with file and key."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from sctlab.cli import main
from sctlab.registration.engine.settings import Articulated, Discrete, FeatureTerm, Level, Preset, Sliding
from sctlab.registration.presets import PRESETS, PresetFile, find_presets, load_preset
from sctlab_model.cases import Task, read_json
from sctlab_model.errors import InputError, WeightsError

PRESET = """
base: mind-mi
features:
  - {extractor: nets/edges.pt, layers: [0, 1], layer_weights: [1, 0.5], distance: l2, pca: 2}
  - {extractor: nets/edges.pt, layers: [1], distance: cosine, mode: jacobian, points: 40, weight: 0.5}
knots_mm: 20
levels:
  - {voxel_mm: 8, iterations: 6, rate_mm: 1, points: 800}
  - {voxel_mm: 6, iterations: 6, rate_mm: 0.6, points: 800}
bending: 3
discrete: null
"""


@pytest.fixture
def write(tmp_path: Path, torchscript_file: Path):
    """Writes a preset's text beside `nets/edges.pt` and gives its path."""
    (tmp_path / "nets").mkdir()
    shutil.copy(torchscript_file, tmp_path / "nets" / "edges.pt")

    def text(content: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(content)
        return path

    return text


def test_a_file_changes_the_fields_that_it_names(write) -> None:
    path = write(PRESET)
    network = str((path.parent / "nets/edges.pt").resolve())
    assert load_preset(path) == Preset(
        name="mine.yaml",
        features=(
            FeatureTerm(extractor=network, layers=(0, 1), layer_weights=(1.0, 0.5), distance="l2", pca=2),
            FeatureTerm(extractor=network, weight=0.5, layers=(1,), distance="cosine", mode="jacobian", points=40),
        ),
        mutual_information=PRESETS["mind-mi"].mutual_information,
        knots_mm=20.0,
        levels=(
            Level(voxel_mm=8.0, iterations=6, rate_mm=1.0, points=800),
            Level(voxel_mm=6.0, iterations=6, rate_mm=0.6, points=800),
        ),
        bending=3.0,
        discrete=None,
    )
    found = load_preset(write("discrete: {reach_mm: 50}"))
    assert found.discrete == Discrete(reach_mm=50.0)
    assert found.features == PRESETS["mind"].features


def test_every_field_can_be_set() -> None:
    """There is one declaration: what a preset has, a file can say."""
    assert set(PresetFile.model_fields) == set(Preset.model_fields) | {"base"}
    for name, preset in PRESETS.items():
        assert Preset.model_validate(preset.model_dump()) == preset, name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bendin: 2", r"mine.yaml, line 1: unknown key 'bendin'; expected 'bending'"),
        ("features: [{extractor: mind, wieght: 2}]", r"unknown key 'features\.0\.wieght'; expected 'weight'"),
        ("bending: '2'", r"mine.yaml, line 1: bending: '2': input should be a valid number"),
        ("bending: yes", r"mine.yaml, line 1: bending: True: input should be a valid number"),
        ("knots_mm: 0", r"mine.yaml, line 1: knots_mm: 0: input should be greater than 0"),
        ("mutual_information: .nan", r"mine.yaml, line 1: mutual_information: nan: input should be a finite number"),
        ("levels: []", r"mine.yaml, levels: \[\]"),
        ("levels: [{voxel_mm: 3, iterations: 5}]", r"mine.yaml, line 1: levels\.0\.rate_mm: is missing"),
        ("levels: [{voxel_mm: 3, iterations: 5.5, rate_mm: 1}]", r"mine.yaml, line 1: levels\.0\.iterations: 5\.5"),
        ("discrete: {reach: 3}", r"mine.yaml, line 1: unknown key 'discrete\.reach'; expected 'reach_mm'"),
        ("name: best", r"mine.yaml: the key 'name'; expected none"),
        ("features: []", r"mine.yaml, line 1: .*neither a feature term nor mutual information"),
        ("features: [{distance: l3}]", r"mine.yaml, line 1: features\.0\.distance: 'l3' is none of"),
        ("features: [{mode: dynamic}]", r"mine.yaml, line 1: features\.0\.mode: 'dynamic'"),
        ("features: [{layers: [0], layer_weights: [1, 2]}]", r"mine.yaml, line 1: features\.0: 2 weights for 1 layers"),
        ("features: [{extractor: resnet}]", r"mine.yaml, features\.0: feature extractor: unknown name 'resnet'"),
        ("features: [{extractor: nets/none.pt}]", r"mine.yaml, features\.0: .*none\.pt: no such file"),
        ("features: [{extractor: nets/edges.pt, layers: [2]}]", r"features\.0\.layers: \[2\]; expected some of 0 to 1"),
        ("base: rigid", r"mine.yaml, base: 'rigid'; expected one of mi, mind"),
        ("base: mnid", r"mine.yaml, base: 'mnid'"),
        ("bending: 2\nbending: 3", r"mine.yaml, line 2: 'bending' again"),
        ("features: [", r"mine.yaml, line 1: not YAML"),
        ("- mind", r"mine.yaml: a list; expected a mapping"),
        ("", r"mine.yaml: nothing; expected a mapping"),
    ],
)
def test_what_a_preset_cant_say_is_refused_with_file_and_key(write, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_preset(write(text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_missing_weights(write, tmp_path, monkeypatch) -> None:
    with pytest.raises(InputError, match=r"none.yaml: no such file"):
        find_presets("mind," + str(tmp_path / "none.yaml"))
    monkeypatch.setenv("SCTLAB_FEATURES", str(tmp_path))
    with pytest.raises(WeightsError, match=r"mine.yaml, features\.0: ts-m292-2: its weights aren't here"):
        load_preset(write("features: [{extractor: ts-m292-2}]"))


def test_two_presets_of_one_name_are_refused(tmp_path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "own.yaml").write_text("base: mind\n")
    with pytest.raises(InputError, match="one name twice"):
        find_presets(f"{tmp_path}/a/own.yaml,{tmp_path}/b/own.yaml")


def test_presets_that_cant_be_averaged_are_refused_before_anything_runs(write) -> None:
    with pytest.raises(InputError, match="rigid with 0 levels, mind with 3 levels"):
        find_presets("rigid,mind")
    with pytest.raises(InputError, match=r"mine.yaml with 2 levels, mi with 3 levels"):
        find_presets(f"{write(PRESET)},mi")
    assert [p.name for p in find_presets(f"mi, {write('bending: 1')}")] == ["mi", "mine.yaml"]


@pytest.mark.heavy
def test_a_cohort_with_a_preset_of_its_own(write, tmp_path, samples, capfd) -> None:
    """Static and Jacobian terms of a network from a file, from the command line to the record."""
    make, write_sample, _ = samples
    sample = make(Task.CBCT, spacing=5.0, size_xyz=(32, 28, 24))
    write_sample(sample, tmp_path / "cohort/Task2/TH/2THA001")
    path = write(PRESET)

    def run() -> str:
        arguments = [tmp_path / "cohort", tmp_path / "out", "--preset", path, "--device", "cpu"]
        with pytest.raises(SystemExit) as ended:
            main(["--debug", "register", *map(str, arguments)])
        assert not ended.value.code
        return capfd.readouterr().out

    run()
    pair = read_json(tmp_path / "out/impact/Task2/TH/2THA001/pair.json")
    assert pair["presets"] == ["mine.yaml"]
    assert np.isfinite(pair["details"]["metrics"]["mine.yaml_level2_end"])
    assert "1 of 1 cases were finished before" in run()
    path.write_text(PRESET.replace("bending: 3", "bending: 4"))
    assert "finished before" not in run()  # the same name, another content


def test_a_file_may_let_organs_slide_and_a_neck_bend(write) -> None:
    preset = load_preset(write("base: mri-ab\nsliding: {hold_mm: 20}\narticulated: {band_mm: 50}\n"))
    assert preset.sliding == Sliding(hold_mm=20.0)
    assert preset.articulated == Articulated(band_mm=50.0)
    assert load_preset(write("base: mri-ab-sliding\nsliding: null\n")).sliding is None
