"""What the tests of idempotency modes share: enqueues that name a key again."""

from __future__ import annotations

from typing import Any

from netscript_workers import JobContext, enqueue_job, job
from netscript_workers.actions import Cause, EnqueueJob, resolve
from netscript_workers.domain import Enqueued, NewExecution, TriggeredBy
from netscript_workers.store.engine import Store
from netscript_workers.store.findings import Report, Terms
from netscript_workers.store.verify import verify
from tests.kit import detail, put

MODES = ["while_pending", "replace", "rerun_if_running"]


@job(id="a")
async def a(ctx: JobContext[dict[str, int]]) -> None: ...


def again(mode: Any, n: int = 0, key: str = "k", **options: Any) -> EnqueueJob[Any]:
    return enqueue_job(a, {"n": n}, idempotency_key=key, idempotency=mode, **options)


def ready(action: EnqueueJob[Any]) -> NewExecution:
    return resolve(action, None, Cause(triggered_by=TriggeredBy.API))


def arrive(store: Store, *actions: EnqueueJob[Any]) -> list[Enqueued]:
    return put(store, *map(ready, actions))


def payload(store: Store, id_: str) -> Any:
    return detail(store, id_).execution.payload


def assert_clean(store: Store) -> None:
    report = Report()
    verify(store, Terms(), report)
    assert not report.findings, str(report)
