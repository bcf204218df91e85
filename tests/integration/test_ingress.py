"""The webhook edge: who gets in, what is told to whom, and that nothing of the rest is stored."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from netscript_triggers import WebhookEvent
from netscript_triggers.verifiers import MemoryVerifier, RawRequest, Verified
from netscript_workers.store.engine import Store
from tests.edge import PATH, SECRET, open_edge, signature, trigger

BODY = b'{"cents":5}'
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"


async def test_a_signed_delivery_becomes_an_event_and_its_executions(store: Store) -> None:
    async with open_edge(store) as edge:
        answer = await edge.post(headers={"traceparent": TRACE, "tracestate": "x=1"})
        told = answer.json()
        assert answer.status_code == 202
        assert (told["status"], told["duplicate"], len(told["executions"])) == (
            "completed",
            False,
            1,
        )
        record = edge.event(told["event_id"])
        assert list(record.event.executions) == told["executions"]
        assert (record.event.status, record.body) == ("completed", BODY.decode())
        assert record.event.traceparent == TRACE
        assert edge.count("executions") == 1


async def test_a_redelivery_is_told_the_same_ids_and_runs_nothing(store: Store) -> None:
    calls: list[str] = []

    def count(event: WebhookEvent) -> None:
        calls.append(event.id)

    async with open_edge(store, trigger(count)) as edge:
        first, second = (await edge.post()).json(), (await edge.post()).json()
        assert second == {**first, "duplicate": True}
        assert len(calls) == 1
        assert edge.count("trigger_events") == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"X-NetScript-Signature": signature(BODY, "wrong")},
        {"X-NetScript-Signature": ""},
        {"X-NetScript-Signature": "nonsense"},
        {"X-NetScript-Signature": "sha256="},
        {"X-NetScript-Signature": signature(BODY)[:-2]},
        {"X-Other": "x"},
    ],
)
async def test_an_unproven_delivery_is_401_and_leaves_nothing(
    store: Store, headers: dict[str, str]
) -> None:
    async with open_edge(store) as edge:
        answer = await edge.client.post(PATH, content=BODY, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"] == "The signature could not be verified."
        assert edge.nothing_is_stored()


@pytest.mark.parametrize("secret", [None, "", "   "])
async def test_without_a_secret_everything_is_refused(store: Store, secret: str | None) -> None:
    async with open_edge(store) as edge:
        del edge.environment["WEBHOOK_SECRET"]
        if secret is not None:
            edge.environment["WEBHOOK_SECRET"] = secret
        for signed_with in ("", SECRET, " "):
            answer = await edge.post(secret=signed_with)
            assert answer.status_code == 401
        assert edge.nothing_is_stored()
        assert edge.ingress.refused["payment", "secret-missing"] == 3


@pytest.mark.parametrize(
    "given",
    [
        {"X-NetScript-Signature": f"sha256={signature(BODY)}"},
        {"X-Signature-256": signature(BODY).upper()},
        {"X-Hub-Signature-256": f"sha256={signature(BODY)}"},
        {"X-NetScript-Signature": base64.b64encode(bytes.fromhex(signature(BODY))).decode()},
    ],
)
async def test_hex_with_or_without_prefix_and_base64_are_read(
    store: Store, given: dict[str, str]
) -> None:
    async with open_edge(store) as edge:
        headers = {**given, "content-type": "application/json"}
        assert (await edge.client.post(PATH, content=BODY, headers=headers)).status_code == 202


async def test_each_of_several_secrets_is_accepted(store: Store) -> None:
    names = trigger(secret_env=["WEBHOOK_SECRET", "NEXT_SECRET"])
    async with open_edge(store, names) as edge:
        edge.environment.update(WEBHOOK_SECRET="old new", NEXT_SECRET="newest")
        for secret in ("old", "new", "newest"):
            assert (await edge.post(secret=secret)).status_code == 202
        assert (await edge.post(secret="old new")).status_code == 401


async def test_the_raw_bytes_are_what_is_signed(store: Store) -> None:
    async with open_edge(store) as edge:
        spaced = b'{ "cents" :5}'
        headers = {"X-NetScript-Signature": signature(BODY), "content-type": "application/json"}
        assert (await edge.client.post(PATH, content=spaced, headers=headers)).status_code == 401
        assert (await edge.post(spaced)).status_code == 202


async def test_a_body_over_the_limit_is_413_declared_or_streamed(store: Store) -> None:
    async with open_edge(store, trigger(max_body=20)) as edge:
        read: list[int] = []

        async def chunks() -> AsyncIterator[bytes]:
            for number in range(1000):
                read.append(number)
                yield b"x" * 8

        assert (await edge.post(b'{"cents":1234567890123}')).status_code == 413
        headers = {"X-NetScript-Signature": "x"}
        streamed = await edge.client.post(PATH, content=chunks(), headers=headers)
        assert streamed.status_code == 413
        assert edge.nothing_is_stored()
        assert (await edge.post()).status_code == 202


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{'a':1}",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1e999}',
        b'{"a":1,"a":2}',
        b'\xff{"a":1}',
        b"[" * 500 + b"]" * 500,
        b"[" * 100_000,
        b'{"a":' + b"9" * 5000 + b"}",
    ],
)
async def test_what_is_no_strict_json_is_400(store: Store, body: bytes) -> None:
    async with open_edge(store) as edge:
        answer = await edge.post(body)
        assert answer.status_code == 400
        assert answer.json()["type"] == "urn:netscript:problem:malformed"
        assert edge.nothing_is_stored()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
async def test_another_method_is_405_and_names_the_right_one(store: Store, method: str) -> None:
    async with open_edge(store) as edge:
        answer = await edge.post(method=method)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json; charset=latin-1"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "application/json; charset=UTF-8"}, 202),
        ({"Content-Type": "application/cloudevents+json"}, 202),
        ({"Content-Encoding": "identity"}, 202),
    ],
)
async def test_only_plain_utf8_json_is_taken(
    store: Store, headers: dict[str, str], expected: int
) -> None:
    async with open_edge(store) as edge:
        assert (await edge.post(headers=headers)).status_code == expected
        assert edge.nothing_is_stored() is (expected == 415)


async def test_another_path_goes_to_the_application_behind(store: Store) -> None:
    async with open_edge(store) as edge:
        assert (await edge.post(path="/webhooks/other")).status_code == 404


class Paid(BaseModel):
    cents: int


async def test_a_model_types_the_payload_and_refuses_what_does_not_fit(store: Store) -> None:
    seen: list[Any] = []

    def keep(event: WebhookEvent[Paid]) -> None:
        seen.append(event.payload)

    async with open_edge(store, trigger(keep, model=Paid)) as edge:
        assert (await edge.post({"cents": 5})).status_code == 202
        answer = await edge.post({"cents": "geheim"})
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["loc"] == ["cents"]
        assert "geheim" not in answer.text
    assert seen == [Paid(cents=5)]


async def test_the_handler_sees_the_event_without_credentials(store: Store) -> None:
    seen: list[WebhookEvent] = []

    async def keep(event: WebhookEvent, context: Any) -> None:
        context.log.info("seen")
        seen.append(event)

    async with open_edge(store, trigger(keep)) as edge:
        headers = {"Authorization": "Bearer geheim", "Cookie": "geheim", "X-Kind": "sale"}
        answer = await edge.post(headers=headers)
        (event,) = seen
        assert (event.trigger_id, event.kind, event.attempt) == ("payment", "webhook", 1)
        assert event.headers["x-kind"] == "sale"
        stored = edge.event(answer.json()["event_id"])
        for kept in (event.headers, stored.headers):
            assert not {"authorization", "cookie", "x-netscript-signature"} & set(kept)
            assert "geheim" not in json.dumps(dict(kept))


async def test_refusals_are_counted_and_logged_without_secrets(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_edge(store) as edge:
        for _ in range(20):
            await edge.post(secret="wrong")
        await edge.post(secret=SECRET)
        assert edge.ingress.refused["payment", "signature-mismatch"] == 20
    told = [record for record in caplog.records if "refused" in record.message]
    assert len(told) == 1
    everything = caplog.text
    assert SECRET not in everything
    assert signature(BODY) not in everything
    assert signature(BODY, "wrong") not in everything


class Broken(MemoryVerifier):
    def verify(self, request: RawRequest, secrets: Any, now: float) -> Verified:
        raise RuntimeError("geheim")


async def test_a_verifier_that_breaks_opens_no_door(store: Store) -> None:
    async with open_edge(store, trigger(verifier=Broken(), secret_env=None)) as edge:
        answer = await edge.post()
        assert answer.status_code == 401
        assert "geheim" not in answer.text
        assert edge.ingress.refused["payment", "verifier-raised-RuntimeError"] == 1


async def test_a_sender_that_goes_away_leaves_nothing(store: Store) -> None:
    async with open_edge(store) as edge:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        for first in (None, {"type": "http.request", "body": b"{", "more_body": True}):
            messages = [first] if first else []

            async def receive(left: list[Any] = messages) -> Any:
                return left.pop() if left else {"type": "http.disconnect"}

            scope: dict[str, Any] = {"type": "http", "method": "POST", "path": PATH, "headers": []}
            await edge.ingress(scope, receive, send)
        assert sent == []
        assert edge.nothing_is_stored()


async def test_a_store_that_is_down_is_503_and_says_when_to_come_back(sqlite_url: str) -> None:
    blocking, store = Store(sqlite_url), Store(sqlite_url, patience=0.1)
    async with open_edge(store) as edge:
        with blocking.begin() as conn:
            conn.exec_driver_sql("DELETE FROM netscript_changes")
            answer: httpx.Response = await edge.post()
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "5"
        assert edge.nothing_is_stored()
        assert (await edge.post()).status_code == 202
    store.dispose()
    blocking.dispose()
