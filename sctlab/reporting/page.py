"""One HTML page from a template and values; everything that was not written in the template is escaped."""

from __future__ import annotations

import base64
import math
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2


def render(template: str, **values: Any) -> str:
    """The page of a template of `sctlab/reporting/templates`.

    Every template extends `base.html` (style, heading, footer) and needs `title`. Missing values are an error, not a gap.

    Example:
        >>> "<title>A</title>" in render("base.html", title="A", subtitle="")
        True
    """
    values.setdefault("made", f"{datetime.now():%Y-%m-%d %H:%M}")
    return _environment().get_template(template).render(**values)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("sctlab.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_address(content: bytes, kind: str) -> str:
    """A picture as a `data:` address, for pages without neighbours; `kind` is a MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def counted(count: int, noun: str) -> str:
    """A number with its noun, in the plural unless it is one.

    Example:
        >>> counted(1, "case"), counted(0, "case")
        ('1 case', '0 cases')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def number(value: float | None, digits: int, *, sign: bool = False) -> str:
    """A value with so many decimals; a dash where it is undefined, and never a negative zero.

    Example:
        >>> number(-0.001, 2), number(None, 2), number(0.5, 1, sign=True)
        ('0.00', '–', '+0.5')
    """
    if value is None or not math.isfinite(value):
        return "–"
    rounded = round(value, digits) + 0.0  # adding zero turns a negative zero into zero
    return f"{rounded:{'+' if sign and rounded else ''}.{digits}f}"
