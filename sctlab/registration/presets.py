"""Presets by name: levels, metrics and regularisation per task and region, and presets of one's own in YAML files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from sctlab.registration.engine.settings import Articulated, FeatureTerm, Level, Preset, Sliding
from sctlab_model.cases import Region, Task
from sctlab_model.errors import InputError, ProductError, meant
from sctlab_model.settings import load_yaml

SUFFIXES = (".yaml", ".yml")
NETWORK_SUFFIXES = (".pt", ".safetensors")  # of extractors that are files


# The chances of the classes, at the only voxels that the network knows.
ANATOMY = FeatureTerm(extractor="anatomy", layers=(7,), voxel_mm=3.0)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(name="rigid", levels=(), discrete=None),
        Preset(name="mi", features=(), mutual_information=1.0),
        Preset(name="mind"),
        Preset(name="mind-mi", mutual_information=0.5),
        Preset(name="anatomy", features=(ANATOMY,)),
        Preset(name="mind-anatomy", features=(FeatureTerm(), ANATOMY)),
    )
}


def default_preset(task: Task, region: Region) -> str:
    """The preset of a task and region."""
    return f"{task.value}-{region.value.lower()}"


# Measured on real and simulated pairs (docs/registration.md): some mutual information beside MIND helps everywhere, more
# of it for MR, whose noise MIND sees and whose contrast it doesn't; no region asks for settings of its own.
_INFORMATION = {Task.MRI: 0.5, Task.CBCT: 0.3}
# Two splines part, and a neck bends, by more than the coarse levels of the others have steps for.
_FAR_LEVELS = (
    Level(voxel_mm=6.0, iterations=100, rate_mm=1.5),
    Level(voxel_mm=3.0, iterations=100, rate_mm=0.8),
    Level(voxel_mm=2.0, iterations=120, rate_mm=0.4),
)
for _task in Task:
    for _region in Region:
        _name = default_preset(_task, _region)
        PRESETS[_name] = Preset(name=_name, mutual_information=_INFORMATION[_task])
        if _region is Region.HN:  # a neck bends
            _own = f"{_name}-articulated"
            PRESETS[_own] = PRESETS[_name].changed(
                name=_own, levels=_FAR_LEVELS, articulated=Articulated(), rigidity=0.3
            )
        else:  # organs of thorax and abdomen slide along the wall
            _own = f"{_name}-sliding"
            PRESETS[_own] = PRESETS[_name].changed(name=_own, levels=_FAR_LEVELS, sliding=Sliding())


class PresetFile(Preset):
    """A preset in a YAML file: the fields that it names change those of `base`.

    Args:
        base: A built-in preset.
    """

    base: str = "mind"


def load_preset(path: str | Path) -> Preset:
    """The preset that a YAML file describes; its name is the file's.

    Keys are the fields of `Preset` but for `name`, and `base`: the built-in preset whose fields they change (`mind`
    when left out). An extractor that is a file is looked for from the YAML file's folder.

    Raises:
        InputError: No such file, not YAML, an unknown key, a wrong type, an impossible value, an unknown extractor or
            layer; names the file and the key.
        WeightsError: An extractor whose weights aren't here.
    """
    path = Path(path)
    file = load_yaml(PresetFile, path)
    given = file.model_fields_set
    if "name" in given:
        raise InputError(path, found="the key 'name'", expected="none: a preset from a file has the file's name")
    if file.base not in PRESETS or not PRESETS[file.base].levels:
        deformable = [name for name, preset in PRESETS.items() if preset.levels]
        raise InputError(f"{path}, base", found=f"'{file.base}'", expected="one of " + ", ".join(deformable))
    if "levels" in given and not file.levels:
        raise InputError(f"{path}, levels", found="[]", expected="one level or more")
    changes = {name: getattr(file, name) for name in given - {"base"}}
    preset = PRESETS[file.base].changed(name=path.name, **changes)
    features = [_checked(term, path, f"features.{i}") for i, term in enumerate(preset.features)]
    return preset.changed(features=tuple(features))


def find_presets(names: str) -> tuple[Preset, ...]:
    """Presets of `a,b,c`, each the name of a built-in one or a YAML file (see `load_preset`).

    Raises:
        InputError: An unknown name, none, presets that can't be averaged, or a file that describes none.
        WeightsError: A file's extractor whose weights aren't here.
    """
    chosen = []
    for name in (n.strip() for n in names.split(",") if n.strip()):
        if Path(name).suffix in SUFFIXES:
            chosen.append(load_preset(name))
        elif name in PRESETS:
            chosen.append(PRESETS[name])
        else:
            raise InputError(
                "--preset",
                found=f"unknown preset '{name}'",
                expected="a .yaml file, or one of " + ", ".join(PRESETS),
                advice=meant(name, PRESETS),
            )
    if not chosen:
        raise InputError("--preset", found="no name", expected="a .yaml file, or one of " + ", ".join(PRESETS))
    if len({p.name for p in chosen}) < len(chosen):
        raise InputError("--preset", found=f"one name twice in {names}", expected="presets of different names")
    if len({len(p.levels) for p in chosen}) > 1:  # their control points would differ, and a rigid one has none
        raise InputError(
            "--preset",
            found=", ".join(f"{p.name} with {len(p.levels)} levels" for p in chosen),
            expected="presets with as many levels each",
            advice="only such fields can be averaged",
        )
    if len(chosen) > 1 and any(p.sliding for p in chosen):
        raise InputError(
            "--preset",
            found=f"{next(p.name for p in chosen if p.sliding)} among {len(chosen)} presets",
            expected="it alone",
            advice="two splines with a surface between them can't be averaged with others",
        )
    return tuple(chosen)


def _checked(term: FeatureTerm, path: Path, key: str) -> FeatureTerm:
    """A feature term whose extractor and layers exist; files are looked for beside the preset's."""
    if Path(term.extractor).suffix in NETWORK_SUFFIXES:
        term = term.changed(extractor=str((path.parent / term.extractor).resolve()))
    try:
        names = _layer_names(term.extractor)
    except ProductError as error:
        raise type(error)(
            f"{path}, {key}", found=f"{error.where}: {error.found}", expected=error.expected, advice=error.advice
        ) from error
    if max(term.layers) >= len(names):
        raise InputError(
            f"{path}, {key}.layers",
            found=f"{list(term.layers)}",
            expected=f"some of 0 to {len(names) - 1}: " + ", ".join(names),
        )
    return term


@lru_cache
def _layer_names(extractor: str) -> tuple[str, ...]:
    """Layers of an extractor; remembered, because a cohort asks once for each case and a network takes seconds to load."""
    from sctlab.features import load_extractor

    return tuple(layer.name for layer in load_extractor(extractor).layers)
