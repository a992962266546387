"""Pages that open offline, in one design: evaluation, comparison, ranking, registration and study reports use it."""

from sctlab.reporting.page import counted, data_address, number, render

__all__ = ["counted", "data_address", "number", "render"]
