"""Low-water marks: claims that cost no more while dead rows pile up, and lose nothing below."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import text

from netscript_workers import JobContext, define_job_handler
from netscript_workers.domain import ClaimedExecution, NewExecution
from netscript_workers.ids import new_id
from netscript_workers.store import claims, outbox
from netscript_workers.store.engine import Store
from netscript_workers.store.idempotency import DEFAULT_WINDOW
from netscript_workers.store.marks import Marks
from netscript_workers.store.outbox import Submission
from tests.integration.store.crowds import cost
from tests.kit import Hand, ended, new, put
from tests.working import working

pytestmark = [pytest.mark.postgres, pytest.mark.fresh_database]

MINUTE = 60_000_000


@pytest.fixture
def pg(postgres_url: str) -> Iterator[Store]:
    store = Store(postgres_url, pool_size=1)
    yield store
    store.dispose()


class Marked:
    """A worker that claims by marks, and whose clock stands until it is moved."""

    def __init__(self, store: Store) -> None:
        self.at = 0.0
        self.hand = Hand(store)
        self.marks = self.hand.ticker.marks = Marks(clock=lambda: self.at)
        self.marks.wanted = True

    def claim(self, slots: int = 10) -> list[str]:
        return [claim.id for claim in self.hand.claim(slots)]

    def wait(self) -> None:
        """Let the time for a sweep come."""
        self.at += max(self.marks.due_in, 0.0)


def put_late(store: Store, *executions: NewExecution) -> None:
    """Store executions whose transaction began a minute before it commits."""
    with store.begin() as conn:
        given = [Submission(executions=executions)]
        began = store.now(conn) - MINUTE
        outbox.store(conn, store.dialect, given, now=began, window=DEFAULT_WINDOW)


@pytest.mark.trap("D-57")
def test_who_commits_late_is_found_by_the_next_sweep(pg: Store) -> None:
    worker = Marked(pg)
    late, other, last = new(), new(), new()
    put(pg, new())
    assert len(worker.claim()) == 1
    put_late(pg, late)
    put(pg, other)
    assert worker.claim() == [other.id]
    assert worker.claim() == []
    worker.wait()
    assert worker.claim() == [late.id]
    put(pg, last)
    assert worker.claim() == [last.id]


def test_a_new_topic_and_an_urgent_execution_wait_for_a_sweep_at_most(pg: Store) -> None:
    worker = Marked(pg)
    put(pg, new())
    assert len(worker.claim()) == 1
    urgent, elsewhere = new(priority=100), new(topic="elsewhere")
    put(pg, urgent, elsewhere)
    worker.wait()
    assert sorted(worker.claim()) == sorted([urgent.id, elsewhere.id])


def test_among_those_that_wait_the_more_urgent_go_first(pg: Store) -> None:
    worker = Marked(pg)
    put(pg, *(new() for _ in range(20)))
    worker.claim(5)
    urgent = [new(priority=90) for _ in range(3)]
    put(pg, *urgent)
    worker.wait()
    assert set(worker.claim(3)) == {one.id for one in urgent}


def test_without_an_old_snapshot_there_is_no_mark(pg: Store) -> None:
    worker = Marked(pg)
    put(pg, new())
    worker.claim()
    worker.marks.wanted = False
    late = new()
    put_late(pg, late)
    assert worker.claim() == [late.id]


def test_the_probe_sees_what_is_above_the_marks_and_sweeps_when_it_is_time(pg: Store) -> None:
    worker = Marked(pg)

    def ready() -> bool:
        with pg.read() as conn:
            return claims.probe(conn, pg.dialect, new_id(), worker.marks).ready

    assert not ready()
    put(pg, new())
    assert not ready()  # of a topic that nobody has heard of
    worker.wait()
    assert ready()
    worker.claim()
    put(pg, new())
    assert ready()
    worker.claim()
    put_late(pg, new())
    assert not ready()
    worker.wait()
    assert ready()


@pytest.mark.trap("D-56")
def test_under_an_old_snapshot_neither_a_claim_nor_an_end_costs_more(
    pg: Store, postgres_url: str
) -> None:
    worker = Marked(pg)
    running: list[ClaimedExecution] = []

    def claim() -> None:
        claimed = worker.hand.claim(10)
        assert len(claimed) == 10
        running.extend(claimed)

    def end() -> None:
        ends = [ended(running.pop(0)) for _ in range(10)]
        assert worker.hand.tick(*ends, look=False).stale == set()

    def costs() -> tuple[int, int, int]:
        put(pg, *(new() for _ in range(20)))
        worker.wait()
        claim()  # and with it the sweep
        with pg.begin() as conn:
            conn.execute(text("ANALYZE netscript_executions"))
        taken = cost(pg, claim), cost(pg, end)
        end()
        return *taken, cost(pg, lambda: worker.hand.tick(slots=5))

    few = costs()
    with psycopg.connect(postgres_url) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        conn.execute("SELECT 1")
        hand = Hand(pg)
        for _ in range(10):
            put_late(pg, *(new() for _ in range(300)))  # dead by now for a minute, so to speak
            hand.tick(*map(ended, hand.claim(300)))
        many = costs()
        plain = Hand(pg)
        put(pg, *(new() for _ in range(10)))
        without = cost(pg, lambda: plain.claim(10))
    assert [now <= 2 * before + 5 for now, before in zip(many, few, strict=True)] == [True] * 3, (
        few,
        many,
    )
    assert without > 2 * many[0], "there was nothing to step over, so this shows nothing"


@pytest.mark.trap("D-57")
async def test_a_worker_finds_who_commits_late_within_a_second(postgres_url: str) -> None:
    async def nothing(_: JobContext[object]) -> None: ...

    store, late = Store(postgres_url), new("late")
    job = define_job_handler(nothing, id="late")
    async with working(store, job) as running:
        assert running.worker._pump is not None
        running.worker._pump.use_marks(True)
        await running.run(job)
        put_late(store, late)
        committed = store_now(store)
        finished = await running.ended(late.id)
        assert finished.execution.started_at is not None
        late_by = finished.execution.started_at.timestamp() - committed / 1e6
    store.dispose()
    assert late_by < 5, "a second, and patience for a busy machine"


def store_now(store: Store) -> int:
    with store.read() as conn:
        return store.now(conn)
