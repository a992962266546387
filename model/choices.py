"""A choice among names that a person types: capitals, hyphens and usual other words don't matter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sctlab_model.errors import InputError, meant


def chosen(text: str, known: Iterable[str], where: object, *, synonyms: Mapping[str, str] | None = None) -> str:
    """The one of `known` that was typed.

    Args:
        text: As typed.
        known: The names.
        where: Option or file, for the message.
        synonyms: Other words in small letters, with underscores for hyphens and spaces, and the name that each stands for.

    Raises:
        InputError: None of them.

    Example:
        >>> chosen("MR", ["mri", "cbct"], "--task", synonyms={"mr": "mri"})
        'mri'
        >>> chosen("CT-to-Source", ["ct_to_source"], "--convention")
        'ct_to_source'
    """
    names = list(known)
    by_word = {_word(name): name for name in names} | dict(synonyms or {})
    found = by_word.get(_word(text))
    if found is None:
        expected = ", ".join(names[:-1]) + " or " + names[-1] if len(names) > 1 else names[0]
        raise InputError(where, found=f"'{text}'", expected=expected, advice=meant(_word(text), names))
    return found


def _word(text: str) -> str:
    return text.strip().lower().replace("-", "_").replace(" ", "_")
