"""Traces in one process: what carries them, what links them, and what leaves them alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, make_url

from netscript_triggers import WebhookEvent
from netscript_workers import (
    JobContext,
    configure_sqlite,
    create_success_result,
    enqueue,
    enqueue_batch,
    enqueue_job,
    job,
    start_workers,
)
from netscript_workers.scheduler import declared_jobs
from netscript_workers.store import definitions, schedules
from netscript_workers.store.engine import Store
from netscript_workers.telemetry import (
    current_environment,
    current_traceparent,
    record_progress,
    with_child_span,
)
from netscript_workers.telemetry.recording import text_of
from tests.edge import charge, open_edge, trigger
from tests.integration.test_api import serving
from tests.integration.test_file_watcher import watching
from tests.kit import detail, rows, run
from tests.support import eventually, eventually_async
from tests.tracing import TENTH, Traced, ids, links, parent, tracing
from tests.working import working

SENT = f"00-{'a' * 32}-{'b' * 16}-01"
UNSAMPLED = f"00-{'a' * 32}-{'b' * 16}-00"
BASE = "/api/v1/workers"


@job(id="plain")
async def plain(ctx: JobContext[dict[str, Any]]) -> dict[str, Any]:
    with with_child_span("inside", n=1) as span:
        span.set_attribute("more", True)
        span.add_event("seen", n=2)
    record_progress(1, 2)
    return {"ctx": ctx.traceparent, "here": current_traceparent(), **current_environment()}


def wants_plain(event: WebhookEvent) -> Any:
    return enqueue_job(plain)


async def test_what_a_users_transaction_enqueues_goes_on_in_its_trace(
    database_url: str, store: Store
) -> None:
    url = make_url(database_url)
    if not store.is_sqlite:
        url = url.set(drivername="postgresql+psycopg")
    engine = create_engine(url)
    if store.is_sqlite:
        configure_sqlite(engine)
    with tracing() as traced:
        with traced.tracer.start_as_current_span("checkout"), engine.begin() as conn:
            (told,) = enqueue(conn, enqueue_job(plain))
        async with working(store, plain) as at_work:
            ended = await at_work.ended(told.execution_id)
        producer, executed = traced.one("job.enqueue"), traced.one("job.execute")
        assert parent(producer) == ids(traced.one("checkout"))
        assert parent(executed) == ids(producer)
        assert parent(traced.one("inside")) == ids(executed)
        assert dict(traced.one("inside").attributes or {}) == {"n": 1, "more": True}
        context = executed.get_span_context()
        assert context is not None
        here = text_of(context)
        result = ended.execution.result
        assert result == {"ctx": here, "here": here, "TRACEPARENT": here}
    engine.dispose()


async def test_with_telemetry_off_a_trace_is_handed_on_as_it_came(store: Store) -> None:
    async with open_edge(store, jobs=[charge]) as edge, working(store, plain) as at_work:
        answer = await edge.post(headers={"traceparent": SENT, "tracestate": "x=1"})
        (charged,) = answer.json()["executions"]
        assert detail(store, charged).execution.traceparent == SENT
        ended = await at_work.run(plain)
    assert ended.execution.result == {"ctx": None, "here": None}


@pytest.mark.parametrize(
    "sent", [f"00-{'0' * 32}-{'b' * 16}-01", "00-a-b-01", f"{SENT}-x", "ff" + SENT[2:]]
)
async def test_a_traceparent_that_is_none_is_ignored(store: Store, sent: str) -> None:
    async with open_edge(store) as edge:
        answer = await edge.post(headers={"traceparent": sent, "tracestate": "x=1"})
        event = edge.event(answer.json()["event_id"]).event
        assert event.traceparent is None
        with tracing() as traced:
            await edge.post(b'{"cents":6}', headers={"traceparent": sent})
            await eventually_async(lambda: traced.named("POST /webhooks/payment"))
    assert parent(traced.one("POST /webhooks/payment")) is None


async def test_one_commit_of_many_requests_is_one_span_that_links_them(store: Store) -> None:
    async with open_edge(store) as edge:
        with tracing() as traced:
            bodies = [f'{{"cents":{n}}}'.encode() for n in range(40)]
            answers = await asyncio.gather(*(edge.post(body) for body in bodies))
            assert {one.status_code for one in answers} == {202}
            await eventually_async(lambda: len(traced.named("POST /webhooks/payment")) == 40)
    requests = traced.named("POST /webhooks/payment")
    commits = traced.named("store.commit")
    assert 0 < len(commits) < 40
    assert sum(len(one.links) for one in commits) == 40
    assert set[Any]().union(*map(links, commits)) == {ids(one) for one in requests}
    assert all(parent(one) in links(one) for one in commits)
    assert {parent(one) for one in traced.named("job.enqueue")} == {ids(one) for one in requests}


async def test_what_is_not_sampled_leaves_no_span_and_stays_so_all_the_way(store: Store) -> None:
    with tracing(TENTH) as traced:
        async with open_edge(store, trigger(wants_plain)) as edge:
            answer = await edge.post(headers={"traceparent": UNSAMPLED})
            (execution,) = answer.json()["executions"]
            async with working(store, plain) as at_work:
                ended = await at_work.ended(execution)
        stored = ended.execution.traceparent
        assert stored is not None and stored.endswith("-00") and stored[3:35] == "a" * 32
        assert ended.execution.result == {"ctx": stored, "here": stored, "TRACEPARENT": stored}
        with pytest.raises(ValueError, match="unpack"):
            traced.one("job.execute")
    assert not traced._exporter.get_finished_spans()


@job(id="fan-out")
async def fan_out(ctx: JobContext[dict[str, Any]]) -> Any:
    members = [enqueue_job(plain, {"n": n}) for n in range(40)]
    return create_success_result(actions=[enqueue_batch(members, on_complete=enqueue_job(last))])


@job(id="last")
async def last(ctx: JobContext[dict[str, Any]]) -> None: ...


async def test_a_batch_is_one_producer_and_its_callback_goes_on(store: Store) -> None:
    with tracing() as traced:
        async with working(store, fan_out, plain, last) as at_work:
            await at_work.run(fan_out)
            await eventually_async(lambda: len(traced.named("job.execute")) == 42, 20)
    mine = {
        one.attributes["netscript.job.id"]: one
        for one in traced.named("job.execute")
        if one.attributes
    }
    batch = traced.one("job.enqueue")
    assert parent(batch) == ids(mine["fan-out"])
    assert (batch.attributes or {})["messaging.batch.message_count"] == 40
    assert parent(mine["plain"]) == ids(batch)
    assert parent(mine["last"]) == ids(mine["fan-out"])


async def test_a_request_to_the_api_is_one_span_and_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    definitions.register(store, [plain])
    with tracing() as traced:
        monkeypatch.setattr("opentelemetry.trace.get_tracer_provider", lambda: traced.provider)
        async with serving(store, plain) as api:
            answer = await api.post(
                f"{BASE}/jobs/plain/trigger", json={}, headers={"traceparent": SENT}
            )
            for quiet in ("/health", "/health/ready", "/metrics", "/"):
                await api.get(quiet)
        (request,) = traced.named("POST /api/v1/workers/jobs/{job_id}/trigger")
        assert parent(request) == (int("a" * 32, 16), int("b" * 16, 16))
        assert parent(traced.one("job.enqueue")) == ids(request)
        record = detail(store, answer.json()["execution_id"]).execution
        assert record.traceparent is not None and record.traceparent[3:35] == "a" * 32
        seen = sorted(one.name for one in traced._exporter.get_finished_spans())
    assert seen == ["POST /api/v1/workers/jobs/{job_id}/trigger", "job.enqueue", "store.commit"]


async def test_a_job_of_the_clock_begins_a_trace_with_the_fire(store: Store) -> None:
    @job(id="hourly", cron="0 * * * *")
    async def hourly(ctx: JobContext[dict[str, Any]]) -> None: ...

    schedules.declare(store, "01a20ca3-d42f-72c6-b60b-7fbbccc8d150", declared_jobs([hourly]))
    run(store, "UPDATE netscript_schedules SET next_at = next_at - 7200000000")
    with tracing() as traced:
        async with working(store, hourly):
            await eventually_async(lambda: traced.named("job.execute"), 20)
    fire = traced.one("schedule.fire")
    assert parent(fire) is None
    assert (fire.attributes or {})["netscript.schedule.fired"] == 1
    assert parent(traced.one("job.enqueue")) == ids(fire)
    assert parent(traced.one("job.execute")) == ids(traced.one("job.enqueue"))
    assert parent(traced.one("scheduler.start")) is None
    assert traced.named("schedule.declare")


def test_a_file_begins_a_trace_that_its_event_carries(store: Store, tmp_path: Path) -> None:
    with tracing() as traced, watching(store, tmp_path):
        (tmp_path / "a.csv").write_text("a")
        eventually(lambda: rows(store, "SELECT 1 FROM netscript_trigger_events"), what="its event")
        ((carried,),) = rows(store, "SELECT traceparent FROM netscript_trigger_events")
        context = traced.one("file.take").get_span_context()
        assert context is not None and carried == text_of(context)


async def test_an_embedded_worker_uses_the_programs_own_provider(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = Traced()
    monkeypatch.setattr("opentelemetry.trace.get_tracer_provider", lambda: traced.provider)
    monkeypatch.setattr("netscript_workers.telemetry.spans.recorder", None)
    store = Store(database_url)
    async with await start_workers(database_url=database_url, jobs=[plain], shutdown_timeout=2):
        with store.begin() as conn:
            enqueue(conn, enqueue_job(plain))
        await eventually_async(lambda: traced.named("job.execute"), 20)
    store.dispose()
    assert parent(traced.one("job.execute")) == ids(traced.one("job.enqueue"))


async def test_a_handler_that_fails_tells_the_type_and_not_the_message(store: Store) -> None:
    def broken(event: Any) -> None:
        raise ValueError("card 4242")

    with tracing() as traced:
        async with open_edge(store, trigger(broken)) as edge:
            assert (await edge.post()).status_code == 202
            await eventually_async(lambda: traced.named("POST /webhooks/payment"))
    handled = traced.one("trigger.handle")
    assert not handled.status.is_ok and (handled.attributes or {})["error.type"] == "ValueError"
    assert "4242" not in "".join(one.to_json() for one in traced._exporter.get_finished_spans())


async def test_a_refused_delivery_says_why_to_us_alone(store: Store) -> None:
    with tracing() as traced:
        async with open_edge(store) as edge:
            answer: httpx.Response = await edge.post(secret="wrong")
            assert answer.status_code == 401
    refused = traced.one("POST /webhooks/payment")
    assert (refused.attributes or {})["http.response.status_code"] == 401
    assert "netscript.refusal" in (refused.attributes or {})
    assert "netscript.refusal" not in answer.text
