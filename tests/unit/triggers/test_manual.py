"""Manual triggers, and the action that has an event handled later."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from netscript_triggers import (
    Circuit,
    Defer,
    ManualEvent,
    TriggerContext,
    defer,
    define_manual_trigger,
    enqueue_job,
    manual_trigger,
)
from netscript_triggers.definitions import ManualDefinition
from netscript_triggers.handlers import actions_of
from netscript_triggers.registry import by_path, webhook_named
from netscript_triggers.testing import fire
from netscript_workers import PayloadInvalidError
from netscript_workers.clock import SYSTEM_CLOCK, to_micros
from netscript_workers.errors import ConfigurationError, StateError, TriggerNotFoundError
from tests.edge import trigger


class Order(BaseModel):
    id: str


def handler(event: ManualEvent[Order]) -> Any:
    """Send an order again."""
    return enqueue_job("send", {"id": event.payload.id})


def test_both_forms_make_the_same_value() -> None:
    options: Any = {"id": "again", "model": Order, "concurrency": 2, "circuit": None}
    made, decorated = define_manual_trigger(handler, **options), manual_trigger(**options)(handler)
    for one in (made, decorated):
        assert isinstance(one, ManualDefinition)
        assert (one.kind, one.id, one.concurrency, one.circuit) == ("manual", "again", 2, None)
        assert one.description == "Send an order again."
        assert one.dispatch == "background"
    assert repr(made).startswith("<manual 'again' from ")


async def test_fire_gives_the_handler_what_its_model_takes() -> None:
    made = define_manual_trigger(handler, id="again", model=Order)
    assert await fire(made, {"id": "o"}) == [enqueue_job("send", {"id": "o"})]
    with pytest.raises(PayloadInvalidError, match="id"):
        await fire(made, {})

    def whatever(event: ManualEvent, context: TriggerContext) -> Any:
        assert event.kind == context.trigger.kind == "manual"
        assert event.payload == [1]
        return defer(until=5)

    (action,) = await fire(define_manual_trigger(whatever, id="x"), [1])
    assert isinstance(action, Defer)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "id is missing"),
        ({"id": "no blanks"}, "letters, digits"),
        ({"id": "x", "path": "/x"}, 'no option "path"'),
        ({"id": "x", "concurrency": 0}, "1 or more"),
        ({"id": "x", "retry": 3}, "a Retry"),
        ({"id": "x", "circuit": 3}, "a Circuit"),
        ({"id": "x", "model": 5}, "can't be validated"),
    ],
)
def test_what_cannot_work_is_refused(options: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        define_manual_trigger(handler, **options)


def test_a_manual_trigger_has_no_path_and_is_delivered_nothing() -> None:
    made = define_manual_trigger(handler, id="again", circuit=Circuit(failures=2))
    known: Any = {"again": made, "payment": trigger()}
    assert list(by_path(known)) == ["/webhooks/payment"]
    assert webhook_named(known, "payment") is known["payment"]
    with pytest.raises(StateError, match="triggers fire again"):
        webhook_named(known, "again")
    with pytest.raises(TriggerNotFoundError, match='Did you mean "payment"'):
        webhook_named(known, "paymnt")


def test_defer_takes_an_instant_or_a_time_from_now() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    assert defer(at).until == defer(at.replace(tzinfo=None)).until == to_micros(at)
    now = SYSTEM_CLOCK.now()
    for given in (60, 60.0, timedelta(minutes=1)):
        assert 0 <= defer(until=given).until - now - 60_000_000 < 5_000_000


@pytest.mark.parametrize("until", [-1, math.nan, math.inf, True, "soon", timedelta(-1), 1e18])
def test_a_deferral_that_cannot_be_meant_is_refused(until: Any) -> None:
    with pytest.raises(ConfigurationError, match="defer"):
        defer(until)


def test_an_event_is_deferred_once_at_most() -> None:
    with pytest.raises(ConfigurationError, match="returned 2 deferrals"):
        actions_of(trigger(), [defer(1), defer(2)])
