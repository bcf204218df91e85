from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from netscript_workers import (
    EnqueueBatch,
    JobContext,
    create_success_result,
    enqueue_batch,
    enqueue_job,
    job,
)
from netscript_workers.actions import Cause
from netscript_workers.batches import MAX_ACTIONS, names_a_job, resolve_all
from netscript_workers.domain import ClaimedExecution, TriggeredBy
from netscript_workers.errors import ConfigurationError, PayloadInvalidError
from netscript_workers.execution.outcome import Returned, conclude
from netscript_workers.execution.runners import wire
from netscript_workers.testing import run_job

CAUSE = Cause(triggered_by=TriggeredBy.WEBHOOK, trigger_event_id="event", correlation_id="c")


@job(id="part")
async def part(ctx: JobContext[dict[str, int]]) -> None: ...


@job(id="whole")
async def whole(ctx: JobContext[dict[str, int]]) -> Any:
    return create_success_result(actions=[enqueue_batch([enqueue_job(part)], enqueue_job(part))])


def test_a_batch_is_a_frozen_value() -> None:
    batch = enqueue_batch(enqueue_job(part, {"n": n}) for n in range(2))
    assert batch == enqueue_batch([enqueue_job(part, {"n": 0}), enqueue_job(part, {"n": 1})])
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.actions = ()  # type: ignore[misc]


def test_members_stand_in_their_order_and_name_their_batch() -> None:
    first, last = enqueue_job(part, {"n": 0}), enqueue_job(part, {"n": 3})
    batch = enqueue_batch([enqueue_job(part, {"n": 1}), enqueue_job(part, {"n": 2})], last)
    work = resolve_all([first, batch, enqueue_batch([]), last], None, CAUSE)
    assert [new.payload for new in work.executions] == [f'{{"n":{n}}}' for n in range(4)]
    one, other = work.batches
    assert [new.batch_id for new in work.executions] == [None, one.id, one.id, None]
    assert other.callback is None
    callback = one.callback
    assert callback is not None
    assert (callback.triggered_by, callback.trigger_event_id) == ("job", None)
    assert (callback.correlation_id, callback.batch_id) == ("c", None)


NOT_ACTIONS: list[Any] = [part, {"job": "part"}, "part", None, enqueue_batch([])]


@pytest.mark.parametrize("given", NOT_ACTIONS)
def test_only_jobs_are_members_or_callbacks(given: Any) -> None:
    with pytest.raises(ConfigurationError):
        enqueue_batch([given])
    if given is not None:
        with pytest.raises(ConfigurationError):
            enqueue_batch([], on_complete=given)


def test_a_batch_has_a_bound_and_its_callback_no_key() -> None:
    action = enqueue_job(part)
    assert len(enqueue_batch([action] * MAX_ACTIONS).actions) == 10_000
    with pytest.raises(ConfigurationError, match="10,000 actions at most, not 10,001"):
        enqueue_batch([action] * (MAX_ACTIONS + 1))
    with pytest.raises(ConfigurationError, match="runs once by itself"):
        enqueue_batch([], on_complete=enqueue_job(part, idempotency_key="k"))


def test_a_payload_that_the_callback_refuses_is_refused_at_once() -> None:
    @job(id="strict", payload=ClaimsNothing)
    async def strict(ctx: JobContext[ClaimsNothing]) -> None: ...

    with pytest.raises(PayloadInvalidError):
        resolve_all([enqueue_batch([], enqueue_job(strict, {"n": "x"}))], None, CAUSE)


@dataclasses.dataclass
class ClaimsNothing:
    n: int


def test_a_catalog_is_needed_where_anything_is_named_by_its_id() -> None:
    assert not names_a_job(enqueue_batch([enqueue_job(part)], enqueue_job(part)))
    assert names_a_job(enqueue_batch([enqueue_job("part")]))
    assert names_a_job(enqueue_batch([], enqueue_job("part")))
    assert names_a_job(enqueue_job("part"))


def test_a_batch_survives_the_wire() -> None:
    run = run_job(whole)
    assert isinstance(run.actions[0], EnqueueBatch)
    claim = ClaimedExecution(
        *("01a21066-5396-73d2-89d1-e16ecbb936fa", 7, "job", "whole", "default", "{}", 1, 3, 0),
        *(50, None, "c", None, None, None, 0),
    )
    result = create_success_result(actions=run.actions)
    outcome = conclude(whole, claim, Returned(result))
    assert len(outcome.batches) == 1
    (frame,) = wire.Decoder().feed(wire.encode(wire.dump_outcome(outcome)))
    assert wire.load_outcome(claim, frame) == outcome
