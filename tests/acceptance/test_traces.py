"""One webhook is one trace, whoever runs its jobs, over OTLP as a collector gets it."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.collector import Collector, Seen, collecting
from tests.support import Process, eventually, free_port, wait_until_answers, write_project

SECRET = "whsec_traces"
TRACE, SENDER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SENT = {"traceparent": f"00-{TRACE}-{SENDER}-01", "tracestate": "vendor=one"}
PATIENCE = 60.0  # on a machine that is busy
MODES = ["in-process", "worker-process", "subprocess"]

JOBS = """
import os, time
from pathlib import Path
from netscript_workers import JobContext, Retry, create_success_result, enqueue_job, job
from netscript_workers.telemetry import current_traceparent, record_progress, with_child_span

QUICK = Retry(max_attempts=2, backoff="constant", initial_delay=0.05, jitter=False)

async def reserve(n: int) -> int:
    with with_child_span("inside", n=n):
        return n + 1

@job(id="second")
def second(ctx: JobContext[dict]):
    with with_child_span("write", kind="receipt") as span:
        record_progress(2, 8)
        span.set_attribute("bytes", 5)
    return {"traceparent": ctx.traceparent, "here": current_traceparent()}

@job(id="first", topic="orders")
async def first(ctx: JobContext[dict]):
    await ctx.report_progress(25, "private words")
    await ctx.step("reserve", reserve, 1)
    return create_success_result(
        {"traceparent": ctx.traceparent, "here": current_traceparent()},
        actions=[enqueue_job(second, {"card": "4242424242424242"})],
    )

def prepare() -> int:
    return 7

@job(id="flaky", retry=QUICK)
async def flaky(ctx: JobContext[dict]):
    await ctx.step("prepare", prepare)
    if ctx.attempt == 1:
        raise ValueError("private words")

@job(id="held")
def held(ctx: JobContext[dict]):
    ctx.step("prepare", prepare)
    gate = Path(ctx.payload["gate"])
    if not gate.exists():
        gate.write_text("held")
        time.sleep(60)
"""

TRIGGERS = """
from jobs.traced import first, flaky, held
from netscript_triggers import enqueue_job, webhook

JOBS = {"first": first, "flaky": flaky, "held": held}

@webhook(id="orders", path="/webhooks/orders", verifier="hmac-sha256", secret_env="WEBHOOK_SECRET")
def orders(event):
    return [enqueue_job(JOBS[event.payload["job"]], {"gate": event.payload["gate"]})]

@webhook(id="later", path="/webhooks/later", verifier="hmac-sha256", secret_env="WEBHOOK_SECRET",
         dispatch="background")
async def later(event):
    return [enqueue_job(JOBS[event.payload["job"]], {"gate": event.payload["gate"]})]
"""

SECOND = """\
job.execute second CONSUMER
  write INTERNAL"""


class Shop:
    """A server and workers that tell a collector."""

    def __init__(self, place: Path, database_url: str, collector: Collector) -> None:
        self.place = write_project(
            place / "shop", {"jobs/traced.py": JOBS, "triggers/traced.py": TRIGGERS}
        )
        self.collector = collector
        self.environment = {
            **collector.environment,
            "NETSCRIPT_DATABASE_URL": database_url,
            "WEBHOOK_SECRET": SECRET,
        }
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def run(self, *command: str) -> Process:
        line = ("-m", "netscript_triggers", *command)
        return Process(*line, cwd=self.place, env=self.environment)

    @contextmanager
    def open(self, runtime: str) -> Generator[None]:
        with self.run("serve", "--port", str(self.port)) as server, self.worker(runtime) as worker:
            wait_until_answers(self.url, "/health/ready", PATIENCE)
            yield
            for process in (server, worker):
                assert process.terminate() == 0, process.output
                assert "Traceback" not in process.output, process.output

    def worker(self, runtime: str) -> Process:
        return self.run("worker", "--runtime", runtime, "--concurrency", "2")

    def send(self, job: str, path: str = "/webhooks/orders", **payload: Any) -> dict[str, Any]:
        body = json.dumps({"job": job, "gate": str(self.place / "gate"), **payload}).encode()
        signed = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        headers = {"X-NetScript-Signature": signed, "Content-Type": "application/json", **SENT}
        answer = httpx.post(f"{self.url}{path}", content=body, headers=headers, trust_env=False)
        assert answer.status_code == 202, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def record(self, execution_id: str) -> dict[str, Any]:
        url = f"{self.url}/api/v1/workers/executions/{execution_id}"
        found: dict[str, Any] = httpx.get(url, trust_env=False).json()
        return found


@contextmanager
def shop(
    place: Path, database_url: str, runtime: str, protocol: str = "http/protobuf"
) -> Generator[Shop]:
    with collecting(protocol) as collector:
        opened = Shop(place, database_url, collector)
        with opened.open(runtime):
            yield opened


ONE = """\
POST /webhooks/orders orders SERVER
  job.enqueue first PRODUCER
    job.dequeue  CONSUMER
    job.execute first CONSUMER
      job.enqueue second PRODUCER
        job.dequeue  CONSUMER
        job.execute second CONSUMER
          write  INTERNAL
      job.step reserve INTERNAL
        inside  INTERNAL
  store.commit  INTERNAL
  trigger.handle orders INTERNAL"""


@pytest.mark.parametrize("runtime", MODES)
def test_a_webhook_and_all_that_it_leads_to_are_one_trace(
    database_url: str, tmp_path: Path, runtime: str
) -> None:
    with shop(tmp_path, database_url, runtime) as opened:
        execution = check_one(opened, runtime)
    assert "4242" not in told(opened.collector) and "private words" not in told(opened.collector)
    assert execution["status"] == "completed"


@pytest.mark.parametrize("runtime", ["in-process", "worker-process"])
def test_the_same_over_grpc(sqlite_url: str, tmp_path: Path, runtime: str) -> None:
    with shop(tmp_path, sqlite_url, runtime, "grpc") as opened:
        check_one(opened, runtime)


def check_one(opened: Shop, runtime: str) -> dict[str, Any]:
    collector = opened.collector
    (execution,) = opened.send("first")["executions"]
    (second,) = collector.wait_for("job.execute", netscript_job_id="second")
    collector.wait_for("write")
    (first,) = collector.named("job.execute", netscript_job_id="first")
    eventually(lambda: len(collector.named("job.dequeue")) == 2, what="both dequeues")
    collector.wait_for("POST /webhooks/orders")
    assert collector.tree(TRACE) == ONE

    (request,) = collector.named("POST /webhooks/orders")
    assert (request.parent, request.state) == (SENDER, "vendor=one")
    assert first.state == second.state == "vendor=one"
    assert request.attributes["http.response.status_code"] == 202
    assert request.process["netscript.process"] == "serve"
    assert first.process["netscript.process"] == "worker"

    assert first.attributes["messaging.message.id"] == execution
    assert first.attributes["messaging.destination.name"] == "orders"
    assert first.attributes["netscript.outcome"] == "completed"
    happened = ["job.started", "job.progress", "job.step.started", "job.step.completed"]
    assert first.happened == [*happened, "job.completed"]
    assert first.events[1][1] == {"current": 25.0, "total": 100.0, "percentage": 25.0}
    assert second.happened == ["job.started", "job.progress", "job.completed"]
    assert second.events[1][1] == {"current": 2, "total": 8, "percentage": 25.0}
    (write,) = collector.named("write")
    assert write.attributes == {"kind": "receipt", "bytes": 5}

    record = eventually(lambda: _finished(opened.record(execution)), what="its end")
    assert record is not None
    here = f"00-{TRACE}-{first.id}-01"
    assert record["result"] == {"traceparent": here, "here": here}
    (producer,) = collector.named("job.enqueue", netscript_job_id="first")
    assert record["traceparent"] == f"00-{TRACE}-{producer.id}-01"
    return record


def _finished(record: dict[str, Any]) -> dict[str, Any] | None:
    return record if record["status"] in {"completed", "failed"} else None


def told(collector: Collector) -> str:
    return repr(collector.spans)


RETRIED = """\
POST /webhooks/orders orders SERVER
  job.enqueue flaky PRODUCER
    job.dequeue  CONSUMER
    job.dequeue  CONSUMER
    job.execute flaky CONSUMER failed
      job.step prepare INTERNAL
  store.commit  INTERNAL
  trigger.handle orders INTERNAL"""


@pytest.mark.trap("D-89")
@pytest.mark.parametrize("runtime", MODES)
def test_a_retry_is_a_trace_of_its_own_that_links_what_came_before(
    database_url: str, tmp_path: Path, runtime: str
) -> None:
    with shop(tmp_path, database_url, runtime) as opened:
        collector = opened.collector
        opened.send("flaky")
        runs = collector.wait_for("job.execute", 2, netscript_job_id="flaky")
        first, second = sorted(runs, key=lambda one: one.start)
        (producer,) = collector.named("job.enqueue", netscript_job_id="flaky")
        eventually(lambda: len(collector.named("job.dequeue")) == 2, what="both dequeues")
        collector.wait_for("POST /webhooks/orders")

        assert collector.tree(TRACE) == RETRIED
        assert first.parent == producer.id
        assert first.happened[-2:] == ["job.exception", "job.failed"]
        assert first.events[-2][1] == {"exception.type": "ValueError"}
        assert first.attributes["error.type"] == first.description == "ValueError"
        assert second.trace != TRACE and second.parent == ""
        assert second.links == [(TRACE, producer.id), (TRACE, first.id)]
        assert second.attributes["netscript.attempt"] == 2
        assert second.happened == ["job.started", "job.step.reused", "job.completed"]
        assert collector.tree(second.trace) == "job.execute flaky CONSUMER"
    assert "private words" not in told(collector)


KILLED = """\
POST /webhooks/orders orders SERVER
  job.enqueue held PRODUCER
    job.dequeue  CONSUMER
    job.dequeue  CONSUMER
  store.commit  INTERNAL
  trigger.handle orders INTERNAL"""


@pytest.mark.trap("D-89")
@pytest.mark.parametrize("runtime", MODES)
def test_what_a_killed_worker_ran_goes_on_in_a_trace_that_links_its_own(
    database_url: str, tmp_path: Path, runtime: str
) -> None:
    with collecting() as collector:
        opened = Shop(tmp_path, database_url, collector)
        with (
            opened.run("serve", "--port", str(opened.port)) as server,
            opened.worker(runtime) as doomed,
        ):
            wait_until_answers(opened.url, "/health/ready", PATIENCE)
            opened.send("held")
            eventually((opened.place / "gate").exists, PATIENCE, "its first run")
            collector.wait_for("job.step")
            collector.wait_for("job.dequeue")
            doomed.kill()
            with opened.worker(runtime) as heir:
                (run,) = collector.wait_for("job.execute", netscript_job_id="held")
                assert heir.terminate() == 0, heir.output
            assert server.terminate() == 0, server.output

        (producer,) = collector.named("job.enqueue", netscript_job_id="held")
        (step,) = collector.named("job.step")  # it ran once; the run that it was of is not told
        tree = collector.tree(TRACE).splitlines()
        assert step.trace == TRACE and "job.step prepare INTERNAL" in tree
        tree.remove("job.step prepare INTERNAL")
        assert "\n".join(tree) == KILLED
        assert run.trace != TRACE and run.parent == ""
        assert run.links == [(TRACE, producer.id)]
        assert run.attributes["netscript.attempt"] == 1
        assert run.happened == ["job.started", "job.step.reused", "job.completed"]


LATER = """\
POST /webhooks/later later SERVER
  event.process later CONSUMER
    job.enqueue flaky PRODUCER
      job.dequeue  CONSUMER
      job.dequeue  CONSUMER
      job.execute flaky CONSUMER failed
        job.step prepare INTERNAL
    trigger.handle later INTERNAL
  store.commit  INTERNAL"""


def test_what_is_dispatched_in_the_background_goes_on_and_a_replay_links(
    database_url: str, tmp_path: Path
) -> None:
    with shop(tmp_path, database_url, "in-process") as opened:
        collector = opened.collector
        event = opened.send("flaky", "/webhooks/later")["event_id"]
        collector.wait_for("job.execute", 2, netscript_job_id="flaky")
        collector.wait_for("event.process")
        eventually(lambda: len(collector.named("job.dequeue")) == 2, what="both dequeues")
        assert collector.tree(TRACE) == LATER

        url = f"{opened.url}/api/v1/events/{event}/replay"
        answer = httpx.post(url, json={"force": True}, trust_env=False)
        assert answer.is_success, answer.text
        first, replay = by_start(collector.wait_for("event.process", 2))
        (request,) = collector.named("POST /webhooks/later")
        assert first.trace == TRACE and replay.trace != TRACE
        assert replay.links == [(TRACE, request.id)]


def by_start(found: list[Seen]) -> list[Seen]:
    return sorted(found, key=lambda one: one.start)


def test_a_collector_that_is_away_hinders_no_work_and_does_not_fill_the_log(
    sqlite_url: str, tmp_path: Path
) -> None:
    nobody = Collector(f"http://127.0.0.1:{free_port()}", "http/protobuf")
    opened = Shop(tmp_path, sqlite_url, nobody)
    with (
        opened.run("serve", "--port", str(opened.port)) as server,
        opened.worker("worker-process") as worker,
    ):
        wait_until_answers(opened.url, "/health/ready", PATIENCE)
        ids = [opened.send("first", n=n)["executions"][0] for n in range(20)]
        for id_ in ids:
            eventually(lambda id_=id_: _finished(opened.record(id_)), PATIENCE, "its end")  # type: ignore[misc]
        for process in (server, worker):
            process.wait_for("takes no spans", PATIENCE)
            assert process.terminate(20) == 0, process.output
            assert process.output.count("spans") <= 2, process.output
            assert "Traceback" not in process.output, process.output


def test_a_span_of_a_child_that_is_none_ends_the_child_and_not_the_worker(
    sqlite_url: str, tmp_path: Path
) -> None:
    forging = JOBS + FORGING
    with collecting() as collector:
        opened = Shop(tmp_path, sqlite_url, collector)
        write_project(opened.place, {"jobs/traced.py": forging})
        with opened.open("worker-process"):
            url = f"{opened.url}/api/v1/workers/jobs/forging/trigger"
            answer = httpx.post(url, json={}, trust_env=False).json()
            record = eventually(
                lambda: _finished(opened.record(answer["execution_id"])), PATIENCE, "its end"
            )
            assert record is not None and record["status"] == "failed"
            opened.send("first")
            collector.wait_for("job.execute", netscript_job_id="second")


FORGING = """
@job(id="forging")
def forging(ctx: JobContext[dict]):
    import gc
    from netscript_workers.execution.runners.child import Line
    (line,) = (one for one in gc.get_objects() if isinstance(one, Line))
    line.tell({"t": "span", "name": "forged", "context": "none"})
    time.sleep(5)
"""
