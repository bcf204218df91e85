from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest

from netscript_workers import (
    JobContext,
    JobDefinition,
    Retry,
    create_success_result,
    define_job_handler,
    job,
)
from netscript_workers.testing import run_job


async def charge_customer(ctx: JobContext) -> str:
    """Charge the customer.

    More words.
    """
    return f"charged {ctx.payload['order']}"


def send_mail(ctx: JobContext) -> str:
    return f"sent {ctx.payload['to']}"


def test_the_id_is_the_functions_name_with_dashes() -> None:
    assert job(charge_customer).id == "charge-customer"


def test_the_name_is_made_from_the_id_and_the_description_from_the_docstring() -> None:
    made = job(charge_customer)

    assert made.name == "Charge customer"
    assert made.description == "Charge the customer."
    assert job(send_mail).description is None


def test_the_defaults_are_those_of_the_contract() -> None:
    made = job(send_mail)

    assert made.topic == "default"
    assert made.retry == Retry()
    assert made.timeout == 60.0
    assert made.runtime is None
    assert made.priority == 50
    assert made.strict_order is False
    assert made.enabled is True
    assert made.tags == ()
    assert made.metadata == {}


def test_every_option_is_kept() -> None:
    options: dict[str, Any] = {
        "id": "pay:v2",
        "name": "Pay",
        "description": "Pays.",
        "topic": "payments",
        "payload": dict,
        "retry": Retry(max_attempts=9),
        "timeout": 1,
        "runtime": "in-process",
        "cron": None,
        "timezone": "UTC",
        "catch_up": "latest",
        "overlap": "allow",
        "jitter": 0.0,
        "priority": 0,
        "max_concurrency": None,
        "strict_order": True,
        "rate": None,
        "enabled": False,
        "tags": ["a", "b"],
        "metadata": {"team": ["pay"]},
    }

    made = define_job_handler(send_mail, **options)

    kept = {name: getattr(made, name) for name in options if hasattr(made, name)}
    assert kept == {
        name: ("a", "b") if name == "tags" else value
        for name, value in options.items()
        if name in kept
    }
    # The others are refused with any other value, or are kept in the schedule.
    assert options.keys() - kept.keys() == {
        "payload",
        "cron",
        "timezone",
        "catch_up",
        "overlap",
        "jitter",
    }
    assert made.payload_model.declared is dict


def test_no_timeout_is_no_limit() -> None:
    assert define_job_handler(send_mail, timeout=None).timeout is None


def test_the_decorator_takes_options_or_none_and_is_the_functional_form() -> None:
    bare, called, with_options = job(send_mail), job()(send_mail), job(topic="mail")(send_mail)
    functional = define_job_handler(send_mail, topic="mail")

    assert bare.id == called.id == with_options.id == functional.id == "send-mail"
    assert with_options.topic == functional.topic == "mail"
    assert all(made.handler is send_mail for made in (bare, called, with_options, functional))


def test_a_definition_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        job(send_mail).topic = "other"  # type: ignore[misc]


def test_a_definition_does_not_share_its_metadata_with_whoever_gave_it() -> None:
    given: dict[str, Any] = {"team": {"name": "pay"}}
    made = define_job_handler(send_mail, metadata=given)

    given["team"]["name"] = "other"

    assert made.metadata == {"team": {"name": "pay"}}


def test_two_definitions_of_one_handler_are_two_values() -> None:
    assert job(send_mail) != job(send_mail)
    assert len({job(send_mail), job(send_mail)}) == 2


def test_a_definition_stays_callable_with_a_context() -> None:
    seen: list[JobContext] = []

    @job
    def catch(ctx: JobContext) -> None:
        seen.append(ctx)

    run_job(catch, {"to": "ada"})

    assert job(send_mail)(seen[0]) == "sent ada"


async def test_an_async_definition_is_awaited_as_its_handler_is() -> None:
    context: Any = type("Context", (), {"payload": {"order": "o1"}})()

    assert await job(charge_customer)(context) == "charged o1"


def test_the_source_says_where_the_handler_is() -> None:
    made = job(send_mail)

    assert made.source == f"{__name__}.send_mail"
    assert repr(made) == f"<job 'send-mail' from {__name__}.send_mail>"


def test_async_and_plain_handlers_are_told_apart() -> None:
    class Call:
        def __call__(self, ctx: JobContext) -> None: ...

    class AsyncCall:
        async def __call__(self, ctx: JobContext) -> None: ...

    @functools.wraps(charge_customer)
    async def wrapped(ctx: JobContext) -> str:
        return await charge_customer(ctx)

    assert job(charge_customer).is_async
    assert job(wrapped).is_async
    assert define_job_handler(AsyncCall(), id="a").is_async
    assert define_job_handler(functools.partial(charge_customer), id="a").is_async
    assert not job(send_mail).is_async
    assert not define_job_handler(Call(), id="a").is_async


def test_a_method_can_be_a_handler() -> None:
    class Mailer:
        def send(self, ctx: JobContext) -> Any:
            return create_success_result({"sent": ctx.payload["to"]})

    made = job(Mailer().send)

    assert made.id == "send"
    assert run_job(made, {"to": "ada"}).data == {"sent": "ada"}


def test_a_handler_may_have_more_arguments_if_they_have_defaults() -> None:
    def handler(ctx: JobContext, retries: int = 3, *rest: Any, **more: Any) -> int:
        return retries

    assert run_job(job(handler), {}).data == 3


def test_defining_a_job_twice_registers_nothing() -> None:
    first, second = job(id="same")(send_mail), job(id="same")(send_mail)

    assert isinstance(first, JobDefinition)
    assert isinstance(second, JobDefinition)
