"""The client against a server that is away, busy or refuses."""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any, cast

import httpx
import pytest
import respx
from pydantic import BaseModel, PositiveInt

from netscript_workers import JobContext, PayloadInvalidError, job
from netscript_workers.client import (
    ApiError,
    AsyncWorkersClient,
    ConflictError,
    ForbiddenError,
    MissingError,
    RefusedError,
    Triggered,
    UnauthorizedError,
    UnavailableError,
    WorkersClient,
)
from netscript_workers.errors import ConfigurationError
from netscript_workers.problems import problem

URL = "http://netscript.test"
TRIGGER = f"{URL}/api/v1/workers/jobs/pay/trigger"
ANSWER = {"job_id": "pay", "execution_id": "e-1", "triggered": True}
TOKEN = "a-token-that-nobody-may-see"


class Payment(BaseModel):
    order: str
    cents: PositiveInt
    note: str = ""


@job(id="pay")
async def pay(ctx: JobContext[Payment]) -> None: ...


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was waited, without waiting for it."""
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(time, "sleep", found.append)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    return found


@pytest.fixture(params=["sync", "async"])
def trigger(request: pytest.FixtureRequest) -> Callable[..., Awaitable[Triggered]]:
    async def run(*args: Any, **options: Any) -> Triggered:
        if request.param == "sync":
            with WorkersClient(URL, token=TOKEN) as client:
                return client.trigger(*args, **options)
        async with AsyncWorkersClient(URL, token=TOKEN) as client:
            return await client.trigger(*args, **options)

    return run


def sent(route: respx.Route) -> Iterator[httpx.Request]:
    for call in cast("Any", route.calls):
        yield call.request


@respx.mock
async def test_a_trigger_is_sent_as_it_is_meant(trigger: Any) -> None:
    route = respx.post(url__startswith=TRIGGER).respond(202, json=ANSWER)
    told = await trigger(
        pay, Payment(order="A", cents=5), priority=7, delay=timedelta(minutes=1), topic="t"
    )
    assert told == Triggered(job_id="pay", execution_id="e-1", triggered=True)
    (request,) = sent(route)
    # As enqueue_job stores it: what its defaults have made is not made anew at each attempt.
    assert json.loads(request.content) == {"order": "A", "cents": 5, "note": ""}
    assert dict(request.url.params) == {"priority": "7", "delay": "60.0", "topic": "t"}
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["idempotency-key"].startswith("client-")


@respx.mock
async def test_what_a_server_that_is_away_did_not_take_is_sent_again_with_its_key(
    trigger: Any, pauses: list[float]
) -> None:
    busy = httpx.Response(503, json=problem(503, "store-unavailable"), headers={"retry-after": "3"})
    route = respx.post(TRIGGER).mock(
        side_effect=[httpx.ConnectError, httpx.ReadTimeout, busy, httpx.Response(202, json=ANSWER)]
    )
    assert (await trigger("pay", {"order": "A"}, idempotency_key="k")).execution_id == "e-1"
    assert [request.headers["idempotency-key"] for request in sent(route)] == ["k"] * 4
    assert len(pauses) == 3 and 0 < pauses[0] <= pauses[1] * 2 <= 0.8
    assert pauses[2] == 3.0
    route.mock(side_effect=[httpx.ReadError, httpx.Response(202, json=ANSWER)])
    await trigger("pay")
    first, second = list(sent(route))[-2:]
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


@respx.mock
async def test_it_does_not_try_for_ever(trigger: Any, pauses: list[float]) -> None:
    route = respx.post(TRIGGER).mock(side_effect=httpx.ConnectError)
    with pytest.raises(UnavailableError, match=r"No answer came: ConnectError\.") as raised:
        await trigger("pay")
    assert raised.value.status == 0
    assert route.call_count == 6
    assert TOKEN not in str(raised.value) + repr(raised.value)
    pauses.clear()
    route.mock(return_value=httpx.Response(429, headers={"retry-after": "3600"}))
    with pytest.raises(UnavailableError):
        await trigger("pay")
    assert not pauses  # nobody waits an hour


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, UnauthorizedError),
        (403, ForbiddenError),
        (404, MissingError),
        (409, ConflictError),
        (422, RefusedError),
        (500, ApiError),
    ],
)
@respx.mock
async def test_what_is_refused_is_raised_with_its_problem(
    trigger: Any, status: int, kind: type[ApiError], pauses: list[float]
) -> None:
    told = problem(status, "some-code", "Do it otherwise.", execution_id="e-7")
    respx.post(TRIGGER).respond(status, json=told)
    with pytest.raises(kind, match="Do it otherwise") as raised:
        await trigger("pay")
    assert (raised.value.status, raised.value.problem) == (status, told)
    assert not pauses
    if isinstance(raised.value, ConflictError):
        assert raised.value.execution_id == "e-7"


@respx.mock
async def test_an_answer_that_is_no_problem_document_is_raised_too(trigger: Any) -> None:
    respx.post(TRIGGER).respond(404, text="<html>not here</html>")
    with pytest.raises(MissingError, match=r"Not Found \(404\)"):
        await trigger("pay")


async def test_what_can_not_be_meant_is_not_sent(trigger: Any) -> None:
    with pytest.raises(PayloadInvalidError):
        await trigger(pay, {"order": "A", "cents": 0})
    with pytest.raises(ConfigurationError, match="delay or run_at"):
        await trigger(pay, Payment(order="A", cents=1), delay=1, run_at=1)


@pytest.mark.parametrize("lost", [httpx.ReadTimeout, httpx.Response(504), httpx.Response(503)])
@respx.mock
async def test_what_may_have_been_done_and_is_not_the_same_twice_is_not_sent_again(
    trigger: Any, lost: Any
) -> None:
    retry = respx.post(f"{URL}/api/v1/workers/executions/e-1/retry").mock(side_effect=[lost] * 9)
    with WorkersClient(URL) as client, pytest.raises(UnavailableError):
        client.retry("e-1")
    assert retry.call_count == 1
    route = respx.post(url__startswith=TRIGGER).mock(side_effect=[lost] * 9)
    with pytest.raises(UnavailableError):
        await trigger("pay", idempotency="while_pending", idempotency_key="k")
    assert route.call_count == 1
    with pytest.raises(ConfigurationError, match="needs an idempotency_key"):
        await trigger("pay", idempotency="while_pending")


@respx.mock
async def test_a_token_is_not_told_whatever_is_wrong_with_it(trigger: Any) -> None:
    respx.post(TRIGGER).mock(side_effect=httpx.LocalProtocolError(f"Illegal header {TOKEN}"))
    with pytest.raises(UnavailableError) as raised:
        await trigger("pay")
    assert TOKEN not in "".join(traceback.format_exception(raised.value))
    with pytest.raises(ConfigurationError) as refused:
        WorkersClient(URL, token=f"{TOKEN} {TOKEN}")
    assert TOKEN not in str(refused.value)
    assert WorkersClient(URL, token=f"{TOKEN}\n")._headers["Authorization"] == f"Bearer {TOKEN}"


@respx.mock
def test_what_is_no_stream_is_not_asked_for_ever() -> None:
    route = respx.get(f"{URL}/api/v1/workers/subscribe").respond(200, html="<p>log in</p>")
    with WorkersClient(URL) as client, pytest.raises(ApiError, match="no live stream"):
        next(client.subscribe())
    assert route.call_count == 1


@respx.mock
def test_who_waits_for_an_end_waits_no_longer_than_said(pauses: list[float]) -> None:
    respx.get(f"{URL}/api/v1/workers/executions/e-1").respond(503, headers={"retry-after": "50"})
    with WorkersClient(URL) as client, pytest.raises(UnavailableError):
        client.wait("e-1", timeout=5)
    assert not pauses
