"""Verifying: does this delivery come from who it says it comes from?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable
from urllib.parse import quote

from netscript_workers.errors import ConfigurationError, VerificationError, describe, nearest
from netscript_workers.strict_json import MalformedError, parse

_UNREAD: Any = object()


@dataclass(slots=True)
class RawRequest:
    """A request as it came off the wire.

    Attributes:
        method: In upper case.
        path: Without the query, decoded.
        headers: Lower-case names and values, in order, repeated ones repeated.
        body: The exact bytes.
        query: What follows the question mark, as it came.
        raw_path: The path as it came, with its escapes; by default `path`.
        origin: The public URL of the server (`NETSCRIPT_PUBLIC_URL`), such as
            `https://hooks.example.com`; empty where none is configured.
        path_params: What stood in the places of the path's parameters, by their names.
    """

    method: str
    path: str
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    query: bytes = b""
    raw_path: bytes = b""
    origin: str = ""
    path_params: Mapping[str, str] = field(default_factory=dict[str, str])
    _by_name: dict[bytes, bytes] = field(init=False, repr=False, compare=False)
    _json: Any = field(default=_UNREAD, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Make the headers findable by their names."""
        self._by_name = dict(self.headers)

    @property
    def url(self) -> bytes:
        """The URL that the sender called: the configured origin, the path and the query.

        It never comes from `Host`, which the sender chooses.

        Raises:
            VerificationError: No public URL is configured.
        """
        if not self.origin:
            raise VerificationError("public-url-missing")
        path = self.raw_path or quote(self.path, safe="/~!$&'()*+,;=:@-._").encode()
        base = self.origin.rstrip("/").encode() + path
        return base + b"?" + self.query if self.query else base

    def header(self, names: Sequence[bytes]) -> bytes | None:
        """Return the value of the first of these headers that is there.

        Args:
            names: In lower case.

        Raises:
            VerificationError: It is there twice: which one the sender meant can't be known.
        """
        for name in names:
            value = self._by_name.get(name)
            if value is not None:
                if len(self._by_name) < len(self.headers):
                    self._check_once(name)
                return value.strip()
        return None

    def json(self) -> Any:
        """Return the body as JSON; it is read once, and not to be changed.

        Raises:
            MalformedError: It is none.
        """
        if self._json is _UNREAD:
            try:
                self._json = parse(self.body)
            except MalformedError as error:
                self._json = error
        if isinstance(self._json, MalformedError):
            raise MalformedError(str(self._json))
        return self._json

    def _check_once(self, name: bytes) -> None:
        if sum(1 for given, _ in self.headers if given == name) > 1:
            raise VerificationError("header-repeated")


@dataclass(slots=True)
class Verified:
    """What a signature proves.

    Attributes:
        signed: The bytes that the signature covers.
        delivery_id: The sender's id for this delivery, if it gives one.
        id_signed: Whether the signature covers that id.
        event_type: What the sender says has happened, such as `invoice.paid`, if it says so.
        type_signed: Whether the signature covers that.
    """

    signed: bytes
    delivery_id: str | None = None
    id_signed: bool = False
    event_type: str | None = None
    type_signed: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handshake is answered; no event comes of it.

    Attributes:
        status: The HTTP status.
        body: At most a few KiB.
        content_type: Never one that a browser would run.
        headers: More of them.
        first: Awaited before the answer is sent, as where a confirmation must be fetched.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    first: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class Signed:
    """A delivery as its sender would send it: headers to add, and the body and query to use."""

    headers: Mapping[str, str]
    body: bytes
    query: bytes = b""


@runtime_checkable
class Verifier(Protocol):
    """Checks deliveries of one scheme, and signs them for tests.

    More is optional, and known by its name: `Scheme` lists it.
    """

    @property
    def name(self) -> str:
        """For lists and logs."""
        ...

    @property
    def needs_secret(self) -> bool:
        """Whether it refuses everything without a secret."""
        ...

    @property
    def private_headers(self) -> frozenset[str]:
        """Lower-case names of headers that are never stored or shown."""
        ...

    def verify(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> Verified:
        """Check a request against the secrets in force.

        Args:
            request: As it came.
            secrets: Each is accepted; empty refuses.
            now: Seconds since the epoch.

        Raises:
            VerificationError: It is not proven. Nothing else is ever raised.
        """
        ...

    def sign(self, body: bytes, secret: bytes, now: float) -> Mapping[str, str]:
        """Return the headers with which a sender would send this body."""
        ...


class Scheme:
    """What a verifier may also have, with the defaults of one that has none of it."""

    __slots__ = ()

    @property
    def needs_secret(self) -> bool:
        """Whether it refuses everything without a secret."""
        return True

    @property
    def needs_url(self) -> bool:
        """Whether it can't work without `NETSCRIPT_PUBLIC_URL`."""
        return False

    @property
    def media_types(self) -> frozenset[str]:
        """Content types, beside JSON's own, under which this sender sends JSON."""
        return frozenset()

    @property
    def signs_time(self) -> bool:
        """Whether `tolerance` may be set: it has `with_tolerance` then, too."""
        return False

    @property
    def handshake_methods(self) -> frozenset[str]:
        """HTTP methods, beside the trigger's own, that `handshake` answers."""
        return frozenset()

    def check_secret(self, secret: bytes) -> None:
        """Refuse a secret that can't be one, before any delivery does.

        Raises:
            ConfigurationError: It is malformed; the sentence does not show it.
        """

    async def prepare(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> None:
        """Get what `verify` needs and has not got, such as a public key. Called before it."""

    def verify(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> Verified:
        """Check a request against the secrets in force.

        Raises:
            VerificationError: It is not proven.
        """
        raise NotImplementedError

    def handshake(
        self, request: RawRequest, verified: Verified | None, secrets: Sequence[bytes], now: float
    ) -> Answer | None:
        """Answer a sender that asks whether somebody is there; None for a delivery.

        Args:
            request: As it came.
            verified: None before the signature is checked; what it proves, afterwards.
            secrets: Those in force.
            now: Seconds since the epoch.

        Raises:
            VerificationError: It is one, and not to be answered.
        """
        return None

    def sign_request(self, request: RawRequest, secret: bytes, now: float) -> Signed:
        """Sign a request as its sender would; for an asymmetric scheme with the private key.

        Raises:
            ConfigurationError: This secret can't sign.
        """
        raise NotImplementedError

    def sign(self, body: bytes, secret: bytes, now: float) -> Mapping[str, str]:
        """Return the headers with which a sender would send this body.

        Raises:
            ConfigurationError: The scheme signs more than headers can carry, or a URL.
        """
        try:
            made = self.sign_request(RawRequest("POST", "/", (), body), secret, now)
        except VerificationError as error:
            raise ConfigurationError(f"This body can't be signed ({error.reason}).") from None
        if made.body != body or made.query:
            raise ConfigurationError(
                "This scheme writes into the body or the query.", hint="Use sign_request."
            )
        return made.headers


@dataclass(frozen=True, slots=True)
class MemoryVerifier:
    """Accepts anything; for development only."""

    name: str = "memory"
    needs_secret: bool = False
    private_headers: frozenset[str] = frozenset()

    def verify(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> Verified:
        """Accept."""
        return Verified(signed=request.body)

    def sign(self, body: bytes, secret: bytes, now: float) -> Mapping[str, str]:
        """Sign with nothing."""
        return {}


def sign_delivery(verifier: Verifier, request: RawRequest, secret: bytes, now: float) -> Signed:
    """Sign a request the way a verifier expects, whichever of the two ways it has.

    Raises:
        ConfigurationError: It can't be signed with this secret.
    """
    if not isinstance(verifier, Scheme):
        headers = verifier.sign(request.body, secret, now)
        return Signed(headers, request.body, request.query)
    try:
        return verifier.sign_request(request, secret, now)
    except VerificationError as error:
        told = "it needs NETSCRIPT_PUBLIC_URL" if "public-url" in error.reason else error.reason
        raise ConfigurationError(f"{verifier.name} can't sign this: {told}.") from None


ENTRY_POINTS = "netscript.verifiers"


def verifier_named(name: str) -> Verifier:
    """Return a preset, or what an installed package offers under this name.

    Packages offer verifiers, or functions without arguments that make them, as entry points of
    the group `netscript.verifiers`. A preset's name can't be taken over.

    Raises:
        ConfigurationError: There is no such verifier; the message lists those there are.
    """
    from netscript_triggers.verifiers.hmac import PRESETS as PLAIN  # noqa: PLC0415 - it builds on this room

    known: dict[str, Verifier] = {**PLAIN, "memory": MemoryVerifier()}
    if name in known:  # without loading all the others
        return known[name]
    from netscript_triggers.verifiers.presets import PRESETS  # noqa: PLC0415

    known |= PRESETS
    if name in known:
        return known[name]
    offered = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name in offered:
        return _load(offered[name])
    close = nearest(name, [*known, *offered])
    listed = ", ".join(sorted([*known, *offered]))
    hint = f'Did you mean "{close}"?' if close else f"There are: {listed}."
    raise ConfigurationError(f'There is no verifier "{name}".', hint=hint)


def _load(point: EntryPoint) -> Verifier:
    try:
        found = point.load()
        made = found() if isinstance(found, type) or not isinstance(found, Verifier) else found
    except Exception as error:
        raise ConfigurationError(
            f'The verifier "{point.name}" of {point.value} can\'t be loaded: {describe(error)}.'
        ) from error
    if not isinstance(made, Verifier):
        raise ConfigurationError(f'The verifier "{point.name}" of {point.value} is none.')
    return made
