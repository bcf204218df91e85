"""What the tests of batches share: storing them, and what became of them."""

from __future__ import annotations

from typing import Any

from netscript_workers import EnqueueBatch, JobContext, enqueue_batch, enqueue_job, job
from netscript_workers.actions import Cause
from netscript_workers.batches import Action, resolve_all
from netscript_workers.domain import Enqueued, NewWork, TriggeredBy
from netscript_workers.store import outbox
from netscript_workers.store.engine import Store
from netscript_workers.store.outbox import Submission
from tests.kit import Hand, ended, rows

CAUSE = Cause(triggered_by=TriggeredBy.API, correlation_id="the cause", traceparent="00-a-b-01")


@job(id="a")
async def a(ctx: JobContext[dict[str, int]]) -> None: ...


@job(id="b")
async def b(ctx: JobContext[dict[str, Any]]) -> None: ...


def batch_of(count: int, **options: Any) -> EnqueueBatch:
    """Return a batch of so many jobs "a" that is followed by a "b"."""
    members = [enqueue_job(a, {"n": n}, **options) for n in range(count)]
    return enqueue_batch(members, on_complete=enqueue_job(b, {"all": count}))


def store_work(store: Store, *actions: Action) -> tuple[NewWork, list[Enqueued]]:
    """Store actions in one transaction."""
    work = resolve_all(actions, None, CAUSE)
    with store.begin() as conn:
        given = Submission(executions=work.executions, batches=work.batches)
        (receipt,) = outbox.store(conn, store.dialect, [given], now=store.now(conn))
    return work, list(receipt.enqueued)


def drain(hand: Hand) -> list[str]:
    """Run until nothing is left; return the ids in the order in which they were claimed."""
    found: list[str] = []
    done = hand.tick(slots=50)
    while done.claimed or done.more:
        found += [claim.id for claim in done.claimed]
        done = hand.tick(*map(ended, done.claimed), slots=50)
    return found


def callbacks(store: Store) -> list[str]:
    """Return the payloads of all jobs "b" that are stored."""
    live = rows(store, "SELECT payload FROM netscript_executions WHERE job_id = 'b'")
    over = rows(store, "SELECT payload FROM netscript_execution_history WHERE job_id = 'b'")
    return [payload for (payload,) in live + over]


def counted(store: Store) -> list[tuple[int, int, bool]]:
    """Return of each batch what it expects, what is counted, and whether it is complete."""
    sql = "SELECT expected, done, completed_at FROM netscript_batches ORDER BY id"
    return [(expected, done, at is not None) for expected, done, at in rows(store, sql)]
