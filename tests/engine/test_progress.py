"""Plain lines of progress, where standard error is no terminal."""

import pytest

from segtrain.engine.progress import Progress


@pytest.fixture(autouse=True)
def clock(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segtrain.engine.progress.log.propagate", True)
    now = iter(range(0, 1000, 2))  # two seconds pass between any two looks at the clock
    monkeypatch.setattr("segtrain.engine.progress.time.perf_counter", lambda: next(now))
    caplog.set_level("INFO", logger="segtrain")


def test_lines_say_how_much_is_done_and_left(caplog: pytest.LogCaptureFixture) -> None:
    with Progress("predict", 6, unit="img", line_every=4) as progress:
        for _ in range(6):
            progress.advance()
    assert caplog.messages == ["predict img 4/6  left 0:01", "predict img 6/6  left 0:00"]


def test_pace_is_units_a_second(caplog: pytest.LogCaptureFixture) -> None:
    with Progress("predict", 8, unit="img", line_every=8, pace=True) as progress:
        progress.advance(8)
    assert caplog.messages == ["predict img 8/8  4 img/s  left 0:00"]


def test_of_an_unknown_total_nothing_is_left(caplog: pytest.LogCaptureFixture) -> None:
    with Progress("predict", None, unit="frame", line_every=2, pace=True) as progress:
        for _ in range(3):
            progress.advance()
        assert progress.seconds_left() == float("inf")
    assert caplog.messages == ["predict frame 2  1 frame/s"]
