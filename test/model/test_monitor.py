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


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_a_log_file_hears_of_long_work_while_it_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten cases of a minute each left a log empty until the last one was done; with FORCE_COLOR a bar was drawn into it."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("sctlab_model.monitor.time", clock := _Clock())
    with ConsoleMonitor("simulate") as monitor:
        for done in range(101):
            monitor.progress(done, 100, f"case {done}")
            clock.now += 2
            if done == 60:
                heard = capsys.readouterr().out.splitlines()
        rest = capsys.readouterr().out.splitlines()
    assert heard[0] == "simulate case 0 0/100 after 0:00:00"
    assert heard[1] == "simulate case 10 10/100 after 0:00:20, about 0:03:00 left"
    assert len(heard) == 7
    assert rest[-1] == "simulate case 100 100/100 after 0:03:20"
    assert all(line.isascii() and line.isprintable() for line in heard + rest)


def test_work_that_goes_on_counts_its_own_time_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sctlab_model.monitor.time", clock := _Clock())
    with ConsoleMonitor() as monitor:
        for done, total in ((900, 1000), (910, 1000), (1, 50), (50, 50), (50, 50)):
            monitor.progress(done, total, "part")
            clock.now += 30
    assert capsys.readouterr().out.splitlines() == [
        "part 900/1000 after 0:00:00",
        "part 910/1000 after 0:00:30, about 0:04:30 left",
        "part 1/50 after 0:00:00",
        "part 50/50 after 0:00:30",
    ]
