"""Keeping: history, retention, and the list of changes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from netscript_workers.domain import Reason, Verdict
from netscript_workers.store import changes
from netscript_workers.store.engine import Store
from netscript_workers.store.retention import Retention, prune
from netscript_workers.store.steps import FinishedStep, LogLine
from netscript_workers.store.tick import Work
from netscript_workers.testing import ManualClock
from tests.kit import Hand, new, put, rows, run, scalar

DAY = 24 * 3600


def finish(store: Store, verdict: Verdict) -> str:
    put(store, new())
    hand = Hand(store)
    claim = hand.claim_one()
    work = Work(
        steps=[FinishedStep(claim.id, claim.token, "s", "1", 1)],
        logs=[LogLine(claim.id, 1, 5, "INFO", "hello")],
    )
    hand.ticker.run(work)
    hand.end(claim, verdict, reason=Reason.ERROR, failure=Reason.ERROR)
    return claim.id


def kept(store: Store) -> set[str]:
    return {str(id_) for (id_,) in rows(store, "SELECT id FROM netscript_execution_history")}


def read(store: Store, after: int = 0) -> list[changes.Change]:
    with store.begin() as conn:
        changes.stamp(conn, store.dialect)
    with store.read() as conn:
        return changes.read(conn, after)


class Keeping:
    """What is finished is kept for its time; what changed is told in the order of the commits."""

    def test_completed_goes_first_failed_later_and_all_it_left_with_it(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        done, failed = finish(timed_store, Verdict.COMPLETE), finish(timed_store, Verdict.FAIL)
        clock.advance(6.9 * DAY)
        prune(timed_store, Retention())
        assert kept(timed_store) == {done, failed}
        clock.advance(0.2 * DAY)
        prune(timed_store, Retention())
        assert kept(timed_store) == {failed}
        clock.advance(84 * DAY)
        prune(timed_store, Retention())
        assert kept(timed_store) == set()
        for table in ("attempts", "steps", "logs"):
            assert scalar(timed_store, f"SELECT count(*) FROM netscript_execution_{table}") == 0

    def test_a_live_execution_is_never_pruned(self, timed_store: Store, clock: ManualClock) -> None:
        put(timed_store, new())
        clock.advance(1000 * DAY)
        prune(timed_store, Retention())
        assert scalar(timed_store, "SELECT count(*) FROM netscript_executions") == 1

    def test_expired_keys_are_pruned(self, timed_store: Store, clock: ManualClock) -> None:
        put(timed_store, new(idempotency_key="old"))
        clock.advance(73 * 3600)
        put(timed_store, new(idempotency_key="young"))
        prune(timed_store, Retention())
        assert rows(timed_store, "SELECT key FROM netscript_idempotency_keys") == [("young",)]

    def test_every_commit_is_one_change_in_order(self, store: Store) -> None:
        given = new(), new()
        put(store, *given)
        hand = Hand(store)
        hand.end(hand.claim(1)[0])
        told = read(store)
        assert [change.seq for change in told] == [1, 2, 3]
        assert set(told[0].items) == {(one.id, "queued") for one in given}
        assert told[1].items == ((given[0].id, "running"),)
        assert told[2].items == ((given[0].id, "completed"),)
        assert read(store, after=2) == told[2:]

    def test_two_stampers_number_each_commit_once(self, store: Store) -> None:
        def work(_: int) -> None:
            for _ in range(20):
                put(store, new())
                with store.begin() as conn:
                    changes.stamp(conn, store.dialect)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert [change.seq for change in read(store)] == list(range(1, 81))

    def test_old_changes_go_but_never_the_newest(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        for _ in range(3):
            put(timed_store, new())
        read(timed_store)
        clock.advance(2 * 3600)
        prune(timed_store, Retention())
        assert [change.seq for change in read(timed_store)] == [3]
        run(timed_store, "DELETE FROM netscript_executions")
        put(timed_store, new())
        assert [change.seq for change in read(timed_store)] == [3, 4]
