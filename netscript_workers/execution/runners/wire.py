"""The wire between a worker and its children: JSON in frames of a bounded size.

A frame is four bytes of length and a JSON object, whose `t` says what it is. Nothing that a handler
makes is unpickled in its worker.

To a child: `setup` (once), `run`, `cancel`, `drain`, `recall`, `reply`, `leave`. From a child:
`ready` (once), `begun`, `progress`, `log`, `event`, `span`, `ask`, `end`, `recalled`. What belongs
to an attempt carries its key as `k`, so that a thread that a handler has left behind can't speak
for the next attempt.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from netscript_workers import errors
from netscript_workers.actions import PreparedJob
from netscript_workers.domain import (
    ClaimedExecution,
    NewBatch,
    Outcome,
    Reason,
    Verdict,
    load_execution,
)
from netscript_workers.errors import NetscriptError, PayloadInvalidError

# Thirty results or payloads of the largest size that is stored, quotes escaped.
MAX_FRAME_BYTES = 64 * 2**20
_HEADER = struct.Struct(">I")

Message: TypeAlias = dict[str, Any]


class FrameError(Exception):
    """What arrives is no frame of ours."""


class FrameTooLongError(ValueError):
    """A message is longer than a frame may be."""

    def __init__(self, size: int, limit: int = MAX_FRAME_BYTES) -> None:
        """Name both sizes, in bytes."""
        super().__init__(f"It is {size:,} bytes; {limit:,} fit between processes.")


def encode(message: Mapping[str, Any], *, limit: int = MAX_FRAME_BYTES) -> bytes:
    """Write a message as a frame.

    Raises:
        FrameTooLongError: It is longer than `limit` bytes.
    """
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > limit:
        raise FrameTooLongError(len(body), limit)
    return _HEADER.pack(len(body)) + body


class Decoder:
    """Reads frames out of a stream of bytes."""

    def __init__(self, *, limit: int = MAX_FRAME_BYTES) -> None:
        """Take frames of so many bytes at most."""
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take what has arrived; yield the messages that are whole.

        Raises:
            FrameError: It is too long, or no JSON object.
        """
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            (size,) = _HEADER.unpack_from(self._buffer)
            if size > self._limit:
                raise FrameError(f"a frame of {size:,} bytes")
            end = _HEADER.size + size
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            yield _load(body)


def _load(body: bytes) -> Message:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FrameError("a frame that is no JSON") from error
    if not isinstance(found, dict):
        raise FrameError("a frame that is no object")
    message: Message = found  # pyright: ignore[reportUnknownVariableType] - its keys are JSON's
    return message


def key_of(claim: ClaimedExecution) -> str:
    """Return what names an attempt: on SQLite those of one claim share the token."""
    return f"{claim.token} {claim.id}"


def dump_claim(claim: ClaimedExecution) -> list[Any]:
    """Write a claim: its facts in their order, for both ends are of one version."""
    return list(claim)


def load_claim(told: Sequence[Any]) -> ClaimedExecution:
    """Read a claim."""
    return ClaimedExecution(*told)


_TOLD = ("reason", "failure", "result", "error", "detail", "exception")


def dump_outcome(outcome: Outcome) -> Message:
    """Write how an attempt ended: no more than there is to say of it, which is little of most."""
    told: Message = {"verdict": outcome.verdict}
    for name in _TOLD:
        value = getattr(outcome, name)
        if value is not None:
            told[name] = value
    if outcome.delay:
        told["delay"] = outcome.delay
    if outcome.actions:
        told["actions"] = [asdict(one) for one in outcome.actions]
    if outcome.batches:
        told["batches"] = [asdict(one) for one in outcome.batches]
    return told


def load_outcome(claim: ClaimedExecution, told: Message) -> Outcome:
    """Read how the attempt of a claim ended.

    Raises:
        FrameError: It is no outcome.
    """
    try:
        facts: Message = {
            **told,
            "execution_id": claim.id,
            "token": claim.token,
            "verdict": Verdict(told["verdict"]),
            "reason": _reason(told.get("reason")),
            "failure": _reason(told.get("failure")),
            "actions": tuple(load_execution(one) for one in told.get("actions", ())),
            "batches": tuple(_batch(one) for one in told.get("batches", ())),
        }
        return Outcome(**facts)
    except (KeyError, TypeError, ValueError) as error:
        raise FrameError("an end that is none") from error


def _reason(told: str | None) -> Reason | None:
    return None if told is None else Reason(told)


def _batch(told: Message) -> NewBatch:
    callback = told["callback"]
    return NewBatch(id=told["id"], callback=None if callback is None else load_execution(callback))


def dump_prepared(job: PreparedJob) -> Message:
    """Write what a catalog says of a job and a payload."""
    return asdict(job)


def load_prepared(told: Message) -> PreparedJob:
    """Read what a catalog says of a job and a payload."""
    return PreparedJob(**told)


def dump_error(error: NetscriptError) -> Message:
    """Write an error of ours."""
    return {"class": type(error).__name__, "message": error.message, "hint": error.hint}


def load_error(told: Message) -> NetscriptError:
    """Read an error: of the same class, with the same sentence."""
    kind = getattr(errors, told["class"], None)
    if not (isinstance(kind, type) and issubclass(kind, NetscriptError)):
        kind = NetscriptError
    error = kind.__new__(kind)
    NetscriptError.__init__(error, told["message"], hint=told["hint"])
    if isinstance(error, PayloadInvalidError):
        error.details = ()
    return error
