"""Pages that open offline, in one design: evaluation, comparison, ranking, registration and study reports use it."""

from sctlab.reporting.page import data_address, number, render

__all__ = ["data_address", "number", "render"]
