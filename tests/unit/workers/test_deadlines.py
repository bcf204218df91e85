"""Timeouts that share a timer."""

from __future__ import annotations

import asyncio

from netscript_workers.execution.runners.deadlines import Deadlines
from tests.support import eventually_async


async def test_what_lasts_too_long_is_told_of_once_and_in_its_turn() -> None:
    late: list[str] = []
    deadlines = Deadlines(late.append)
    deadlines.begin("first", 0.05)
    deadlines.begin("second", 0.05)
    deadlines.begin("patient", 60.0)
    await eventually_async(lambda: len(late) == 2)
    assert late == ["first", "second"]
    deadlines.end("first", 0.05)  # it ended all the same, and after the limit
    deadlines.begin("third", 0.05)
    await eventually_async(lambda: len(late) == 3)
    assert late == ["first", "second", "third"]
    deadlines.close()


async def test_what_ended_in_time_is_not_told_of_and_moves_nobody_elses_limit() -> None:
    late: list[int] = []
    deadlines = Deadlines(late.append)
    for number in range(5):
        deadlines.begin(number, 0.1)
    for number in (0, 3, 1):
        deadlines.end(number, 0.1)
    began = asyncio.get_running_loop().time()
    await eventually_async(lambda: len(late) == 2)
    assert asyncio.get_running_loop().time() - began >= 0.09
    assert late == [2, 4]


async def test_one_timer_serves_any_number() -> None:
    made: list[float] = []
    loop = asyncio.get_running_loop()
    call_at = loop.call_at

    def counted(when: float, *args: object, **options: object) -> asyncio.TimerHandle:
        made.append(when)
        return call_at(when, *args, **options)  # type: ignore[arg-type]

    loop.call_at = counted  # type: ignore[method-assign]
    deadlines: Deadlines[int] = Deadlines(lambda _: None)
    for number in range(1000):
        deadlines.begin(number, 30.0)
        deadlines.end(number, 30.0)
    del loop.call_at
    assert len(made) == 1
    deadlines.close()
