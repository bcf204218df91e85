"""What the client asks, how often, and what it makes of the answers; sending is others' part."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, TypedDict
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter

from netscript_workers.actions import enqueue_job, prepare
from netscript_workers.clock import to_micros, to_rfc3339
from netscript_workers.domain import FINAL_STATUSES, ExecutionStatus, IdempotencyMode
from netscript_workers.errors import ConfigurationError
from netscript_workers.ids import new_id
from netscript_workers.jobs import JobDefinition
from netscript_workers.payloads import to_stored_json
from netscript_workers.records import ExecutionRecord, Explanation

BASE = "/api/v1/workers"
RETRIES = 5
_FIRST_PAUSE = 0.2
_LAST_PAUSE = 5.0
# A server that says it is away for longer is not waited for.
_LONGEST_PAUSE = 60.0
AGAIN = frozenset({429, 502, 503, 504})
# What comes of a server that is away; others come of what was asked, and will come again.
AWAY = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError, httpx.ProxyError)
_TOKEN = re.compile(r"[\x21-\x7e]+", re.ASCII)
_FIRST_LOOK = 0.1
_LAST_LOOK = 1.0
_PAGE = 200

RECORD = TypeAdapter(ExecutionRecord)
_EXPLANATION = TypeAdapter(Explanation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Triggered:
    """What became of a trigger.

    Attributes:
        triggered: False where the idempotency key stood for an earlier execution, whose id it is.
    """

    job_id: str
    execution_id: str
    triggered: bool


_TRIGGERED = TypeAdapter(Triggered)


class Options(TypedDict, total=False):
    """How to enqueue; `enqueue_job` says what each means."""

    concurrency_key: str | None
    priority: int | None
    delay: float | timedelta | None
    run_at: datetime | None
    correlation_id: str | None
    topic: str | None
    idempotency: IdempotencyMode
    max_wait: float | timedelta | None


class Conditions(TypedDict, total=False):
    """Which executions are meant: all that is given must hold."""

    status: ExecutionStatus | str | None
    job_id: str | None
    topic: str | None
    correlation_id: str | None
    created_after: datetime | None
    created_before: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request.

    Attributes:
        may_repeat: Whether it does no harm where the first one's answer was lost.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    content: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    may_repeat: bool = True


class Pauses:
    """Ever longer pauses, spread so that many who wait do not come back together."""

    def __init__(self) -> None:
        """Begin with a short one."""
        self._seconds = _FIRST_PAUSE

    def next(self) -> float:
        """Return the seconds of the next one."""
        pause, self._seconds = self._seconds, min(self._seconds * 2, _LAST_PAUSE)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - spread, not secrecy


class Attempts:
    """Decides whether a call is tried again, and when."""

    def __init__(self, call: Call, retries: int) -> None:
        """Count the attempts at a call."""
        self._call = call
        self._left = retries
        self._pauses = Pauses()

    def pause_after(self, outcome: httpx.Response | httpx.TransportError) -> float | None:
        """Return the seconds until the next attempt, or None where this was the last one."""
        asked = 0.0
        if isinstance(outcome, httpx.Response):
            # Only this one says for certain that nothing was done.
            again = AGAIN if self._call.may_repeat else {429}
            if outcome.status_code not in again:
                return None
            asked = _retry_after(outcome)
        elif not isinstance(outcome, AWAY if self._call.may_repeat else httpx.ConnectError):
            return None
        if not self._left or asked > _LONGEST_PAUSE:
            return None
        self._left -= 1
        return max(asked, self._pauses.next())


def _retry_after(answer: httpx.Response) -> float:
    given = answer.headers.get("retry-after", "")
    return float(given) if given.isascii() and given.isdigit() else 0.0


def authorization(token: str | None) -> dict[str, str]:
    """Return the header that a token makes.

    Raises:
        ConfigurationError: It is none; it is not repeated.
    """
    if token is None:
        return {}
    given = token.strip()
    if not _TOKEN.fullmatch(given):
        raise ConfigurationError("The token must be letters, digits and signs without blanks.")
    return {"Authorization": f"Bearer {given}"}


def trigger(
    job: JobDefinition[Any, Any] | str,
    payload: Any,
    *,
    idempotency_key: str | None,
    options: Options,
) -> Call:
    """Return the call that triggers a job.

    Raises:
        PayloadInvalidError: The job's model refuses the payload.
        ConfigurationError: An option can't be used.
    """
    enqueue_job(job, None, idempotency_key=idempotency_key, **options)  # says what can't be meant
    if isinstance(job, str):
        if isinstance(payload, BaseModel):
            payload = payload.model_dump(mode="json", by_alias=True, round_trip=True)
        id_, text = job, to_stored_json({} if payload is None else payload)
    else:
        id_, text = job.id, prepare(job, payload).payload
    kind = "jobs" if isinstance(job, str) else f"{job.kind}s"
    return Call(
        method="POST",
        path=f"{BASE}/{kind}/{quote(id_, safe='')}/trigger",
        query={name: _told(value) for name, value in options.items() if value is not None},
        content=text,
        # The same key at each attempt: one whose answer was lost is not run twice.
        headers={
            "Idempotency-Key": idempotency_key or f"client-{new_id()}",
            "Content-Type": "application/json",
        },
        # In other modes a second one may mean one more execution.
        may_repeat=options.get("idempotency", "once") == "once",
    )


def _told(value: object) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, timedelta):
        return str(value.total_seconds())
    return to_rfc3339(to_micros(value)) if isinstance(value, datetime) else str(value)


def triggered(answer: httpx.Response) -> Triggered:
    """Read what became of a trigger."""
    return _TRIGGERED.validate_json(answer.content)


def get(execution_id: str) -> Call:
    """Return the call that reads an execution."""
    return Call(method="GET", path=f"{BASE}/executions/{quote(execution_id, safe='')}")


def explain(execution_id: str) -> Call:
    """Return the call that asks what an execution waits for."""
    return Call(method="GET", path=f"{BASE}/executions/{quote(execution_id, safe='')}/explain")


def explanation(answer: httpx.Response) -> Explanation:
    """Read what an execution waits for."""
    return _EXPLANATION.validate_json(answer.content)


def change(execution_id: str, what: str, body: Mapping[str, Any], reason: str | None) -> Call:
    """Return the call that cancels or retries an execution."""
    return Call(
        method="POST",
        path=f"{BASE}/executions/{quote(execution_id, safe='')}/{what}",
        query={} if reason is None else {"reason": reason},
        content=to_stored_json(dict(body)),
        headers={"Content-Type": "application/json"},
        may_repeat=what == "cancel",
    )


def record(answer: httpx.Response) -> ExecutionRecord:
    """Read an execution's record."""
    return RECORD.validate_json(answer.content)


def page(cursor: str | None, conditions: Conditions) -> Call:
    """Return the call that reads a page of executions."""
    query = {name: _told(value) for name, value in conditions.items() if value is not None}
    query["limit"] = str(_PAGE)
    if cursor is not None:
        query["cursor"] = cursor
    return Call(method="GET", path=f"{BASE}/executions", query=query)


def page_of(answer: httpx.Response) -> tuple[list[ExecutionRecord], str | None]:
    """Read a page of executions, and the cursor of the next one."""
    told = answer.json()
    return [RECORD.validate_python(one) for one in told["executions"]], told["next_cursor"]


def is_final(status: ExecutionStatus) -> bool:
    """Tell whether nothing more happens to an execution by itself."""
    return status in FINAL_STATUSES


def looks() -> Iterator[float]:
    """Yield the pauses between looks at an execution that is waited for, in seconds."""
    pause = _FIRST_LOOK
    while True:
        yield pause
        pause = min(pause * 1.5, _LAST_LOOK)
