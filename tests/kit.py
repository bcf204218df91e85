"""Short words for store tests: put executions in, claim them, end them, look at them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import text

from netscript_workers import JobContext, define_job_handler
from netscript_workers.domain import (
    SUSPECT_AFTER,
    ClaimedExecution,
    Enqueued,
    NewExecution,
    Outcome,
    Verdict,
)
from netscript_workers.ids import new_id
from netscript_workers.payloads import fingerprint
from netscript_workers.records import ExecutionDetail
from netscript_workers.store import definitions, leases, outbox, queries, suspects, sweeping
from netscript_workers.store.engine import Store
from netscript_workers.store.idempotency import DEFAULT_WINDOW
from netscript_workers.store.leases import WorkerRecord
from netscript_workers.store.outbox import Submission
from netscript_workers.store.outcomes import Settled
from netscript_workers.store.tick import Done, Ticker, Work
from netscript_workers.topics import Served


def new(job: str = "a", payload: str = "{}", **facts: Any) -> NewExecution:
    """Return an execution that is about to be stored."""
    return NewExecution(
        id=new_id(), job_id=job, payload=payload, fingerprint=fingerprint(payload), **facts
    )


def put(store: Store, *executions: NewExecution, window: int = DEFAULT_WINDOW) -> list[Enqueued]:
    """Store executions in one transaction."""
    with store.begin() as conn:
        (receipt,) = outbox.store(
            conn,
            store.dialect,
            [Submission(executions=executions)],
            now=store.now(conn),
            window=window,
        )
    return list(receipt.enqueued)


def limit(store: Store, job: str = "a", **limits: Any) -> None:
    """Register a job with these limits, or with others than before."""

    async def handler(ctx: JobContext) -> None: ...

    definitions.register(store, [define_job_handler(handler, id=job, **limits)])


class Hand:
    """A worker without loop and threads: it ticks when told to."""

    def __init__(
        self,
        store: Store,
        jobs: Sequence[str] | Mapping[str, bool] = ("a", "b"),
        topics: Sequence[str] | None = None,
    ) -> None:
        self.id = new_id()
        self._store = store
        self._jobs = json.dumps(list(jobs))
        known = jobs if isinstance(jobs, Mapping) else dict.fromkeys(jobs, False)
        self.ticker = Ticker(store, worker_id=self.id, jobs=known, topics=topics)

    def register(self, lease: float = 30.0, lifeline: Path = Path("/nonexistent/x.lock")) -> None:
        record = WorkerRecord(
            id=self.id, version="1", concurrency=10, jobs=("a",), lifeline=lifeline
        )
        leases.register(self._store, record, lease)

    def tick(self, *ended: Settled, slots: int = 0, look: bool = True) -> Done:
        return self.ticker.run(Work(ended=list(ended), slots=slots, look=look))

    def claim(self, slots: int = 10) -> list[ClaimedExecution]:
        return self.tick(slots=slots).claimed

    def claim_one(self) -> ClaimedExecution:
        (claimed,) = self.claim(1)
        return claimed

    def claim_suspect(self) -> ClaimedExecution | None:
        return suspects.claim(self._store, self.id, self._jobs, Served())

    def end(
        self, claim: ClaimedExecution, verdict: Verdict = Verdict.COMPLETE, **facts: Any
    ) -> Done:
        return self.tick(ended(claim, verdict, **facts))


def lose(store: Store, execution: NewExecution, times: int = SUSPECT_AFTER) -> NewExecution:
    """Store an execution that so many workers have died of."""
    put(store, execution)
    for _ in range(times):
        dead = Hand(store, [execution.job_id])
        dead.register(lease=-1)
        assert [claim.id for claim in dead.claim()] == [execution.id]
        assert leases._rescue_one(store, dead.id, proven=True) == [execution.id]
    return execution


def ended(claim: ClaimedExecution, verdict: Verdict = Verdict.COMPLETE, **facts: Any) -> Settled:
    """Return the end of an attempt."""
    return Settled(
        claim, Outcome(execution_id=claim.id, token=claim.token, verdict=verdict, **facts)
    )


def detail(store: Store, execution_id: str) -> ExecutionDetail:
    """Return the whole record of an execution."""
    with store.read() as conn:
        return queries.get_execution(conn, execution_id, now=store.now(conn))


def status(store: Store, execution_id: str) -> str:
    """Return where an execution stands."""
    return detail(store, execution_id).execution.status.value


def waiting_for_locks(store: Store) -> int:
    """Return how many of this PostgreSQL database wait for a lock.

    `pg_locks` lists those of every database of the server, and other tests' are there too.
    """
    return int(
        scalar(
            store,
            "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE NOT granted AND datname = current_database()",
        )
    )


def scalar(store: Store, sql: str, **bound: Any) -> Any:
    """Return one value."""
    with store.read() as conn:
        return conn.execute(text(sql), bound).scalar()


def rows(store: Store, sql: str, **bound: Any) -> list[Any]:
    """Return rows as tuples."""
    with store.read() as conn:
        return [tuple(row) for row in conn.execute(text(sql), bound)]


def run(store: Store, sql: str, **bound: Any) -> None:
    """Run a statement of the test's own."""
    with store.begin() as conn:
        conn.execute(text(sql), bound)


def sweep(store: Store) -> int:
    """Sweep all keys and gates; return how much there was to repair."""
    total, after = 0, ""
    while True:
        with store.begin() as conn:
            now = store.now(conn)
            repaired, after = sweeping.sweep_keys(conn, store.dialect, after, now)
        total += repaired
        if not after:
            break
    with store.begin() as conn:
        return total + sweeping.sweep_gates(conn, store.dialect, store.now(conn))


def assert_slots_exact(store: Store) -> None:
    """Every key has as many slots in use as executions hold it, and nothing is to be repaired."""
    used = rows(store, "SELECT key, used FROM netscript_concurrency_slots ORDER BY key")
    sql = (
        "SELECT concurrency_key, count(*) FROM netscript_executions WHERE status IN ('queued', "
        "'running') AND concurrency_key IS NOT NULL GROUP BY concurrency_key ORDER BY 1"
    )
    assert used == rows(store, sql)
    assert_gates_exact(store)
    assert sweep(store) == 0


def assert_gates_exact(store: Store) -> None:
    """Every gate counts those that have a place, and who has one is ready or runs."""
    used = rows(store, "SELECT job_id, used FROM netscript_job_gates WHERE used > 0 ORDER BY 1")
    sql = (
        "SELECT job_id, count(*) FROM netscript_executions WHERE holds_job "
        "GROUP BY job_id ORDER BY 1"
    )
    assert used == rows(store, sql)
    sql = (
        "SELECT count(*) FROM netscript_executions WHERE holds_job AND status NOT IN "
        "('queued', 'running') OR wants_job AND status <> 'blocked'"
    )
    assert scalar(store, sql) == 0
