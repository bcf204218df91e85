"""Questions that senders ask before they send: what they are, and what each is answered.

What the sender signs is answered only when it is verified: an answer that is made with the secret
would sign whatever anybody sends. Everything else that comes back is short, of harmless
characters, and `text/plain` or JSON.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

from netscript_triggers.verifiers import Answer, RawRequest, Verified
from netscript_triggers.verifiers.headers import Handshake
from netscript_triggers.verifiers.keys import any_same
from netscript_triggers.verifiers.reading import find, peek
from netscript_workers.errors import VerificationError
from netscript_workers.strict_json import MalformedError, parse

GET = frozenset({"GET"})
HEAD = frozenset({"HEAD"})
OPTIONS = frozenset({"OPTIONS"})
VERIFY_TOKEN = b"verify-token="

_MAX_QUERY = 4096
_MAX_FIELDS = 20
_WORD = re.compile(r"[A-Za-z0-9._~+/=-]{1,512}")
_SAID = re.compile(r"[ -~]{1,1024}")


def asked(request: RawRequest) -> dict[str, str]:
    """Return the query by name.

    Raises:
        VerificationError: It is too long, or a name stands in it twice.
    """
    if len(request.query) > _MAX_QUERY:
        raise VerificationError("query-malformed")
    try:
        text = request.query.decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError:
        raise VerificationError("query-malformed") from None
    if len(dict(pairs)) < len(pairs):
        raise VerificationError("query-malformed")
    return dict(pairs)


def echo(value: object, *, free: bool = False) -> Answer:
    """Send a challenge back.

    Args:
        value: What was asked.
        free: Whether it may have blanks and signs, and not only what a token has.

    Raises:
        VerificationError: It is no challenge.
    """
    pattern = _SAID if free else _WORD
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise VerificationError("challenge-malformed")
    return Answer(body=value.encode())


def as_json(value: object) -> Answer:
    """Answer with JSON."""
    return Answer(body=json.dumps(value).encode(), content_type="application/json")


def _body(request: RawRequest, verified: Verified | None) -> Any:
    """Return the JSON of what is verified, and nothing of what is not."""
    if verified is None or len(request.body) > _MAX_QUERY:
        return None
    return peek(request)


def _slack(
    request: RawRequest, verified: Verified | None, secrets: Sequence[bytes]
) -> Answer | None:
    body = _body(request, verified)
    if find(body, ("type",)) != "url_verification":
        return None
    return echo(find(body, ("challenge",)))


def _zoom(
    request: RawRequest, verified: Verified | None, secrets: Sequence[bytes]
) -> Answer | None:
    body = _body(request, verified)
    if find(body, ("event",)) != "endpoint.url_validation":
        return None
    token = echo(find(body, ("payload", "plainToken"))).body
    # Of several secrets the one that this very request is signed with; any other would not do.
    key = _signer(request, secrets)
    made = hmac.new(key, token, hashlib.sha256).hexdigest()
    return as_json({"plainToken": token.decode(), "encryptedToken": made})


def _signer(request: RawRequest, secrets: Sequence[bytes]) -> bytes:
    time = request.header((b"x-zm-request-timestamp",)) or b""
    given = (request.header((b"x-zm-signature",)) or b"").removeprefix(b"v0=")
    message = b"v0:" + time + b":" + request.body
    for secret in secrets:
        made = hmac.new(secret, message, hashlib.sha256).hexdigest().encode()
        if secret and hmac.compare_digest(made, given.lower()):
            return secret
    raise VerificationError("signature-mismatch")


def _twitch(
    request: RawRequest, verified: Verified | None, secrets: Sequence[bytes]
) -> Answer | None:
    if verified is None:
        return None
    kind = request.header((b"twitch-eventsub-message-type",))
    if kind != b"webhook_callback_verification":
        return None
    return echo(find(_body(request, verified), ("challenge",)))


def _discord(
    request: RawRequest, verified: Verified | None, secrets: Sequence[bytes]
) -> Answer | None:
    """Answer both PINGs: an interaction's is type 1, a webhook event's type 0."""
    body = _body(request, verified)
    kind = find(body, ("type",))
    if isinstance(kind, bool):
        return None
    if kind == 0:
        return Answer(status=204)
    # A webhook event is of type 1 too, and has an event; a ping has not.
    if kind == 1 and find(body, ("event",)) is None:
        return as_json({"type": 1})
    return None


def _xero(
    request: RawRequest, verified: Verified | None, secrets: Sequence[bytes]
) -> Answer | None:
    """Answer the intent to receive, which has no events, with 200 and nothing."""
    return Answer() if find(_body(request, verified), ("events",)) == [] else None


def _dropbox(
    request: RawRequest, verified: Verified | None, secrets: Sequence[bytes]
) -> Answer | None:
    if request.method != "GET":
        return None
    return echo(asked(request).get("challenge"))


def _meta(
    request: RawRequest, verified: Verified | None, secrets: Sequence[bytes]
) -> Answer | None:
    if request.method != "GET":
        return None
    query = asked(request)
    token = VERIFY_TOKEN + query.get("hub.verify_token", "").encode()
    known = [secret for secret in secrets if secret.startswith(VERIFY_TOKEN)]
    known = [secret for secret in known if secret != VERIFY_TOKEN]
    if query.get("hub.mode") != "subscribe" or not any_same(token, known):
        raise VerificationError("verify-token-mismatch")
    return echo(query.get("hub.challenge"))


def _x(request: RawRequest, verified: Verified | None, secrets: Sequence[bytes]) -> Answer | None:
    """Answer the CRC.

    The answer is a MAC of what is asked, under the key of deliveries: so only of a word, which is
    no delivery's body, and never of digits alone or another text that is JSON.
    """
    if request.method != "GET":
        return None
    token = echo(asked(request).get("crc_token")).body
    if not any(secrets):
        raise VerificationError("secret-missing")
    try:
        parse(token)
    except MalformedError:
        made = hmac.new(next(filter(None, secrets)), token, hashlib.sha256).digest()
        return as_json({"response_token": f"sha256={base64.b64encode(made).decode()}"})
    raise VerificationError("challenge-malformed")


def _probe(
    request: RawRequest, verified: Verified | None, secrets: Sequence[bytes]
) -> Answer | None:
    return Answer() if request.method == "HEAD" else None


SLACK = Handshake(_slack)
ZOOM = Handshake(_zoom)
TWITCH = Handshake(_twitch)
DISCORD = Handshake(_discord)
XERO = Handshake(_xero)
DROPBOX = Handshake(_dropbox, GET)
META = Handshake(_meta, GET)
X = Handshake(_x, GET)
PROBE = Handshake(_probe, HEAD)
