"""Webhook definitions: what they are, and what is refused when they are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from netscript_triggers import (
    TriggerContext,
    VerificationError,
    WebhookDefinition,
    WebhookEvent,
    define_webhook,
    enqueue_job,
    webhook,
)
from netscript_triggers.handlers import HandlerError
from netscript_triggers.registry import discover_triggers
from netscript_triggers.testing import fire, signed_request
from netscript_triggers.verifiers import RawRequest
from netscript_workers import PayloadInvalidError
from netscript_workers.errors import ConfigurationError, DuplicateIdError
from tests.support import write_project


class Paid(BaseModel):
    cents: int


def handler(event: WebhookEvent) -> Any:
    """Take a payment.

    More words.
    """
    return enqueue_job("charge", {"cents": event.payload["cents"]})


def make(**options: Any) -> WebhookDefinition[Any]:
    known: dict[str, Any] = {
        "id": "w",
        "path": "/webhooks/w",
        "verifier": "hmac-sha256",
        "secret_env": "SECRET",
    }
    return define_webhook(options.pop("handler", handler), **{**known, **options})


def test_both_forms_make_the_same_value() -> None:
    made = make()
    decorated = webhook(id="w", path="/webhooks/w", verifier="hmac-sha256", secret_env="SECRET")(
        handler
    )
    for name in WebhookDefinition.__slots__:
        if name != "verifier":
            assert getattr(made, name) == getattr(decorated, name), name
    assert made.description == "Take a payment."
    assert (made.kind, made.methods, made.max_body) == ("webhook", ("POST",), 1_048_576)
    assert "w" in repr(made) and "/webhooks/w" in repr(made)
    with pytest.raises(AttributeError):
        made.path = "/other"  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]


def takes_three(a: object, b: object, c: object) -> None: ...


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"id": "no blanks"}, "letters, digits"),
    ({"id": ""}, "letters, digits"),
    ({"path": "webhooks"}, "a slash first"),
    ({"path": "/a/../b"}, "a slash first"),
    ({"path": "/a?b"}, "a slash first"),
    ({"path": "/a/"}, "a slash first"),
    ({"path": "/api/v1/x"}, "belongs to netscript's own API"),
    ({"path": "/health"}, "belongs to netscript's own API"),
    ({"path": "/login"}, "belongs to netscript's own API"),
    ({"path": "/{tenant}"}, "begins with a parameter"),
    ({"path": "/w/{a}/{a}"}, "names a parameter twice"),
    ({"path": "/w/x{a}"}, "a parameter is a whole part"),
    ({"path": "/w/{a-b}"}, "a parameter is a whole part"),
    ({"path": "/w/{}"}, "a parameter is a whole part"),
    ({"path": "/api/{tenant}"}, "belongs to netscript's own API"),
    ({"verifier": "hmac-sha265"}, 'Did you mean "hmac-sha256"'),
    ({"secret_env": None}, 'secret_env="WEBHOOK_SECRET"'),
    ({"secret_env": []}, "needs a secret"),
    ({"secret_env": ["A", ""]}, "needs a secret"),
    ({"methods": ("GET",)}, "Use some of PATCH, POST, PUT"),
    ({"methods": ()}, "Use some of"),
    ({"dispatch": "later"}, "dispatch"),
    ({"dedupe": "never"}, "dedupe"),
    ({"max_body": 0}, "max_body"),
    ({"tolerance": 60}, "which signs no time"),
    ({"tolerance": 0, "verifier": "stripe"}, "more than zero"),
    ({"tolerance": float("nan"), "verifier": "stripe"}, "more than zero"),
    ({"tolerance": "60", "verifier": "stripe"}, "a number of seconds"),
    ({"events": "paid"}, "must be several patterns"),
    ({"events": ["pa[i]d"]}, "which is no pattern"),
    ({"events": [""]}, "which is no pattern"),
    ({"concurrency": 2}, 'Add dispatch="background"'),
    ({"concurrency": 0, "dispatch": "background"}, "must be 1 or more"),
    ({"circuit": 5}, "a Circuit"),
    ({"parse": "xml"}, "Use one of json, form, raw, cloudevents"),
    ({"parse": "raw", "model": Paid}, "which no model reads"),
    ({"decompress": "yes"}, "decompress='yes' must be True or False"),
    ({"allow_ips": "10.0.0.1"}, "allow_ips='10.0.0.1' must be several"),
    ({"allow_ips": ["10.0.0.1/8"]}, "'10.0.0.1/8' is no address and no network"),
    ({"allow_ips": ["example.com"]}, "'example.com' is no address"),
    ({"rate": "fast"}, "is no rate"),
    ({"rate": 5}, "rate=5 must be text"),
    ({"model": 5}, "can't be validated"),
    ({"handler": lambda: None}, "must take the event"),
    ({"handler": takes_three}, "must take the event"),
    ({"handler": 5}, "must be a function"),
]


@pytest.mark.parametrize(("options", "told"), REFUSED)
def test_what_cannot_work_is_refused_with_a_way_out(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        make(**options)
    assert told in str(refusal.value)


def test_a_webhook_of_a_webhook_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="must be a function"):
        define_webhook(make(), id="x", path="/x", verifier="memory")


async def test_fire_calls_the_handler_and_returns_its_actions() -> None:
    (action,) = await fire(make(), {"cents": 5})
    assert action == enqueue_job("charge", {"cents": 5})

    async def typed(event: WebhookEvent[Paid], context: TriggerContext) -> None:
        assert event.payload == Paid(cents=5)
        assert event.headers == {"x-kind": "sale"}
        assert context.trigger.id == "w"

    trigger = make(handler=typed, model=Paid)
    assert await fire(trigger, b'{"cents":5}', headers={"X-Kind": "sale"}) == []
    with pytest.raises(PayloadInvalidError, match="cents"):
        await fire(trigger, {"cents": "x"})
    with pytest.raises(PayloadInvalidError, match="not JSON"):
        await fire(trigger, b"{")
    with pytest.raises(HandlerError, match="KeyError"):
        await fire(make(), {})


def test_a_signed_request_is_one_that_the_verifier_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    trigger = make()
    with pytest.raises(ConfigurationError, match="Set SECRET"):
        signed_request(trigger, {})
    monkeypatch.setenv("SECRET", "first second")
    made = signed_request(trigger, {"a": 1}, headers={"X-More": "1"})
    assert (made.method, made.path, made.headers["X-More"]) == ("POST", "/webhooks/w", "1")
    raw = [(name.lower().encode(), value.encode()) for name, value in made.headers.items()]
    request = RawRequest(made.method, made.path, raw, made.body)
    trigger.verifier.verify(request, [b"first"], 0.0)
    with pytest.raises(VerificationError):
        trigger.verifier.verify(request, [b"second"], 0.0)


ONE = """
from netscript_triggers import define_webhook
w = define_webhook(lambda event: None, id="{id}", path="{path}", verifier="memory")
"""


def test_two_triggers_share_neither_id_nor_path(tmp_path: Path) -> None:
    files = {
        "triggers/a.py": ONE.format(id="a", path="/a"),
        "triggers/b.py": ONE.format(id="b", path="/b"),
    }
    project = write_project(tmp_path, files)
    assert list(discover_triggers(project, dev=True)) == ["a", "b"]
    with pytest.raises(ConfigurationError, match="--dev"):
        discover_triggers(project)
    write_project(tmp_path, {"triggers/c.py": ONE.format(id="c", path="/a")})
    with pytest.raises(DuplicateIdError, match="Two webhooks listen at /a"):
        discover_triggers(project, dev=True)
    write_project(tmp_path, {"triggers/c.py": ONE.format(id="a", path="/c")})
    with pytest.raises(DuplicateIdError, match='called "a"'):
        discover_triggers(
            write_project(
                tmp_path / "x", {**files, "triggers/c.py": ONE.format(id="a", path="/c")}
            ),
            dev=True,
        )
