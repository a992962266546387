"""What a registration does, by name: levels, metrics and regularisation per task and region."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sctlab.registration.engine.impact import FeatureTerm
from sctlab.registration.engine.rigid import RigidSettings
from sctlab_model.cases import Region, Task
from sctlab_model.errors import InputError


@dataclass(frozen=True)
class Level:
    """One resolution of the deformable stage; its knots are the final ones times a power of two.

    Args:
        voxel_mm: Working voxels (never finer than the finest voxels of the two images).
        iterations: Steps of Adam.
        rate_mm: First step of a control point; it shrinks to a tenth.
        points: Samples an iteration, about: the stride of the random subgrid follows from it.
    """

    voxel_mm: float
    iterations: int
    rate_mm: float
    points: int = 16000


@dataclass(frozen=True)
class Discrete:
    """The coarse search over displacements.

    Args:
        reach_mm: Largest displacement along an axis.
        step_mm: Step of the search, and pitch of the pooled features.
        caution: Cost of a displacement of `reach_mm`, as a share of the mean feature distance.
        gain: Share by which metric and bending together must fall before the result is used.
    """

    reach_mm: float = 30.0
    step_mm: float = 10.0
    caution: float = 0.3
    gain: float = 0.02


@dataclass(frozen=True)
class Preset:
    """Every choice of a registration.

    Args:
        name: For records.
        features: IMPACT terms.
        mutual_information: Weight of mutual information of the intensities.
        bins: Its histogram bins.
        knots_mm: Final knot spacing; each coarser level doubles it.
        levels: Coarse to fine; none leaves the rigid start.
        bending: Weight of the bending energy times the knot spacing squared, without unit.
        rigidity: Weight of the rigidity of bone, where a bone mask is given.
        folding: Weight that keeps the Jacobian determinant above `least_determinant` while optimising.
        least_determinant: The guard's margin.
        discrete: The coarse search; None leaves it out.
        rigid: The rigid start.
    """

    name: str
    features: tuple[FeatureTerm, ...] = (FeatureTerm(),)
    mutual_information: float = 0.0
    bins: int = 32
    knots_mm: float = 12.0
    levels: tuple[Level, ...] = (
        Level(6.0, 50, 1.0),
        Level(3.0, 50, 0.6),
        Level(2.0, 120, 0.4),
    )
    bending: float = 2.0
    rigidity: float = 0.0
    folding: float = 1.0
    least_determinant: float = 0.2
    discrete: Discrete | None = field(default_factory=Discrete)
    rigid: RigidSettings = field(default_factory=RigidSettings)

    def __post_init__(self) -> None:
        if self.levels and not self.features and not self.mutual_information:
            raise InputError(self.name, found="neither a feature term nor mutual information", expected="a metric")
        if self.knots_mm <= 0 or any(v.voxel_mm <= 0 or v.iterations < 1 for v in self.levels):
            raise InputError(
                self.name,
                found="a knot spacing, voxel size or number of iterations below its least value",
                expected="positive values",
            )


PRESETS: dict[str, Preset] = {
    "rigid": Preset("rigid", levels=(), discrete=None),
    "mi": Preset("mi", features=(), mutual_information=1.0),
    "mind": Preset("mind"),
    "mind-mi": Preset("mind-mi", mutual_information=0.5),
}


def default_preset(task: Task, region: Region) -> str:
    """The preset of a task and region."""
    return f"{task.value}-{region.value.lower()}"


# Measured on real and simulated pairs (docs/registration.md): some mutual information beside MIND helps everywhere, more
# of it for MR, whose noise MIND sees and whose contrast it doesn't; no region asks for settings of its own.
_INFORMATION = {Task.MRI: 0.5, Task.CBCT: 0.3}
for _task in Task:
    for _region in Region:
        _name = default_preset(_task, _region)
        PRESETS[_name] = Preset(_name, mutual_information=_INFORMATION[_task])


def find_presets(names: str) -> tuple[Preset, ...]:
    """Presets of `a,b,c`, each the name of a built-in one or a YAML file (see `presets_file.load_preset`).

    Raises:
        InputError: An unknown name, none, presets that can't be averaged, or a file that describes none.
        WeightsError: A file's extractor whose weights aren't here.
    """
    from sctlab.registration.presets_file import SUFFIXES, load_preset

    found = []
    for name in (n.strip() for n in names.split(",") if n.strip()):
        if Path(name).suffix in SUFFIXES:
            found.append(load_preset(name))
        elif name in PRESETS:
            found.append(PRESETS[name])
        else:
            raise InputError(
                "--preset", found=f"unknown preset '{name}'", expected="a .yaml file, or one of " + ", ".join(PRESETS)
            )
    if not found:
        raise InputError("--preset", found="no name", expected="a .yaml file, or one of " + ", ".join(PRESETS))
    if len({p.name for p in found}) < len(found):
        raise InputError("--preset", found=f"one name twice in {names}", expected="presets of different names")
    if len({len(p.levels) for p in found}) > 1:  # their control points would differ, and a rigid one has none
        raise InputError(
            "--preset",
            found=", ".join(f"{p.name} with {len(p.levels)} levels" for p in found),
            expected="presets with as many levels each",
            advice="only such fields can be averaged",
        )
    return tuple(found)
