"""What a sender is told: short, and the same whatever part of a proof failed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from netscript_workers.problems import PROBLEM_TYPE, problem, to_bytes

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Fields: TypeAlias = tuple[tuple[bytes, bytes], ...]

_CODES = {
    400: "malformed",
    401: "signature",
    403: "address",
    405: "method",
    413: "too-large",
    415: "content-type",
    429: "rate",
    503: "unavailable",
}


class Refusal(Exception):  # noqa: N818 - an answer, not an error
    """What the sender is told, and the reason that only we are told."""

    def __init__(
        self,
        status: int,
        reason: str,
        detail: str | None = None,
        headers: Fields = (),
        code: str | None = None,
        **extra: Any,
    ) -> None:
        """Refuse.

        Args:
            status: The HTTP status.
            reason: For counts and logs.
            detail: For the sender.
            headers: More of the answer's headers.
            code: The end of the problem's type; by default the status's own.
            **extra: More members of the problem.
        """
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers
        self.body = to_bytes(problem(status, code or _CODES[status], detail, **extra))


def later(seconds: int) -> Fields:
    """Return the header that says when to come back."""
    return ((b"retry-after", str(seconds).encode()),)


async def refuse(send: Send, refusal: Refusal) -> None:
    """Send a refusal."""
    kind = PROBLEM_TYPE.encode()
    await respond(send, refusal.status, kind, refusal.body, refusal.headers)


async def respond(send: Send, status: int, kind: bytes, body: bytes, headers: Fields = ()) -> None:
    """Send an answer."""
    length = str(len(body)).encode()
    fixed = [(b"content-type", kind), (b"content-length", length)]
    try:
        await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
        await send({"type": "http.response.body", "body": body})
    except (OSError, RuntimeError):
        # The sender is gone, which uvloop tells by a RuntimeError. What is stored is stored.
        return
