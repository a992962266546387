"""What stages hand to each other on disk: one pydantic model per file, versioned, read and written in one place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sctlab_model.errors import InputError
from sctlab_model.io.paths import not_a_file

MAX_JSON_BYTES = 50_000_000


class Record(BaseModel):
    """Base of every JSON file that one stage writes and another reads.

    A subclass sets `current_version` (raised when older readers would misread the file) and overrides `migrate` when
    older files can still be read. Unknown keys are kept: a newer minor release may have added them.
    """

    model_config = ConfigDict(extra="allow")

    current_version: ClassVar[int] = 1
    version: int = Field(default=0, description="Version of this file's layout.")

    def model_post_init(self, context: Any, /) -> None:
        """A new record has the current version."""
        if self.version == 0:
            self.version = self.current_version

    @classmethod
    def migrate(cls, value: dict[str, Any], version: int) -> dict[str, Any]:
        """Bring the content of an older file (`version` 0: it had none) to the current layout."""
        return value

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a file.

        Raises:
            InputError: Missing, not JSON, too large, of a newer version, or not this record; names file and key.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(path, found=not_a_file(path), expected=f"a {cls.__name__}")
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputError(path, found=f"{path.stat().st_size} bytes", expected=f"at most {MAX_JSON_BYTES} bytes")
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(path, found=f"not JSON ({error})", expected="valid JSON") from error
        if not isinstance(value, dict):
            raise InputError(path, found=f"a JSON {type(value).__name__}", expected=f"a {cls.__name__} (an object)")
        version = value.get("version", 0)
        if not isinstance(version, int) or version > cls.current_version:
            raise InputError(
                path,
                found=f"version {version!r}",
                expected=f"at most {cls.current_version}",
                advice="it was written by a newer release: update this one",
            )
        if version < cls.current_version:
            try:
                value = cls.migrate(value, version) | {"version": cls.current_version}
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise InputError(
                    path, found=f"content that no version {version} has ({error})", expected=f"a {cls.__name__}"
                ) from error
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(map(str, first["loc"])) or "content"
            raise InputError(path, found=f"{key}: {first['msg']}", expected=f"a {cls.__name__}") from error

    def write(self, path: str | Path) -> None:
        """Write the file atomically.

        Raises:
            ResourceError: The disk is full or the folder can't be written to.
        """
        from sctlab_model.io.atomic import write_json

        write_json(path, self.model_dump(mode="json"))
