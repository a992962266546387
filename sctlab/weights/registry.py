"""What weights others have published, from `registry.yaml` or a registry of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from sctlab_model.bundle import WEIGHTS_NAME
from sctlab_model.cases import Region, Task
from sctlab_model.errors import InputError
from sctlab_model.settings import Settings, load_yaml

REGISTRY = Path(__file__).parent / "registry.yaml"


class PublishedFile(Settings):
    """One checkpoint: its path in the repository, and what it must be."""

    path: str
    bytes: int | None = Field(default=None, gt=0)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        default=None, description="Left out where nobody verified it: the first fetch records it."
    )

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        if path.startswith("/") or "\\" in path or any(p in ("", ".", "..") for p in path.split("/")):
            raise ValueError(f"'{path}' is not a path inside a repository")
        return path


class PublishedGroup(Settings):
    """The folds that serve some regions.

    Args:
        files: The checkpoints.
        app: Instead of them, a folder of the repository that is an app of KonfAI: its app.json names them.
    """

    regions: tuple[Region, ...] = Field(min_length=1)
    files: tuple[PublishedFile, ...] = ()
    app: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> PublishedGroup:
        if bool(self.files) == (self.app is not None):
            raise ValueError("a group has either files or an app")
        if self.app is not None:
            PublishedFile(path=self.app)
        return self


class PublishedRegistration(Settings):
    """How the training pairs were aligned, as far as it is published."""

    method: str
    convention: Literal["ct_to_source", "source_to_ct", "aligned"]


class PublishedWeights(Settings):
    """An ensemble that can be fetched.

    Args:
        repository: On the Hugging Face hub.
        revision: Commit, whole or its first digits; None where none was verified: the user must give one.
        licence: `unknown` where the source doesn't state one.
        recipe: Recipe that computes what these networks were trained with.
        note: What isn't known of them; said when they are fetched, and kept with the bundle.
    """

    name: Annotated[str, Field(pattern=WEIGHTS_NAME)]
    repository: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{7,40}$")] | None = None
    licence: str = "unknown"
    task: Task
    recipe: str
    registration: PublishedRegistration
    trained_with: str = ""
    note: str = ""
    groups: tuple[PublishedGroup, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_once(self) -> PublishedWeights:
        regions = [region for group in self.groups for region in group.regions]
        twice = [str(r) for r in Region if regions.count(r) > 1]
        twice += sorted({f.path for g in self.groups for f in g.files if [o.path for o in g.files].count(f.path) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands there more than once")
        return self

    @property
    def files(self) -> tuple[PublishedFile, ...]:
        """Every checkpoint that the registry names; those of apps are known when their app.json is here."""
        return tuple(f for group in self.groups for f in group.files)

    @property
    def bytes(self) -> int | None:
        """Size of the download; None where a size isn't known."""
        sizes = [f.bytes for f in self.files]
        if None in sizes or any(group.app for group in self.groups):
            return None
        return sum(s for s in sizes if s is not None)


class Registry(Settings):
    """All of them, and short names for the ones that are meant most often."""

    aliases: dict[Annotated[str, Field(pattern=WEIGHTS_NAME)], str] = Field(default_factory=dict)
    weights: tuple[PublishedWeights, ...]

    @model_validator(mode="after")
    def _names(self) -> Registry:
        names = [w.name for w in self.weights]
        twice = {n for n in [*names, *self.aliases] if [*names, *self.aliases].count(n) > 1}
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))} stands there more than once")
        lost = [a for a, name in self.aliases.items() if name not in names]
        if lost:
            raise ValueError(f"aliases of nothing: {', '.join(lost)}")
        return self

    def find(self, name: str) -> PublishedWeights:
        """The weights of a name or an alias.

        Raises:
            InputError: Nobody is called so.
        """
        known = {w.name: w for w in self.weights}
        found = known.get(self.aliases.get(name, name))
        if found is None:
            raise InputError(
                "weights", found=f"unknown name '{name}'", expected="one of " + ", ".join([*self.aliases, *known])
            )
        return found


def read_registry(path: Path | None = None) -> Registry:
    """The product's registry, or another file of the same form.

    Raises:
        InputError: Not such a file.
    """
    return load_yaml(Registry, path or REGISTRY)
