from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import BaseModel

from netscript_workers import EnqueueJob, JobContext, Retry, enqueue_job, job
from netscript_workers.actions import Cause, PreparedJob, resolve
from netscript_workers.clock import to_micros
from netscript_workers.domain import TriggeredBy
from netscript_workers.errors import (
    ConfigurationError,
    JobNotFoundError,
    PayloadInvalidError,
    PayloadTooLargeError,
)
from netscript_workers.ids import is_id


class Payment(BaseModel):
    cents: int


@job(id="pay", topic="payments", priority=70, retry=Retry(max_attempts=5), strict_order=True)
async def pay(ctx: JobContext[Payment]) -> None: ...


CAUSE = Cause(
    triggered_by=TriggeredBy.WEBHOOK,
    trigger_event_id="event-1",
    correlation_id="from-the-cause",
    traceparent="00-a-b-01",
    tracestate="x=1",
)


def test_an_action_is_a_frozen_value_that_does_nothing() -> None:
    action = enqueue_job(pay, {"cents": 1})

    assert action == enqueue_job(pay, {"cents": 1})
    assert action.job_id == "pay"
    with pytest.raises(dataclasses.FrozenInstanceError):
        action.priority = 1  # type: ignore[misc]


def test_every_option_is_kept() -> None:
    when = datetime(2027, 1, 1, tzinfo=UTC)

    action = enqueue_job(
        pay,
        {"cents": 1},
        idempotency_key="order-1",
        concurrency_key="customer-1",
        priority=3,
        run_at=when,
        correlation_id="trace",
        topic="slow",
    )

    assert (action.idempotency_key, action.concurrency_key) == ("order-1", "customer-1")
    assert (action.priority, action.run_at) == (3, when)
    assert (action.correlation_id, action.topic) == ("trace", "slow")


def test_what_is_not_said_comes_from_the_definition_and_the_cause() -> None:
    execution = resolve(enqueue_job(pay, Payment(cents=1)), None, CAUSE)

    assert is_id(execution.id)
    assert execution.job_id == "pay"
    assert execution.payload == '{"cents":1}'
    assert (execution.topic, execution.priority, execution.max_attempts) == ("payments", 70, 5)
    assert execution.strict_order
    assert (execution.delay, execution.run_at) == (0, None)
    assert execution.correlation_id == "from-the-cause"
    assert (execution.traceparent, execution.tracestate) == ("00-a-b-01", "x=1")
    assert execution.triggered_by is TriggeredBy.WEBHOOK
    assert execution.trigger_event_id == "event-1"


def test_what_is_said_wins() -> None:
    action = enqueue_job(pay, {"cents": 1}, topic="slow", priority=0, correlation_id="mine")

    execution = resolve(action, None, CAUSE)

    assert (execution.topic, execution.priority, execution.correlation_id) == ("slow", 0, "mine")


@pytest.mark.parametrize("delay", [1.5, timedelta(seconds=1.5)])
def test_a_delay_is_seconds_or_a_timedelta(delay: Any) -> None:
    assert resolve(enqueue_job(pay, {"cents": 1}, delay=delay), None, CAUSE).delay == 1_500_000


def test_an_instant_keeps_its_offset_and_a_naive_one_is_utc() -> None:
    berlin = datetime(2027, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    naive = datetime(2027, 1, 1)  # noqa: DTZ001 - that is the case

    for when in (berlin, naive):
        execution = resolve(enqueue_job(pay, {"cents": 1}, run_at=when), None, CAUSE)
        assert execution.run_at == to_micros(datetime(2027, 1, 1, tzinfo=UTC))


def test_each_resolution_is_an_execution_of_its_own() -> None:
    action = enqueue_job(pay, {"cents": 1})

    assert resolve(action, None, CAUSE).id != resolve(action, None, CAUSE).id


def test_a_payload_is_checked_when_the_action_is_resolved() -> None:
    action = enqueue_job(pay, {"cents": "many"})

    with pytest.raises(PayloadInvalidError, match="cents"):
        resolve(action, None, CAUSE)


def test_a_payload_beyond_the_limit_is_refused() -> None:
    @job
    def free(ctx: JobContext) -> None: ...

    with pytest.raises(PayloadTooLargeError):
        resolve(enqueue_job(free, {"a": "x" * 1_100_000}), None, CAUSE)


def test_a_disabled_job_is_refused() -> None:
    @job(enabled=False)
    def off(ctx: JobContext) -> None: ...

    with pytest.raises(PayloadInvalidError, match="disabled"):
        resolve(enqueue_job(off), None, CAUSE)


class Catalog:
    def prepare(self, job_id: str, payload: Any) -> PreparedJob:
        if job_id != "pay":
            raise JobNotFoundError(job_id, ["pay"])
        return PreparedJob(
            topic="t",
            priority=9,
            max_attempts=2,
            strict_order=False,
            payload="{}",
            fingerprint="f",
        )


def test_a_job_named_by_its_id_is_looked_up() -> None:
    execution = resolve(enqueue_job("pay"), Catalog(), CAUSE)

    assert (execution.job_id, execution.topic, execution.priority) == ("pay", "t", 9)
    assert (execution.max_attempts, execution.fingerprint) == (2, "f")


def test_an_unknown_id_names_the_nearest() -> None:
    with pytest.raises(JobNotFoundError, match='Did you mean "pay"'):
        resolve(enqueue_job("pai"), Catalog(), CAUSE)


def test_an_id_without_a_catalog_asks_for_the_definition() -> None:
    with pytest.raises(ConfigurationError, match="Import the job"):
        resolve(enqueue_job("pay"), None, CAUSE)


REPLACE: dict[str, Any] = {"idempotency": "replace", "idempotency_key": "k"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"delay": -1}, "zero or more seconds"),
        ({"delay": math.nan}, "zero or more seconds"),
        ({"delay": math.inf}, "zero or more seconds"),
        ({"delay": 1e300}, "zero or more seconds"),
        ({"delay": timedelta(seconds=-1)}, "zero or more seconds"),
        ({"delay": "5"}, "a number of seconds or a timedelta"),
        ({"delay": True}, "delay=True"),
        ({"run_at": "2027-01-01"}, "must be a datetime"),
        ({"run_at": 1_800_000_000}, "must be a datetime"),
        ({"delay": 1, "run_at": datetime(2027, 1, 1, tzinfo=UTC)}, "not both"),
        ({"priority": 101}, "from 0 to 100"),
        ({"priority": "high"}, "priority='high'"),
        ({"idempotency": "replace"}, "needs an idempotency_key"),
        ({"idempotency": "while_pending"}, "needs an idempotency_key"),
        ({"idempotency": "rerun_if_running"}, "needs an idempotency_key"),
        ({"idempotency": "twice", "idempotency_key": "k"}, "must be one of once, while_pending"),
        ({"max_wait": 5}, 'belongs to idempotency="replace"'),
        (REPLACE | {"max_wait": 0}, "more than 0 seconds"),
        (REPLACE | {"max_wait": math.nan}, "more than 0 seconds"),
        (REPLACE | {"max_wait": 1e300}, "more than 0 seconds"),
        (REPLACE | {"max_wait": timedelta(0)}, "more than 0 seconds"),
        (REPLACE | {"max_wait": "5"}, "a number of seconds or a timedelta"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        enqueue_job(pay, {"cents": 1}, **options)

    assert told in str(refusal.value)
    assert 'enqueue_job("pay")' in str(refusal.value)


@pytest.mark.parametrize("name", ["idempotency_key", "concurrency_key", "correlation_id", "topic"])
@pytest.mark.parametrize("key", ["", "x" * 513, "a\0b", "\ud800", 5, b"key", 1.5])
def test_a_key_that_not_every_database_can_hold_is_refused(name: str, key: Any) -> None:
    options: dict[str, Any] = {name: key}

    with pytest.raises(ConfigurationError, match=name):
        enqueue_job(pay, {"cents": 1}, **options)


@pytest.mark.parametrize("key", [" ", "x" * 512, "ключ", "a:b/c\n", "\U0001f600"])
def test_other_keys_are_taken(key: str) -> None:
    assert enqueue_job(pay, {"cents": 1}, idempotency_key=key).idempotency_key == key


async def undecorated(ctx: JobContext) -> None: ...


NO_JOBS: list[Any] = [undecorated, None, 5, Payment, pay.handler]


@pytest.mark.parametrize("given", NO_JOBS)
def test_what_is_no_job_is_refused_with_a_way_out(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="Decorate it with @job"):
        enqueue_job(given)


def test_an_action_can_be_told_by_its_class() -> None:
    assert isinstance(enqueue_job("pay"), EnqueueJob)
