from __future__ import annotations

from bisect import bisect_left

import pytest

from netscript_workers.rates import limit_of, parse_rate

SECOND = 1_000_000


@pytest.mark.parametrize(
    ("text", "interval", "burst"),
    [
        ("1/s", SECOND, 1),
        ("10/s", SECOND // 10, 1),
        ("100/s", SECOND // 100, 5),
        ("1000/s", SECOND // 1000, 50),
        ("100/m", 600_000, 1),
        ("7/s", 142_858, 1),  # rounded up: never more than seven
        ("1000/h", 3_600_000, 1),
        ("1/d", 86_400 * SECOND, 1),
    ],
)
def test_a_rate_is_spread_evenly(text: str, interval: int, burst: int) -> None:
    rate = parse_rate(text)
    assert (rate.interval, rate.burst) == (interval, burst)


@pytest.mark.parametrize("text", ["7/s", "10/s", "100/m", "250/s", "999/s"])
def test_no_more_start_in_any_time_than_the_rate_and_one_burst(text: str) -> None:
    rate, now = parse_rate(text), 10**15
    used: int | None = None
    starts: list[int] = []
    while now < 10**15 + 20 * SECOND:
        taken, used = rate.take(used, now, 1000)
        starts += [now] * taken
        now += 997
    for place, start in enumerate(starts):
        within = bisect_left(starts, start + 5 * SECOND) - place
        assert within <= 5 * SECOND / rate.interval + rate.burst
    assert len(starts) >= 20 * SECOND / rate.interval * 0.95  # and nothing is wasted


def test_the_next_one_may_start_when_it_says() -> None:
    rate, now = parse_rate("100/s"), 10**15
    taken, used = rate.take(None, now, 1000)
    assert taken == rate.burst
    at = rate.next_at(used, now)
    assert rate.take(used, at - 1, 1)[0] == 0
    assert rate.take(used, at, 10)[0] == 1


def test_what_a_lower_rate_or_a_later_clock_has_used_up_is_forgotten() -> None:
    day, second, now = parse_rate("1/d"), parse_rate("1/s"), 10**15
    _, used = day.take(None, now, 1)
    assert second.next_at(used, now) == now
    assert second.take(used, now, 1) == (1, now + SECOND)


def test_only_what_is_wanted_is_taken() -> None:
    rate = parse_rate("100/s")
    assert rate.take(None, 10**15, 2) == (2, 10**15 + 2 * rate.interval)
    assert rate.take(None, 10**15, 0) == (0, 10**15)


def test_what_an_execution_waits_for_is_its_place_before_its_rate() -> None:
    assert limit_of(3, "1/s") == limit_of(1, None) == "job limit"
    assert limit_of(None, "1/s") == "rate limit"
    assert limit_of(None, None) is None
