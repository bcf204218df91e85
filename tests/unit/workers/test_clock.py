from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from netscript_workers.clock import (
    MAX_MICROS,
    SYSTEM_CLOCK,
    ManualClock,
    from_micros,
    to_micros,
    to_rfc3339,
)


@given(st.integers(0, MAX_MICROS))
def test_microseconds_survive_the_way_through_a_datetime(micros: int) -> None:
    assert to_micros(from_micros(micros)) == micros


@given(st.datetimes())
def test_a_naive_datetime_is_taken_as_utc(when: datetime) -> None:
    assert to_micros(when) == to_micros(when.replace(tzinfo=UTC))


def test_an_offset_is_taken_into_account() -> None:
    berlin = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))

    assert to_micros(berlin) == to_micros(datetime(2026, 1, 1, tzinfo=UTC))


def test_rfc_3339_has_six_digits_and_a_z() -> None:
    assert to_rfc3339(0) == "1970-01-01T00:00:00.000000Z"
    assert to_rfc3339(1_767_225_600_000_001) == "2026-01-01T00:00:00.000001Z"


def test_the_last_instant_can_still_be_shown() -> None:
    assert to_rfc3339(MAX_MICROS) == "9999-12-31T23:59:59.999999Z"


def test_the_system_clock_tells_the_present() -> None:
    assert abs(SYSTEM_CLOCK.now() / 1e6 - time.time()) < 5


def test_a_manual_clock_moves_only_when_told_to() -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    start = clock.now()

    assert clock.now() == start
    clock.advance(1.5)
    assert clock.now() == start + 1_500_000
    clock.advance(-2)
    assert clock.now() == start - 500_000


def test_a_manual_clock_begins_in_the_present() -> None:
    assert abs(ManualClock().now() - SYSTEM_CLOCK.now()) < 5_000_000
