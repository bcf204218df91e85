"""The list of changes: a follower sees every commit, in the order of the commits."""

from __future__ import annotations

import json

import pytest

from netscript_workers.store import changes, leases, outbox, retention
from netscript_workers.store.changes import Change
from netscript_workers.store.engine import Store
from netscript_workers.store.outbox import Submission
from tests.integration.store.scenes import no_folder
from tests.kit import Hand, ended, new, put, rows, run


def stamp(store: Store, limit: int = 1000) -> int:
    with store.begin(lock_timeout=2.0) as conn:
        return changes.stamp(conn, store.dialect, limit=limit)


def read(store: Store, after: int = 0, limit: int = 1000) -> list[Change]:
    with store.read() as conn:
        return changes.read(conn, after, limit=limit)


def ids(change: Change) -> list[str]:
    return [id_ for id_, _ in change.items]


def test_one_prune_numbers_all_that_was_committed_however_much_it_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "STAMPED_AT_A_TIME", 3)
    for _ in range(10):
        put(store, new())
    retention.prune(store, retention.Retention())
    assert [change.seq for change in read(store)] == list(range(1, 11))


@pytest.mark.postgres
def test_a_commit_that_comes_late_is_numbered_late_and_missed_by_nobody(postgres_url: str) -> None:
    store = Store(postgres_url)
    slow, quick = new(), new()
    with store.begin() as conn:  # its row is inserted first, and committed last
        outbox.store(conn, store.dialect, [Submission(executions=(slow,))], now=store.now(conn))
        put(store, quick)
        assert stamp(store) == 1
        (first,) = read(store)
        assert ids(first) == [quick.id]
    assert stamp(store) == 1
    (second,) = read(store, after=first.seq)
    assert (ids(second), second.seq) == ([slow.id], 2)
    inserted = [
        json.loads(items)[0][0]
        for (items,) in rows(store, "SELECT items FROM netscript_changes ORDER BY id")
    ]
    assert inserted == [slow.id, quick.id]
    store.dispose()


@pytest.mark.postgres
def test_where_somebody_stamps_the_second_does_nothing(postgres_url: str) -> None:
    store = Store(postgres_url)
    put(store, new())
    with store.begin() as conn:
        assert changes.stamp(conn, store.dialect) == 1
        put(store, new())
        assert stamp(store) == 0
    assert stamp(store) == 1
    assert [change.seq for change in read(store)] == [1, 2]
    store.dispose()


def test_what_is_not_stamped_is_not_read(store: Store) -> None:
    put(store, new())
    assert read(store) == []
    assert stamp(store) == 1
    assert len(read(store)) == 1


def test_a_rolled_back_transaction_leaves_no_change(store: Store) -> None:
    with store.engine.connect() as conn:
        changes.record(conn, store.dialect, [("x", "queued")], 1)
        conn.rollback()
    assert stamp(store) == 0


def test_stamping_and_reading_go_on_where_they_left_off(store: Store) -> None:
    given = [new() for _ in range(5)]
    for one in given:
        put(store, one)
    assert [stamp(store, limit=2) for _ in range(4)] == [2, 2, 1, 0]
    first = read(store, limit=3)
    rest = read(store, after=first[-1].seq)
    assert [ids(change)[0] for change in first + rest] == [one.id for one in given]


def test_an_execution_stands_once_in_a_change_as_the_commit_left_it(store: Store) -> None:
    put(store, new(concurrency_key="k"))
    hand = Hand(store)
    claim = hand.claim_one()  # blocked, queued and running within one commit
    stamp(store)
    assert read(store)[-1].items == ((claim.id, "running"),)


def test_numbers_go_on_after_all_old_changes_are_gone_but_one(store: Store) -> None:
    for _ in range(4):
        put(store, new())
    stamp(store)
    with store.begin() as conn:
        assert changes.prune(conn, before=2**60, limit=100) == 3
    put(store, new())
    stamp(store)
    assert [change.seq for change in read(store)] == [4, 5]


def test_unstamped_changes_are_never_pruned(store: Store) -> None:
    put(store, new())
    stamp(store)
    put(store, new())
    put(store, new())
    with store.begin() as conn:
        changes.prune(conn, before=2**60, limit=100)
    assert stamp(store) == 2


def test_a_duplicate_is_no_change(store: Store) -> None:
    put(store, new(idempotency_key="k"))
    put(store, new(idempotency_key="k"))
    assert stamp(store) == 1


def test_every_way_of_an_execution_is_told(store: Store) -> None:
    given = new(delay=1)
    put(store, given)
    hand = Hand(store)
    while not (claimed := hand.claim(1)):
        pass
    leases.rescue(store, new().id, no_folder())  # the worker is on no list
    again = Hand(store)
    again.tick(ended(again.claim_one()))
    stamp(store)
    told = [status for change in read(store) for id_, status in change.items if id_ == given.id]
    assert claimed[0].id == given.id
    assert told == ["scheduled", "running", "queued", "running", "completed"]


def test_progress_alone_is_no_change(store: Store) -> None:
    put(store, new())
    hand = Hand(store)
    hand.claim_one()
    stamp(store)
    run(store, "UPDATE netscript_executions SET progress_percent = 5")
    hand.tick(slots=0)
    assert stamp(store) == 0
