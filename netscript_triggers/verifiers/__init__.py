"""Verifying: does this delivery come from who it says it comes from?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from netscript_workers.errors import ConfigurationError, VerificationError, nearest


@dataclass(slots=True)
class RawRequest:
    """A request as it came off the wire.

    Attributes:
        method: In upper case.
        path: Without the query.
        headers: Lower-case names and values, in order, repeated ones repeated.
        body: The exact bytes.
        path_params: What stood in the places of the path's parameters, by their names.
    """

    method: str
    path: str
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    path_params: Mapping[str, str] = field(default_factory=dict[str, str])
    _by_name: dict[bytes, bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Make the headers findable by their names."""
        self._by_name = dict(self.headers)

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
    """

    signed: bytes
    delivery_id: str | None = None
    id_signed: bool = False


@runtime_checkable
class Verifier(Protocol):
    """Checks deliveries of one scheme, and signs them for tests."""

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


def verifier_named(name: str) -> Verifier:
    """Return a preset.

    Raises:
        ConfigurationError: There is no such preset; the message lists those there are.
    """
    from netscript_triggers.verifiers.hmac import PRESETS  # noqa: PLC0415 - it builds on this room

    known: dict[str, Verifier] = {**PRESETS, "memory": MemoryVerifier()}
    if name in known:
        return known[name]
    close = nearest(name, known)
    hint = f'Did you mean "{close}"?' if close else f"There are: {', '.join(sorted(known))}."
    raise ConfigurationError(f'There is no verifier "{name}" in this version.', hint=hint)
