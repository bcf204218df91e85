"""What every verifier must do, to be run against one's own: `check_verifier`.

A verifier that accepts a mutation which its documentation does not name as uncovered lets forgeries
in; one that raises anything but `VerificationError` is a hole in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from netscript_triggers.verifiers import RawRequest, Verified, Verifier, sign_delivery
from netscript_workers.errors import VerificationError

NOW = 1_700_000_000.0
_FAR = 10 * 365 * 24 * 3600.0


class ConformanceError(AssertionError):
    """A verifier does not do what every verifier must; the message says what."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """A delivery after somebody has meddled with it.

    Attributes:
        name: What was done, such as `header x-signature: bit flipped`.
        request: What came of it.
        header: The header that was touched, in lower case; empty where it was something else.
    """

    name: str
    request: RawRequest
    header: str = ""


def signed(verifier: Verifier, request: RawRequest, secret: bytes, now: float = NOW) -> RawRequest:
    """Return the request as its sender would send it."""
    made = sign_delivery(verifier, request, secret, now)
    added = [(name.lower().encode(), value.encode()) for name, value in made.headers.items()]
    names = {name for name, _ in added}
    kept = [header for header in request.headers if header[0] not in names]
    return RawRequest(
        request.method,
        request.path,
        [*kept, *added],
        made.body,
        made.query,
        request.raw_path,
        request.origin,
    )


def mutations(request: RawRequest, headers: Collection[str]) -> Iterator[Mutation]:
    """Yield what an attacker would try with a delivery that is good.

    Args:
        request: The good one.
        headers: Those that the signature stands in or covers, in lower case.
    """
    body = request.body
    changed = [
        ("body: bit flipped", bytes([body[0] ^ 1]) + body[1:] if body else b"x"),
        ("body: truncated", body[:-1]),
        ("body: empty", b""),
        ("body: blank added", body + b" "),
        ("body: not UTF-8", b"\xff" + body),
    ]
    for name, other in changed:
        if other != body:
            yield Mutation(name, _with(request, body=other))
    for header in sorted(headers):
        yield from _of_header(request, header.lower())


def _of_header(request: RawRequest, header: str) -> Iterator[Mutation]:
    name = header.encode()
    value = dict(request.headers).get(name)
    if value is None:
        return
    rest = [one for one in request.headers if one[0] != name]
    half = len(value) // 2
    changed: list[tuple[str, Sequence[bytes]]] = [
        ("dropped", ()),
        ("doubled", (value, value)),
        ("doubled with another", (value, b"x")),
        ("empty", (b"",)),
        ("truncated", (value[:half],)),
        ("bit flipped", (value[:half] + bytes([value[half] ^ 2]) + value[half + 1 :],)),
        ("nonsense", (b"nonsense",)),
        ("not ASCII", (b"\xff\xfe" + value,)),
        ("two hundred", (b",".join([b"v1=" + b"ab" * 32] * 200),)),
    ]
    for what, values in changed:
        given = [*rest, *((name, one) for one in values)]
        yield Mutation(f"header {header}: {what}", _with(request, headers=given), header)


def check_verifier(
    verifier: Verifier,
    *,
    secret: bytes,
    other_secret: bytes,
    signing_secret: bytes | None = None,
    body: bytes = b'{"id":"evt_1","type":"paid","cents":5}',
    request: RawRequest | None = None,
    signed_headers: Collection[str] = (),
    accepts: Callable[[Mutation], bool] = lambda _mutation: False,
    tolerance: float | None = None,
) -> Verified:
    """Hold a verifier to what every verifier must do.

    Args:
        verifier: Whose `sign` (or `sign_request`) makes the deliveries that `verify` sees.
        secret: What it verifies with.
        other_secret: One of the same form that is not the sender's.
        signing_secret: The private key, where a scheme has one.
        body: What is delivered, unless `request` is given.
        request: The request before it is signed.
        signed_headers: Those that the signature covers, beside those in `private_headers`.
        accepts: Which mutations the scheme can't see, because it does not cover what they change.
        tolerance: Seconds that a signed time may be off, where one is signed.

    Returns:
        What it made of the good delivery.

    Raises:
        ConformanceError: It accepts what it must refuse, refuses what it must accept, or raises
            something else than `VerificationError`.
    """
    start = request or RawRequest("POST", "/webhooks/x", (), body)
    good = signed(verifier, start, signing_secret or secret)
    verified = _accepted(verifier, good, [secret], "the delivery that it has signed itself")
    _accepted(verifier, good, [other_secret, secret], "one signed with the second of two secrets")
    if verifier.needs_secret:
        _refused(verifier, good, [other_secret], "one that is signed with another secret")
        _refused(verifier, good, [], "anything, while there is no secret")
        _refused(verifier, good, [b""], "anything, while the secret is empty")
    _refused(verifier, _with(good, body=b"", headers=()), [secret], "an empty request")
    for mutation in mutations(good, {*verifier.private_headers, *signed_headers}):
        if accepts(mutation):
            _outcome(verifier, mutation.request, [secret])
        else:
            _refused(verifier, mutation.request, [secret], mutation.name)
    if tolerance is not None:
        for offset in (-_FAR, -tolerance - 2, tolerance + 2, _FAR):
            _refused(verifier, good, [secret], f"one that is {offset:+g} s off", NOW + offset)
        for offset in (2 - tolerance, tolerance - 2):
            _accepted(verifier, good, [secret], f"one that is {offset:+g} s off", NOW + offset)
    return verified


def _with(
    request: RawRequest,
    *,
    body: bytes | None = None,
    headers: Sequence[tuple[bytes, bytes]] | None = None,
) -> RawRequest:
    return RawRequest(
        request.method,
        request.path,
        request.headers if headers is None else headers,
        request.body if body is None else body,
        request.query,
        request.raw_path,
        request.origin,
    )


def _outcome(
    verifier: Verifier, request: RawRequest, secrets: Sequence[bytes], now: float = NOW
) -> Verified | VerificationError:
    try:
        return verifier.verify(request, secrets, now)
    except VerificationError as error:
        return error
    except Exception as error:
        msg = f"{verifier.name} raised {type(error).__name__}, which is no VerificationError"
        raise ConformanceError(msg) from error


def _accepted(
    verifier: Verifier, request: RawRequest, secrets: Sequence[bytes], what: str, now: float = NOW
) -> Verified:
    outcome = _outcome(verifier, request, secrets, now)
    if isinstance(outcome, VerificationError):
        raise ConformanceError(f"{verifier.name} must accept {what}, and says {outcome.reason}")
    return outcome


def _refused(
    verifier: Verifier, request: RawRequest, secrets: Sequence[bytes], what: str, now: float = NOW
) -> None:
    if not isinstance(_outcome(verifier, request, secrets, now), VerificationError):
        raise ConformanceError(f"{verifier.name} must refuse this, and accepts it: {what}")
