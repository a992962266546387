"""What long work shows in the terminal."""

from __future__ import annotations

import pytest

from sctlab_model.monitor import ConsoleMonitor


@pytest.mark.parametrize(("total", "shown"), [(3, "3/3"), (0, "")])
def test_nothing_to_do_is_no_bar(total: int, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`sctlab evaluate` with nothing to score showed an empty bar of 0/0 above its message."""
    with ConsoleMonitor("evaluate") as monitor:
        for done in range(total + 1):
            monitor.progress(done, total)
    out = capsys.readouterr().out
    assert shown in out
    assert bool(out) is bool(shown)
