"""Every broken promise is found; a busy database that keeps them shows none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from netscript_triggers import WebhookEvent, enqueue_job
from netscript_triggers.store.verify import verify
from netscript_workers import JobContext, JobResult, create_success_result, job
from netscript_workers.ids import new_id
from netscript_workers.store import changes, definitions
from netscript_workers.store.engine import Store
from netscript_workers.store.findings import Terms
from netscript_workers.store.retention import Retention, oldest_id
from netscript_workers.testing import ManualClock
from tests.edge import Edge, open_edge, trigger
from tests.kit import Hand, new, put, rows, run, scalar
from tests.support import eventually_async
from tests.working import working

MINUTE = 60_000_000


class Scene:
    """A database in which everything is as it should be: something of every kind is there."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store, self.clock = store, clock
        self.hand = Hand(store)
        self.hand.register(lease=120)
        put(store, *(new(concurrency_key="k") for _ in range(2)), new(), new())
        put(store, new(idempotency_key="once"))
        self.clock.advance(1)
        claims = {claim.concurrency_key: claim for claim in self.hand.claim(2)}
        self.done = self._end(claims[None].id, claims)
        self.keyed = claims["k"].id
        self.waiting = self._one("status = 'blocked'")
        self.queued = self._one("status = 'queued' AND idempotency_key IS NULL")
        self.once = self._one("idempotency_key = 'once'")
        put(store, new(delay=3600 * 1_000_000))
        self.scheduled = self._one("status = 'scheduled'")

    def _end(self, id_: str, claims: dict[str | None, Any]) -> str:
        self.clock.advance(1)
        self.hand.end(claims[None])
        return id_

    def _one(self, where: str) -> str:
        found: str = scalar(
            self.store, f"SELECT CAST(id AS text) FROM netscript_executions WHERE {where}"
        )
        return found

    def run(self, sql: str, **bound: Any) -> None:
        run(self.store, sql, **bound)

    def live(self, id_: str, assignment: str, **bound: Any) -> None:
        self.run(f"UPDATE netscript_executions SET {assignment} WHERE id = :id", id=id_, **bound)

    def finished(self, assignment: str, **bound: Any) -> None:
        self.run(
            f"UPDATE netscript_execution_history SET {assignment} WHERE id = :id",
            id=self.done,
            **bound,
        )

    def finish_again(self, **facts: Any) -> None:
        """Put a second finished row beside the first, like it but for these facts."""
        facts = {"id": f"'{new_id()}'", **facts}
        table = "netscript_execution_history"
        columns = list(self._columns(table))
        wanted = ", ".join(str(facts.get(name, name)) for name in columns)
        self.run(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {wanted} FROM {table} WHERE id=:id",
            id=self.done,
        )

    def _columns(self, table: str) -> tuple[str, ...]:
        with self.store.read() as conn:
            return tuple(conn.exec_driver_sql(f"SELECT * FROM {table}").keys())


@pytest.fixture
def scene(timed_store: Store, clock: ManualClock) -> Scene:
    return Scene(timed_store, clock)


def later(scene: Scene, seconds: float = 300) -> None:
    scene.clock.advance(seconds)


def break_execution_twice(scene: Scene) -> None:
    scene.finish_again(id=f"'{scene.queued}'")


def break_key_overlap(scene: Scene) -> None:
    scene.finished("concurrency_key = 'o', finished_at = finished_at + 5000000")
    scene.finish_again(token="token + 1", started_at="started_at + 2000000")


def break_key_overlap_with_running(scene: Scene) -> None:
    scene.finished("concurrency_key = 'k', token = 0, finished_at = finished_at + 5000000")


def break_two_holders(scene: Scene) -> None:
    scene.live(scene.waiting, "status = 'queued', holds_key = :yes, reason = NULL", yes=True)


def break_two_running(scene: Scene) -> None:
    scene.live(scene.waiting, "status='running', token=9, started_at=run_at, holds_key=:y", y=True)
    worker = scene.hand.id
    scene.live(scene.waiting, "worker_id = :worker", worker=worker)


def break_overlooked(scene: Scene) -> None:
    put(scene.store, new(concurrency_key="forgotten"))
    scene.run("DELETE FROM netscript_admissions")
    later(scene, 100)


def break_gate(scene: Scene) -> None:
    put(scene.store, new(limited="job limit"))
    scene.run("DELETE FROM netscript_admissions")
    later(scene, 100)


def break_place(scene: Scene) -> None:
    scene.live(scene.scheduled, "limited = :yes, holds_job = :yes", yes=True)
    scene.run("INSERT INTO netscript_job_gates (job_id, used) VALUES ('a', 1)")


def break_worker(scene: Scene) -> None:
    scene.run("DELETE FROM netscript_workers")
    later(scene)


PLANTED: dict[str, tuple[str, Callable[[Scene], None]]] = {
    "live and finished": ("execution-twice", break_execution_twice),
    "two of a key at once": ("key-overlap", break_key_overlap),
    "beside one that runs": ("key-overlap", break_key_overlap_with_running),
    "two hold a key": ("key-held-twice", break_two_holders),
    "two of a key run": ("key-runs-twice", break_two_running),
    "a slot that nobody holds": (
        "slot-drift",
        lambda scene: scene.run(
            "INSERT INTO netscript_concurrency_slots (key, max_used, used) VALUES ('x', 1, 1)"
        ),
    ),
    "a holder without a slot": (
        "slot-drift",
        lambda scene: scene.run("DELETE FROM netscript_concurrency_slots"),
    ),
    "another holder": (
        "slot-drift",
        lambda scene: scene.run(
            "UPDATE netscript_concurrency_slots SET holder = :id", id=scene.waiting
        ),
    ),
    "a free key that is waited for": ("key-overlooked", break_overlooked),
    "a gate that counts too many": (
        "gate-drift",
        lambda scene: scene.run("INSERT INTO netscript_job_gates (job_id, used) VALUES ('a', 1)"),
    ),
    "a place that no gate counts": (
        "gate-drift",
        lambda scene: scene.live(scene.queued, "limited = :yes, holds_job = :yes", yes=True),
    ),
    "a place of one that waits": ("place-misplaced", break_place),
    "room at a gate where one waits": ("gate-overlooked", break_gate),
    "a worker that is on no list": (
        "worker-unknown",
        break_worker,
    ),
    "a lease that is over": ("lease-over", later),
    "live and completed": (
        "status-impossible",
        lambda scene: scene.live(scene.queued, "status = 'completed'"),
    ),
    "finished and running": (
        "status-impossible",
        lambda scene: scene.finished("status = 'running'"),
    ),
    "scheduled for no reason": (
        "reason-missing",
        lambda scene: scene.live(scene.scheduled, "reason = NULL"),
    ),
    "failed for no reason": (
        "reason-missing",
        lambda scene: scene.finished("status = 'failed', reason = NULL"),
    ),
    "completed without a claim": (
        "never-started",
        lambda scene: scene.finished("token = NULL"),
    ),
    "finished before started": (
        "ends-before-start",
        lambda scene: scene.finished("started_at = finished_at + 2000000"),
    ),
    "cancelled, and waiting all the same": (
        "cancel-forgotten",
        lambda scene: scene.live(scene.queued, "cancel_requested = :yes", yes=True),
    ),
    "an attempt too many": (
        "attempts-exceeded",
        lambda scene: scene.live(scene.queued, "attempt = max_attempts + 1"),
    ),
    "a finished attempt too many": (
        "attempts-exceeded",
        lambda scene: scene.finished("attempt = max_attempts + 1"),
    ),
    "due long ago": (
        "overdue",
        lambda scene: scene.live(
            scene.scheduled, "run_at = :then", then=scene.clock.now() - 2 * MINUTE
        ),
    ),
    "a key of nothing": (
        "key-dangling",
        lambda scene: scene.run("DELETE FROM netscript_executions WHERE id = :id", id=scene.once),
    ),
    "an execution without its key": (
        "key-lost",
        lambda scene: scene.run("DELETE FROM netscript_idempotency_keys"),
    ),
    "two of an idempotency key": (
        "key-lost",
        lambda scene: scene.live(scene.queued, "idempotency_key = 'once'"),
    ),
}


def test_a_database_in_order_shows_nothing(scene: Scene) -> None:
    report = verify(scene.store)
    assert not report.findings, str(report)
    assert report.checked["live"] == 5 and report.checked["history"] == 1
    assert report.checked["idempotency keys"] == 1 and report.checked["slots"] == 1


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_broken_is_found(scene: Scene, planted: str) -> None:
    code, break_it = PLANTED[planted]
    break_it(scene)
    report = verify(scene.store)
    assert code in report.counts, str(report)
    assert any(one.code == code and one.detail for one in report.findings)


def test_a_gap_in_the_numbers_of_commits_is_found(scene: Scene) -> None:
    with scene.store.begin() as conn:
        changes.stamp(conn, scene.store.dialect)
    assert not verify(scene.store).findings
    scene.run("UPDATE netscript_changes SET seq = seq + 100 WHERE seq >= 3")
    report = verify(scene.store)
    assert dict(report.counts) == {"changes-gap": 1}, str(report)


def test_commits_that_nobody_numbers_are_found_where_a_worker_should(scene: Scene) -> None:
    later(scene, 100)
    assert not verify(scene.store).findings  # it may still come
    scene.run("UPDATE netscript_workers SET lease_until = lease_until + 600000000")
    later(scene, 100)
    assert set(verify(scene.store).counts) == {"changes-unnumbered"}


def test_what_is_past_retention_is_pruned_and_not_lost(scene: Scene) -> None:
    scene.run("DELETE FROM netscript_executions WHERE id = :id", id=scene.once)
    scene.run(
        "UPDATE netscript_idempotency_keys SET ref = :old",
        old=oldest_id(scene.clock.now() - 2 * 86_400_000_000),
    )
    assert set(verify(scene.store).counts) == {"key-dangling"}
    report = verify(scene.store, Terms(retention=Retention(completed=1, failed=90)))
    assert not report.findings and report.pruned == 1


def test_more_of_one_kind_are_counted_and_not_all_kept(scene: Scene) -> None:
    put(scene.store, *(new() for _ in range(1200)))
    scene.run("UPDATE netscript_executions SET attempt = 9 WHERE status = 'queued'")
    report = verify(scene.store)
    assert report.counts["attempts-exceeded"] == 1202
    assert len(report.findings) == 100


# Events.


@job(id="charge")
async def charge(ctx: JobContext[dict[str, str]]) -> None: ...


def one_job(event: WebhookEvent) -> list[object]:
    if event.payload.get("fail"):
        raise ValueError("no")
    return [enqueue_job(charge, {}, idempotency_key=event.payload.get("key"))]


EVENTS: dict[str, tuple[str, str]] = {
    "an execution that is nowhere": ("execution-lost", "DELETE FROM netscript_executions"),
    "an event that is nowhere": (
        "event-lost",
        "DELETE FROM netscript_trigger_events WHERE status = 'completed'",
    ),
    "an execution that its event does not name": (
        "execution-unnamed",
        "UPDATE netscript_trigger_events SET executions = '[]'",
    ),
    "an event without its key": (
        "event-key-lost",
        "DELETE FROM netscript_idempotency_keys WHERE scope LIKE 'trigger:%'",
    ),
    "two events of one key": (
        "event-key-lost",
        "UPDATE netscript_trigger_events SET idempotency_key = 'same'",
    ),
    "a failed event that is never tried again": (
        "event-stuck",
        "UPDATE netscript_trigger_events SET due_at = NULL WHERE status = 'failed'",
    ),
    "a completed event that is due": (
        "event-unfinished",
        "UPDATE netscript_trigger_events SET due_at = 1 WHERE status = 'completed'",
    ),
    "an event that is overdue": (
        "event-overdue",
        "UPDATE netscript_trigger_events SET due_at = due_at - 600000000 WHERE status = 'failed'",
    ),
    "an event of no known status": (
        "event-status-impossible",
        "UPDATE netscript_trigger_events SET status = 'lost' WHERE status = 'failed'",
    ),
    "an event that is claimed and waits": (
        "event-claim-broken",
        "UPDATE netscript_trigger_events SET token = id WHERE status = 'failed'",
    ),
    "a run of an event that is nowhere": (
        "replay-lost",
        f"UPDATE netscript_trigger_events SET replayed_from = '{new_id()}'",
    ),
    "a run of itself": (
        "replay-cycle",
        "UPDATE netscript_trigger_events SET replayed_from = id WHERE status = 'failed'",
    ),
    "a run of an event that came later": (
        "replay-cycle",
        "UPDATE netscript_trigger_events SET received_at = received_at - 9000000, replayed_from = "
        "(SELECT id FROM netscript_trigger_events ORDER BY id DESC LIMIT 1) WHERE id = "
        "(SELECT id FROM netscript_trigger_events ORDER BY id LIMIT 1)",
    ),
    "an open circuit that nobody will try": (
        "circuit-stuck",
        "INSERT INTO netscript_trigger_state (trigger_id, enabled, circuit, failures, opened, "
        "changed_at) VALUES ('payment', true, 'open', 1, 1, 1)",
    ),
}


async def deliver(edge: Edge) -> None:
    for body in ({"n": "1"}, {"n": "2", "key": "k"}, {"n": "3", "key": "k"}, {"fail": "1"}):
        assert (await edge.post(body)).status_code == 202


@pytest.mark.parametrize("planted", EVENTS)
async def test_what_is_broken_about_events_is_found(store: Store, planted: str) -> None:
    async with open_edge(store, trigger(one_job)) as edge:
        await deliver(edge)
    report = await asyncio.to_thread(verify, store)
    assert not report.findings, str(report)
    assert report.checked["events"] == 4
    code, sql = EVENTS[planted]
    run(store, sql)
    report = await asyncio.to_thread(verify, store)
    assert code in report.counts, str(report)


async def test_nothing_is_found_while_everything_is_busy(store: Store) -> None:
    tried: set[str] = set()

    @job(id="next", max_concurrency=2)
    async def following(ctx: JobContext[dict[str, str]]) -> None: ...

    @job(id="busy")
    async def busy(ctx: JobContext[dict[str, int]]) -> JobResult:
        await ctx.step("first", lambda: 1)
        if ctx.payload["n"] % 5 == 0 and ctx.id not in tried:
            tried.add(ctx.id)
            raise ValueError("once")
        return create_success_result(actions=[enqueue_job(following, {})])

    def busy_jobs(event: WebhookEvent) -> list[object]:
        number = event.payload["n"]
        keys: dict[str, Any] = {} if number % 3 else {"concurrency_key": f"key-{number % 4}"}
        delay = 0.05 if number % 7 == 0 else None
        return [enqueue_job(busy, {"n": number}, delay=delay, **keys) for _ in range(2)]

    definitions.register(store, [following])
    quick = replace(busy, retry=replace(busy.retry, initial_delay=0.01, jitter=False))
    # So that what repairs itself has next to no time to do so.
    terms, reports = Terms(grace=5_000_000), 0
    async with working(store, quick, following), open_edge(store, trigger(busy_jobs)) as edge:
        for number in range(0, 120, 10):
            posts = (edge.post({"n": n}) for n in range(number, number + 10))
            assert {one.status_code for one in await asyncio.gather(*posts)} == {202}
            report = await asyncio.to_thread(verify, store, terms)
            assert not report.findings, str(report)
            reports += 1
        live = "SELECT count(*) FROM netscript_executions"
        await eventually_async(lambda: scalar(store, live) == 0, 20, "the end of the work")
        report = await asyncio.to_thread(verify, store, terms)
    assert not report.findings, str(report)
    assert report.checked["history"] == 480 and report.checked["events"] == 120
    assert len(rows(store, "SELECT 1 FROM netscript_execution_attempts")) == len(tried) > 20
    assert json.dumps(dict(report.counts)) == "{}"
