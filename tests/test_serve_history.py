"""What the web monitor remembers: bounded, and exact although it is thinned out."""

from __future__ import annotations

from array import array

import pytest

from sona_shm.web.history import History, Sample


def sample(time: float, count: int, attachment: int = 1) -> Sample:
    return Sample(
        time, attachment, (count, count, count, count, 0), 0.5 * count, 0, ("a",), array("d", [1.0])
    )


def test_history_is_bounded_and_rates_stay_exact_when_it_is_thinned_out() -> None:
    history = History()
    begin, rate, day = 1_000_000.0, 7, 2 * 86400
    for second in range(day):
        history.add(sample(begin + second, rate * second))
    assert len(history._fine) == 3600
    assert len(history._coarse) == 1440
    for seconds in (60.0, 300.0, 3600.0, 3700.0, 86400.0):
        series = history.series(seconds, now=begin + day)
        assert 50 <= len(series["time"]) <= 301
        assert set(series["recorded"]) == {rate}
        assert set(series["reward"]) == {0.5}
        covered = series["time"][-1] - series["time"][0]
        assert covered == pytest.approx(seconds, abs=3 * max(60.0, series["step"]))


def test_history_says_nothing_across_gaps_and_other_engines() -> None:
    history = History()
    for time, count, attachment in (
        (0, 0, 1),
        (1, 5, 1),
        (60, 6, 1),
        (61, 9, 1),
        (62, 1, 2),
        (63, 0, 2),
    ):
        history.add(sample(1000.0 + time, count, attachment))
    series = history.series(300.0, now=1063.0)
    assert series["recorded"] == [5.0, None, 3.0, None, None]
    assert series["reward"] == [0.5, None, 0.5, None, None]


def test_a_clock_that_is_set_back_starts_history_anew() -> None:
    history = History()
    for time in (1000.0, 1001.0, 500.0, 501.0):
        history.add(sample(time, 0))
    assert history.series(86400.0, now=502.0)["time"] == [501.0]
