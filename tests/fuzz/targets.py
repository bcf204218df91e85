"""What is fuzzed without a server: every verifier, and every way to read a body."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

from netscript_triggers import WebhookEvent, define_webhook
from netscript_triggers.forms import MAX_FIELDS, read_pairs
from netscript_triggers.media import PARSES, UnsupportedError, check_media
from netscript_triggers.payloads import read_payload
from netscript_triggers.verifiers import RawRequest, Scheme, Verified, Verifier
from netscript_triggers.verifiers.conformance import NOW, signed
from netscript_triggers.verifiers.presets import PRESETS
from netscript_workers.errors import PayloadInvalidError, VerificationError
from netscript_workers.strict_json import MalformedError
from tests.fuzz.choices import Choices
from tests.unit.triggers.verifiers.samples import (
    TOKENS,
    TOPIC,
    Sample,
    certificate,
    json_of,
    pem_of,
    rsa_key,
    samples,
)
from tests.unit.workers.test_strict_json_reference import agree

_REASON = re.compile(r"[a-z0-9-]{1,64}")
# They prove who sends, and not what: another body goes through, as their documentation says.
_SENDER_ONLY = frozenset({*TOKENS, "google-pubsub", "ms-graph"})
_BODIES = (
    b'{"id":"evt_1","type":"paid","data":{"cents":5,"rate":1.5,"tags":["a","b"],"more":null}}',
    b'[{"a":"\\ud83d\\ude00 \\u00e9","b":-1e-7,"c":[[[]]]}]',
    b"cents=5&tags=a&tags=b&note=x+y%21",
    b"payload=%7B%22a%22%3A1%7D",
    b'{"specversion":"1.0","id":"1","source":"/shop","type":"paid","data":{"cents":5}}',
)
_HEADERS = (
    (b"content-type", b"application/json; charset=utf-8"),
    (b"content-type", b"application/x-www-form-urlencoded"),
    (b"content-type", b"application/cloudevents+json"),
    (b"content-encoding", b"gzip"),
    (b"ce-specversion", b"1.0"),
    (b"ce-id", b"1"),
    (b"ce-source", b"/shop"),
    (b"ce-type", b"paid"),
)


@dataclass(frozen=True)
class Good:
    """A delivery that is accepted, and what is proven by it."""

    verifier: Verifier
    secrets: Sequence[bytes]
    request: RawRequest
    verified: Verified


@cache
def deliveries() -> Mapping[str, Good]:
    """Return one of every preset."""
    return {name: _good(PRESETS[name], sample) for name, sample in _all_samples().items()}


def _all_samples() -> dict[str, Sample]:
    fetched: dict[str, Any] = {"signing": pem_of(rsa_key(0))}
    message = json_of({"Message": "hello", "TopicArn": TOPIC}).encode()
    sns = {
        name: Sample(verifier=PRESETS[name], secret=TOPIC, other=TOPIC, body=message, **fetched)
        for name in ("aws-sns", "aws-sns-v1")
    }
    key = f"WH-1 {pem_of(rsa_key(0))}"
    paypal = Sample(verifier=PRESETS["paypal"], secret="WH-1", other="WH-2", signing=key)
    return {**samples(), **sns, "paypal": paypal}


def _good(preset: Verifier, sample: Sample) -> Good:
    verifier = sample.verifier
    request = signed(verifier, sample.request, (sample.signing or sample.secret).encode())
    secrets = [sample.secret.encode()]
    if preset.name in {"paypal", "aws-sns", "aws-sns-v1"}:
        secrets.append(certificate(0).encode())
    return Good(verifier, secrets, request, verifier.verify(request, secrets, NOW))


def verifier(choices: Choices) -> None:
    """Meddle with a good delivery, and verify it as the edge would."""
    name = choices.pick(list(deliveries()))
    good = deliveries()[name]
    request = meddled(good.request, choices)
    now = NOW if choices.number(8) else NOW + choices.number(2**32) - 2**31
    try:
        verified = _converse(good, request, now)
    except VerificationError as error:
        if not _REASON.fullmatch(error.reason):
            raise AssertionError(error.reason) from error
        return
    if verified is None or name in _SENDER_ONLY:
        return
    # Braintree's signature may be of the payload with a line end behind it.
    proven = verified.signed.rstrip(b"\n") if name == "braintree" else verified.signed
    assert proven == good.verified.signed.rstrip(b"\n" if name == "braintree" else b""), name


def _converse(good: Good, request: RawRequest, now: float) -> Verified | None:
    scheme, secrets = good.verifier, good.secrets
    if not isinstance(scheme, Scheme):
        return scheme.verify(request, secrets, now)
    if scheme.handshake(request, None, secrets, now) is not None:
        return None
    verified = scheme.verify(request, secrets, now)
    scheme.handshake(request, verified, secrets, now)
    return verified


def meddled(request: RawRequest, choices: Choices) -> RawRequest:
    """Return a request after somebody has meddled with it, in one place or several."""
    method, query, body, headers = request.method, request.query, request.body, [*request.headers]
    for _ in range(1 + choices.number(4)):
        place = choices.number(len(headers)) if headers else 0
        match choices.number(8):
            case 0:
                body = choices.meddled(body)
            case 1:
                query = choices.meddled(query)
            case 2:
                method = choices.pick(["POST", "GET", "HEAD", "PUT", "OPTIONS"])
            case 3 if headers:
                del headers[place]
            case 4 if headers:
                headers.append((headers[place][0], choices.meddled(headers[place][1])))
            case 5:
                headers.append((choices.pick(list(_HEADERS))[0], choices.word()))
            case _ if headers:
                name, value = headers[place]
                headers[place] = (name, choices.meddled(value))
            case _:
                body = choices.meddled(body)
    return RawRequest(method, request.path, headers, body, query, request.raw_path, request.origin)


def _nothing(event: WebhookEvent) -> None: ...


HOOKS = {
    (parse, packed): define_webhook(
        _nothing, id="w", path="/w", verifier="memory", parse=parse, decompress=packed
    )
    for parse in PARSES
    for packed in (False, True)
}


def body(choices: Choices) -> None:
    """Read a body in each way there is, and JSON against a reading that is plain."""
    content = choices.pick(_BODIES)
    headers = [choices.pick(_HEADERS) for _ in range(choices.number(8))]
    for _ in range(1 + choices.number(4)):
        content = choices.meddled(content)
        if headers and choices.number(3) == 2:
            place = choices.number(len(headers))
            headers[place] = (headers[place][0], choices.meddled(headers[place][1]))
    agree(content)
    _agree_on_pairs(content)
    hook = HOOKS[choices.pick(list(HOOKS))]
    kept = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    with contextlib.suppress(UnsupportedError):
        check_media(headers, hook.parse, decompress=hook.decompress)
    with contextlib.suppress(PayloadInvalidError):
        read_payload(hook, content, kept)


def _agree_on_pairs(content: bytes) -> None:
    """Read a form, and read it as Python does."""
    try:
        pairs = read_pairs(content, MAX_FIELDS)
    except MalformedError:
        return
    text = content.decode("latin-1")  # so that bytes stay what they are
    plainly = parse_qsl(text, keep_blank_values=True, encoding="latin-1")
    assert pairs == [tuple(part.encode("latin-1") for part in pair) for pair in plainly]


TARGETS: Mapping[str, Callable[[Choices], None]] = {"verifiers": verifier, "bodies": body}
