"""Pages of long lists: each row once, in order, and never more looked at than is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from netscript_triggers.events import EventStatus
from netscript_triggers.store import queries as events
from netscript_triggers.store.replays import EventFilter
from netscript_workers.domain import ExecutionStatus, Reason, Verdict
from netscript_workers.errors import CursorError
from netscript_workers.ids import new_id
from netscript_workers.store import pages, queries
from netscript_workers.store.engine import Store
from netscript_workers.store.queries import ExecutionFilter, Page
from netscript_workers.store.schema import history
from tests.integration.store.crowds import cost, multiply
from tests.kit import Hand, new, put

DONE, DEAD = ExecutionStatus.COMPLETED, ExecutionStatus.FAILED


def page(store: Store, wanted: ExecutionFilter, cursor: str | None = None, limit: int = 5) -> Page:
    with store.read() as conn:
        return queries.list_executions(conn, wanted, limit=limit, cursor=cursor, now=0)


def finish(store: Store, *, fail: bool = False, **facts: Any) -> str:
    put(store, one := new(**facts))
    hand = Hand(store)
    claim = hand.claim_one()
    if fail:
        hand.end(claim, Verdict.FAIL, reason=Reason.ERROR, failure=Reason.ERROR)
    else:
        hand.end(claim)
    return one.id


@pytest.mark.parametrize(
    "wanted",
    [
        ExecutionFilter(),
        ExecutionFilter(statuses=(DEAD,), topic="x"),
        ExecutionFilter(statuses=(DONE, DEAD, ExecutionStatus.QUEUED)),
        ExecutionFilter(job_id="a", topic="x", statuses=(DONE, ExecutionStatus.QUEUED)),
        ExecutionFilter(reason=Reason.ERROR, job_id="a"),
        ExecutionFilter(created_after=0, topic="x"),
    ],
    ids=str,
)
def test_every_row_comes_once_however_few_are_looked_at(
    store: Store, monkeypatch: pytest.MonkeyPatch, wanted: ExecutionFilter
) -> None:
    for n in range(12):
        finish(store, fail=n % 3 == 0, topic="x" if n % 2 else "y")
    put(store, *(new(topic="x" if n % 2 else "y") for n in range(6)))
    everything = [one.id for one in page(store, wanted, limit=100).executions]
    assert everything
    monkeypatch.setattr(pages, "LOOKED_AT", (1, 2))
    found: list[str] = []
    cursor: str | None = None
    for _ in range(30):
        got = page(store, wanted, cursor, limit=3)
        assert len(got.executions) <= 3
        found += [one.id for one in got.executions]
        cursor = got.next_cursor
        if cursor is None:
            break
    assert cursor is None
    assert found == everything == sorted(found, reverse=True)


@pytest.mark.parametrize(
    "wanted",
    [
        ExecutionFilter(job_id="a", topic="nowhere"),
        ExecutionFilter(job_id="a", statuses=(DONE, DEAD), topic="nowhere"),
        ExecutionFilter(correlation_id="c", statuses=(DEAD,)),
        ExecutionFilter(created_after=10**16 - 1, topic="x"),
    ],
    ids=str,
)
def test_a_page_that_finds_nothing_costs_no_more_in_a_long_history(
    database_url: str, monkeypatch: pytest.MonkeyPatch, wanted: ExecutionFilter
) -> None:
    store = Store(database_url, pool_size=1)
    monkeypatch.setattr(pages, "LOOKED_AT", (10, 100))
    old = finish(store, topic="x", correlation_id="c")
    multiply(store, history, old, 400)

    def look() -> None:
        with store.begin() as conn:
            queries.list_executions(conn, wanted, limit=5, now=0)

    look()
    few = cost(store, look)
    multiply(store, history, old, 6000)
    got = page(store, wanted)
    assert got.executions == ()
    assert got.next_cursor is not None or wanted.created_after is not None
    assert cost(store, look) <= 2 * few
    store.dispose()


def test_a_cursor_is_of_one_list_and_written_in_one_way() -> None:
    id_ = new_id()
    cursor = pages.write_cursor(id_, "x")
    assert pages.read_cursor(cursor, "x") == id_
    for wrong in (id_, "", "0", cursor + "=", cursor[:-1], cursor.upper(), "ä", "A" * 5000):
        with pytest.raises(CursorError):
            pages.read_cursor(wrong, "x")
    with pytest.raises(CursorError):
        pages.read_cursor(cursor, "e")
    assert pages.read_name(pages.write_name("a/ä")) == "a/ä"
    with pytest.raises(CursorError):
        pages.read_name(cursor)


def test_the_day_before_and_after_a_time_is_looked_at_too(store: Store) -> None:
    put(store, *(new() for _ in range(3)))
    with store.read() as conn:
        now = store.now(conn)
    hour = 3_600_000_000
    assert len(page(store, ExecutionFilter(created_after=now - hour)).executions) == 3
    assert len(page(store, ExecutionFilter(created_before=now + hour)).executions) == 3
    for edge in (-(10**17), 0, 10**17):
        after = page(store, ExecutionFilter(created_after=edge)).executions
        before = page(store, ExecutionFilter(created_before=edge)).executions
        assert len(after) + len(before) == 3


def test_events_are_filtered_in_the_same_way(store: Store) -> None:
    wanted = EventFilter(
        statuses=(EventStatus.DEAD, EventStatus.FAILED),
        trigger_id="t",
        event_type="sale",
        received_after=0,
        received_before=10**16,
    )
    with store.read() as conn:
        assert events.list_events(conn, wanted, limit=5).events == ()
        with pytest.raises(CursorError):
            events.list_events(conn, EventFilter(trigger_id="\0"), limit=5, cursor="0")
