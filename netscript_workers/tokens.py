"""API tokens: who may use the API, and for what. Only digests of them are kept."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hmac import compare_digest

MIN_LENGTH = 16
MAX_LENGTH = 512
# Who does something where there are no tokens.
LOCAL = "local"

_BARE = "admin"
_SESSION = b"netscript dashboard session"
# Digests of one process are of no use in another, or in a dump of its memory.
_PROCESS_KEY = secrets.token_bytes(32)
# As RFC 6750, section 2.1, has it.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_FORM = "write TOKEN for an admin, or NAME:ROLE:TOKEN"


class Role(StrEnum):
    """What a token is good for; each may do what those before it may."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"

    def may(self, needed: Role) -> bool:
        """Tell whether this role is enough where `needed` is asked for."""
        return _RANKS[self] >= _RANKS[needed]


_RANKS = {role: rank for rank, role in enumerate(Role)}


@dataclass(frozen=True, slots=True)
class Token:
    """Whom a token stands for.

    Attributes:
        digest: What a token that is presented is compared with.
        session_key: Signs the cookies of whoever logged in with it; the same in every process
            that has the token, and gone with it.
    """

    name: str
    role: Role
    digest: bytes = field(repr=False)
    session_key: bytes = field(repr=False)


class Tokens:
    """The tokens of a server; empty where everybody who reaches it may do everything."""

    def __init__(self, tokens: Sequence[Token] = ()) -> None:
        """Know these."""
        self._tokens = tuple(tokens)
        self._by_name = {token.name: token for token in self._tokens}

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self._tokens)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._tokens)

    def __iter__(self) -> Iterator[Token]:
        """Go through them."""
        return iter(self._tokens)

    def __repr__(self) -> str:
        """Name them."""
        return f"Tokens({', '.join(self._by_name)})"

    def find(self, presented: str) -> Token | None:
        """Return whom a token stands for.

        Digests are compared, each in constant time, and always with all of them: how long it takes
        says neither how much of a token was right nor which one it was.
        """
        digest = _digest(presented)
        found: Token | None = None
        for token in self._tokens:
            if compare_digest(token.digest, digest):
                found = token
        return found

    def named(self, name: str) -> Token | None:
        """Return the token of this name."""
        return self._by_name.get(name)


def parse_tokens(entries: Sequence[str]) -> Tokens:
    """Read tokens, each `TOKEN` or `NAME:ROLE:TOKEN`; a bare one is an admin's.

    Raises:
        ValueError: One can't be used. The message says which by its place, and repeats nothing of
            it: what stands where a name belongs may be a token.
    """
    found: list[Token] = []
    places: dict[str, int] = {}
    digests: dict[bytes, int] = {}
    for place, entry in enumerate(entries, 1):
        token = _parse(place, entry, places)
        if token.name in places:
            raise ValueError(f"entries {places[token.name]} and {place} have the same name")
        if token.digest in digests:
            raise ValueError(f"entries {digests[token.digest]} and {place} have the same token")
        places[token.name] = digests[token.digest] = place
        found.append(token)
    return Tokens(found)


def _parse(place: int, entry: str, taken: dict[str, int]) -> Token:
    match entry.strip().split(":"):
        case [secret]:
            name, role = _bare_name(taken), Role.ADMIN.value
        case [name, role, secret]:
            name, role, secret = name.strip(), role.strip(), secret.strip()
        case _:
            raise ValueError(f"entry {place} is no token: {_FORM}")
    if not _NAME.fullmatch(name) or name == LOCAL:
        told = f'letters, digits, "-" and "_", at most 64, and not "{LOCAL}"'
        raise ValueError(f"the name in entry {place} can't be one: {told}")
    if role not in set(Role):
        raise ValueError(f"the role in entry {place} is none: {', '.join(Role)}")
    if not MIN_LENGTH <= len(secret) <= MAX_LENGTH:
        told = f"it must have from {MIN_LENGTH} to {MAX_LENGTH} characters"
        raise ValueError(f"the token in entry {place}: {told}; make one: netscript secrets new")
    if not _TOKEN.fullmatch(secret):
        told = 'letters, digits and "-._~+/", with "=" at the end only'
        raise ValueError(f"the token in entry {place} may have {told}")
    session_key = hmac.digest(secret.encode(), _SESSION, "sha256")
    return Token(name, Role(role), _digest(secret), session_key)


def _bare_name(taken: dict[str, int]) -> str:
    names = (_BARE if number == 1 else f"{_BARE}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def _digest(secret: str) -> bytes:
    return hmac.digest(_PROCESS_KEY, secret.encode("utf-8", "surrogateescape"), "sha256")
