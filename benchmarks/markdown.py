"""Rows of a benchmark as the table that the documentation shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def markdown(rows: Sequence[Mapping[str, object]], columns: Mapping[str, str]) -> str:
    """A Markdown table.

    Args:
        rows: Values by key; what a row lacks stays empty.
        columns: Key → heading, in order.
    """
    lines = [list(columns.values()), ["---"] * len(columns)]
    lines += [["" if row.get(key) is None else str(row[key]) for key in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
