"""Reading executions back, live and finished ones in one statement.

Two statements would miss what moves from one table to the other in between.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from netscript_workers.clock import from_micros
from netscript_workers.domain import FINAL_STATUSES, ExecutionStatus, Reason
from netscript_workers.errors import ExecutionNotFoundError
from netscript_workers.ids import is_id
from netscript_workers.options import is_storable
from netscript_workers.records import (
    AttemptRecord,
    ExecutionDetail,
    ExecutionRecord,
    LogRecord,
    ProgressRecord,
    StepRecord,
)
from netscript_workers.store import pages
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.pages import Source

# What finished executions are, that ended for this reason; the other reasons are of live ones.
_ENDS = {
    **dict.fromkeys(
        (
            Reason.ERROR,
            Reason.TIMEOUT,
            Reason.CRASHED,
            Reason.PAYLOAD_REFUSED,
            Reason.RESULT_REFUSED,
        ),
        ExecutionStatus.FAILED,
    ),
    **dict.fromkeys((Reason.CANCELLED, Reason.DISCARDED), ExecutionStatus.CANCELLED),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionFilter:
    """Which executions; None, and no status, for any.

    Attributes:
        statuses: One of these.
        created_after: Made at this instant or later, in microseconds since the epoch.
        created_before: Made before this instant.
    """

    statuses: tuple[ExecutionStatus, ...] = ()
    reason: Reason | None = None
    job_id: str | None = None
    topic: str | None = None
    correlation_id: str | None = None
    created_after: int | None = None
    created_before: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether every execution meets it."""
        return all(getattr(self, one.name) in {None, ()} for one in fields(self))

    def conditions(self) -> tuple[dict[str, str], dict[str, Any]]:
        """Return what a row must meet, by what it is about, and the values that this names."""
        bound: dict[str, Any] = {
            name: getattr(value, "value", value)  # a driver would bind the names of enums
            for name in ("reason", "job_id", "topic", "correlation_id")
            if (value := getattr(self, name)) is not None
        }
        asked = {name: f"{name} = :{name}" for name in bound}
        if self.statuses:
            words = {f"status{n}": one.value for n, one in enumerate(self.statuses)}
            asked["status"] = f"status IN ({', '.join(f':{name}' for name in words)})"
            bound |= words
        for name, operator in (("created_after", ">="), ("created_before", "<")):
            if (value := getattr(self, name)) is not None:
                asked[name] = f"created_at {operator} :{name}"
                bound[name] = value
        return asked, bound

    def names_nothing(self) -> bool:
        """Tell whether a value holds what no stored one can."""
        values = self.conditions()[1].values()
        return not all(is_storable(one) for one in values if isinstance(one, str))


@dataclass(frozen=True, slots=True)
class Page:
    """Some executions, newest first, and the cursor of the next page if there is one."""

    executions: tuple[ExecutionRecord, ...]
    next_cursor: str | None


def list_executions(
    conn: Connection, wanted: ExecutionFilter, *, limit: int, cursor: str | None = None, now: int
) -> Page:
    """Return a page of executions, newest first.

    Args:
        conn: Where to read.
        wanted: Which ones.
        limit: How many at most.
        cursor: The `next_cursor` of the page before.
        now: The database's present, for the duration of running ones.

    Raises:
        CursorError: The cursor is none of ours.
    """
    if wanted.names_nothing():
        if cursor is not None:
            pages.read_cursor(cursor, _KIND)
        return Page((), None)
    if not wanted.statuses and wanted.reason is not None and wanted.reason in _ENDS:
        # There is an index of finished executions by their status, and none by their reason.
        wanted = replace(wanted, statuses=(_ENDS[wanted.reason],))
    sources, bound = _sources(wanted)
    rows, following = pages.read_page(conn, sources, bound, kind=_KIND, limit=limit, cursor=cursor)
    return Page(tuple(_record(row, now) for row in rows), following)


def get_execution(conn: Connection, execution_id: str, *, now: int) -> ExecutionDetail:
    """Return an execution with its attempts, steps and log lines.

    Raises:
        ExecutionNotFoundError: There is none with this id (or no longer).
    """
    row = _find(conn, execution_id)
    bound = {"id": execution_id}
    return ExecutionDetail(
        execution=_record(row, now),
        attempts=tuple(_attempt(found) for found in conn.execute(_ATTEMPTS, bound)),
        steps=tuple(_step(found) for found in conn.execute(_STEPS, bound)),
        logs=tuple(_log(found) for found in conn.execute(_LOGS, bound)),
    )


def get_execution_record(conn: Connection, execution_id: str, *, now: int) -> ExecutionRecord:
    """Return an execution alone.

    Raises:
        ExecutionNotFoundError: There is none with this id (or no longer).
    """
    return _record(_find(conn, execution_id), now)


def get_records(
    conn: Connection, dialect: Dialect, ids: Sequence[str], *, now: int
) -> dict[str, ExecutionRecord]:
    """Return these executions by their ids, as far as there are any."""
    rows = conn.execute(_some(dialect), {"ids": json.dumps(ids)})
    return {str(row.id): _record(row, now) for row in rows}


def _find(conn: Connection, execution_id: str) -> Row[Any]:
    row = conn.execute(_ONE, {"id": execution_id}).one_or_none() if is_id(execution_id) else None
    if row is None:
        raise ExecutionNotFoundError(f"There is no execution {execution_id[:100]!r}.")
    return row


def _sources(wanted: ExecutionFilter) -> tuple[list[Source], dict[str, Any]]:
    """Return where to look, led by what there is an index of."""
    asked, bound = wanted.conditions()
    made, instants = pages.made_between(wanted.created_after, wanted.created_before)
    sources: list[Source] = []
    live = [one for one in wanted.statuses if one not in FINAL_STATUSES]
    if live or not wanted.statuses:
        _, table, columns = _LIVE
        rest = tuple(asked.values())
        sources.append(Source(table=table, columns=columns, lead=tuple(made), rest=rest))
    final = [one for one in wanted.statuses if one in FINAL_STATUSES]
    if not (final or (not wanted.statuses and wanted.reason is None)):
        return sources, {**bound, **instants}
    _, table, columns = _HISTORY
    first = next((name for name in _leads(final) if name in asked), None)
    # One index leads; the planner is kept from the others, which may know of very many more rows.
    rest = tuple(
        _by_row(condition) if name in _INDEXED else condition
        for name, condition in asked.items()
        if name != first
    )
    leads = [] if first is None else [asked[first]]
    if first == "status":  # the index is in the order of the ids for one status only
        leads = [f"status = :status{wanted.statuses.index(one)}" for one in final]
    sources += [
        Source(table=table, columns=columns, lead=(lead, *made), rest=rest) for lead in leads
    ] or [Source(table=table, columns=columns, lead=tuple(made), rest=rest)]
    return sources, {**bound, **instants}


def _leads(final: Sequence[ExecutionStatus]) -> tuple[str, ...]:
    # What has not completed is rare, most of the time.
    if ExecutionStatus.COMPLETED in final:
        return ("correlation_id", "job_id", "topic", "status")
    return ("correlation_id", "status", "job_id", "topic")


def _by_row(condition: str) -> str:
    column, _, rest = condition.partition(" ")
    return f"coalesce({column}, '') {rest}"


def _record(row: Row[Any], now: int) -> ExecutionRecord:
    ended = row.finished_at if row.finished_at is not None else now
    took = row.status == "running" or row.finished_at is not None
    shown = row.progress_percent is not None
    return ExecutionRecord(
        id=str(row.id),
        job_id=row.job_id,
        kind=row.kind,
        topic=row.topic,
        status=ExecutionStatus(row.status),
        triggered_by=row.triggered_by,
        trigger_event_id=None if row.trigger_event_id is None else str(row.trigger_event_id),
        payload=json.loads(row.payload),
        result=None if row.result is None else json.loads(row.result),
        error=row.error,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        priority=row.priority,
        idempotency_key=row.idempotency_key,
        concurrency_key=row.concurrency_key,
        correlation_id=row.correlation_id,
        traceparent=row.traceparent,
        created_at=from_micros(row.created_at),
        run_at=from_micros(row.run_at),
        started_at=_when(row.started_at),
        finished_at=_when(row.finished_at),
        duration_ms=(ended - row.started_at) / 1000 if took and row.started_at else None,
        worker_id=None if row.worker_id is None else str(row.worker_id),
        progress=ProgressRecord(percent=row.progress_percent, message=row.progress_message)
        if shown
        else None,
        reason=row.reason,
        retried_from=None if row.retried_from is None else str(row.retried_from),
        cancel_requested=bool(row.cancel_requested),
    )


def _attempt(row: Row[Any]) -> AttemptRecord:
    return AttemptRecord(
        attempt=row.attempt,
        fence_token=row.token,
        outcome=row.outcome,
        error=row.error,
        detail=row.detail,
        exit_code=row.exit_code,
        signal=row.signal,
        peak_memory=row.peak_memory,
        worker_id=None if row.worker_id is None else str(row.worker_id),
        started_at=_when(row.started_at),
        finished_at=from_micros(row.finished_at),
    )


def _step(row: Row[Any]) -> StepRecord:
    finished = from_micros(row.finished_at)
    return StepRecord(
        name=row.name, result=json.loads(row.value), attempt=row.attempt, finished_at=finished
    )


def _log(row: Row[Any]) -> LogRecord:
    at = from_micros(row.at)
    return LogRecord(at=at, level=row.level, message=row.message, attempt=row.attempt)


def _when(micros: int | None) -> Any:
    return None if micros is None else from_micros(micros)


_KIND = "x"
_INDEXED = frozenset({"job_id", "status", "topic", "correlation_id"})
_SHARED = (
    "id, job_id, kind, topic, status, triggered_by, trigger_event_id, payload, error, attempt, "
    "max_attempts, priority, idempotency_key, concurrency_key, correlation_id, traceparent, "
    "created_at, run_at, started_at, worker_id, progress_percent, progress_message, reason, "
    "retried_from"
)
_LIVE = (
    "live",
    "netscript_executions",
    f"{_SHARED}, cancel_requested, CAST(NULL AS text) AS result, "
    "CAST(NULL AS bigint) AS finished_at",
)
_HISTORY = (
    "history",
    "netscript_execution_history",
    f"{_SHARED}, false AS cancel_requested, result, finished_at",
)
_ONE = text(
    " UNION ALL ".join(
        f"SELECT {columns} FROM {table} WHERE id = :id" for _, table, columns in (_LIVE, _HISTORY)
    )
)


@cache
def _some(dialect: Dialect) -> TextClause:
    ids = dialect.members("ids", "id")
    return text(
        " UNION ALL ".join(
            f"SELECT {columns} FROM {table} WHERE id IN {ids}"
            for _, table, columns in (_LIVE, _HISTORY)
        )
    )


_ATTEMPTS = text(
    "SELECT token, attempt, outcome, error, detail, exit_code, signal, peak_memory, worker_id, "
    "started_at, finished_at FROM netscript_execution_attempts "
    "WHERE execution_id = :id ORDER BY token"
)
_STEPS = text(
    "SELECT name, value, attempt, finished_at FROM netscript_execution_steps "
    "WHERE execution_id = :id ORDER BY finished_at, name"
)
_LOGS = text(
    "SELECT at, level, message, attempt FROM netscript_execution_logs "
    "WHERE execution_id = :id ORDER BY id"
)
