"""What processes have discovered: others can list and enqueue jobs they have no code for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import SQLAlchemyError

from netscript_workers.actions import PreparedJob, prepare
from netscript_workers.clock import from_micros
from netscript_workers.domain import ExecutionKind
from netscript_workers.errors import (
    JobNotFoundError,
    PayloadInvalidError,
    PayloadTooLargeError,
    StoreUnavailableError,
    TaskNotFoundError,
)
from netscript_workers.jobs import JobDefinition
from netscript_workers.options import is_storable
from netscript_workers.payloads import fingerprint, to_json, to_stored_json
from netscript_workers.rates import limit_of
from netscript_workers.records import JobRecord
from netscript_workers.store import admissions
from netscript_workers.store.admissions import NoteKind
from netscript_workers.store.engine import Store
from netscript_workers.store.schema import job_definitions

_MAX_TOLD = 5
_COLUMNS = ", ".join(column.name for column in job_definitions.columns)


def register(store: Store, jobs: Iterable[JobDefinition[Any, Any]]) -> Counter[str]:
    """Make jobs and tasks known to every process of this database; count the new ones by kind.

    A definition that differs from the one that is registered replaces it.
    """
    # In one order everywhere, so that two processes that start together can't deadlock.
    rows = {job.id: _row(job) for job in sorted(jobs, key=lambda job: job.id)}
    with store.begin() as conn:
        now = store.now(conn)
        known = {row.id: row for row in conn.execute(_ALL)}
        for id_, row in rows.items():
            if id_ not in known or any(getattr(known[id_], name) != row[name] for name in row):
                conn.execute(_PUT, {**row, "now": now})
        # Who waits at a gate may come in, now that there are other limits.
        moved = [id_ for id_ in rows.keys() & known.keys() if _differ(known[id_], rows[id_])]
        admissions.note(conn, store.dialect, NoteKind.JOB, moved)
    return Counter(str(rows[id_]["kind"]) for id_ in rows.keys() - known.keys())


def _differ(known: Row[Any], row: Mapping[str, Any]) -> bool:
    return any(getattr(known, name) != row[name] for name in ("max_concurrency", "rate"))


def list_jobs(
    conn: Connection, *, limit: int, offset: int, kind: ExecutionKind = "job"
) -> tuple[list[JobRecord], int]:
    """Return registered jobs, or tasks, by id, and how many there are in all."""
    rows = conn.execute(_PAGE, {"limit": limit, "offset": offset, "kind": kind})
    found = [_record(row) for row in rows]
    return found, int(conn.execute(_COUNT, {"kind": kind}).scalar_one())


def get_job(
    conn: Connection,
    job_id: str,
    also: Iterable[str] = (),
    kind: ExecutionKind | None = None,
) -> JobRecord:
    """Return a registered job or task.

    Args:
        conn: Where to read.
        job_id: Its id.
        also: More ids that may have been meant.
        kind: Which of the two it must be; None for either.

    Raises:
        NotFoundError: There is none; the error names the nearest.
    """
    row = conn.execute(_ONE, {"id": job_id}).one_or_none() if is_storable(job_id) else None
    if row is None or kind not in {None, row.kind}:
        known = [one.id for one in conn.execute(_IDS) if kind in {None, one.kind}]
        error = TaskNotFoundError if kind == "task" else JobNotFoundError
        raise error(job_id, {*known, *also})
    return _record(row)


class ConnectionCatalog:
    """Registered jobs, read on a connection that is open already."""

    def __init__(self, conn: Connection) -> None:
        """Read there."""
        self._conn = conn

    def prepare(self, job_id: str, payload: Any) -> PreparedJob:
        """Check a payload against a registered job.

        Raises:
            JobNotFoundError: Nobody has registered it.
            PayloadInvalidError: Its schema refuses the payload, or it is disabled.
            PayloadTooLargeError: The payload is longer than 1 MiB of JSON.
        """
        return _prepare(get_job(self._conn, job_id), payload)


class StoredCatalog:
    """The jobs of this process, and those that others have registered."""

    def __init__(self, store: Store, jobs: Mapping[str, JobDefinition[Any, Any]]) -> None:
        """Look in `jobs` first, then in the database."""
        self._store = store
        self._jobs = jobs

    def prepare(self, job_id: str, payload: Any) -> PreparedJob:
        """Check a payload; blocks on the database where the job is not one of ours.

        Raises:
            JobNotFoundError: Nobody has registered it.
            PayloadInvalidError: The job refuses the payload, or is disabled.
            PayloadTooLargeError: The payload is longer than 1 MiB of JSON.
            StoreUnavailableError: The database does not answer.
        """
        if job_id in self._jobs:
            return prepare(self._jobs[job_id], payload)
        try:
            with self._store.read() as conn:
                return _prepare(get_job(conn, job_id, also=self._jobs), payload)
        except SQLAlchemyError as error:
            raise StoreUnavailableError("The database can't be read now.") from error


def _prepare(job: JobRecord, payload: Any) -> PreparedJob:
    if not job.enabled:
        raise PayloadInvalidError(f'The job "{job.id}" is disabled.')
    try:
        stored = to_stored_json({} if payload is None else payload)
    except ValueError as error:
        kind = PayloadTooLargeError if "limit" in str(error) else PayloadInvalidError
        raise kind(f'The payload of job "{job.id}": {error}') from error
    value = json.loads(stored)
    if not isinstance(value, dict):
        raise PayloadInvalidError(f'The payload of job "{job.id}" must be a JSON object.')
    check_schema(f'job "{job.id}"', job.payload_schema, value)
    return PreparedJob(
        topic=job.topic,
        priority=job.priority,
        max_attempts=job.max_attempts,
        strict_order=job.strict_order,
        payload=stored,
        fingerprint=fingerprint(stored),
        limited=limit_of(job.max_concurrency, job.rate),
        kind=job.kind,
    )


def check_schema(owner: str, schema: Any, payload: Any) -> None:
    """Check a payload against a JSON Schema that some process has registered.

    Raises:
        PayloadInvalidError: The schema refuses it.
    """
    faults = sorted(_validator(to_json(schema)).iter_errors(payload), key=_place)
    if not faults:
        return
    details = tuple(
        {"loc": _loc(fault), "msg": _told(fault), "type": str(fault.validator)} for fault in faults
    )
    told = "; ".join(
        f"{'.'.join(str(part) for part in detail['loc']) or 'payload'}: {detail['msg']}"
        for detail in details[:_MAX_TOLD]
    )
    raise PayloadInvalidError(f"The payload does not fit {owner}: {told}.", details=details)


def _loc(fault: Any) -> Sequence[str | int]:
    place = list(fault.absolute_path)
    if fault.validator != "required":
        return place
    missing = [name for name in fault.validator_value if name not in fault.instance]
    return [*place, *missing[:1]]


def _told(fault: Any) -> str:
    """Say what is wrong without repeating the value, as the library's own message would."""
    if fault.validator == "required":
        return "Field required"
    return f"must meet {fault.validator} = {json.dumps(fault.validator_value)[:100]}"


def _place(fault: Any) -> list[str]:
    return [str(part) for part in fault.absolute_path]


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    # A worker whose actions name jobs by definition never needs it, and it is 2 MiB.
    from jsonschema import Draft202012Validator  # noqa: PLC0415

    return Draft202012Validator(json.loads(schema))


def _row(job: JobDefinition[Any, Any]) -> dict[str, Any]:
    return {
        "id": job.id,
        "kind": job.kind,
        "name": job.name,
        "description": job.description,
        "topic": job.topic,
        "priority": job.priority,
        "max_attempts": job.retry.max_attempts,
        "timeout": job.timeout,
        "strict_order": job.strict_order,
        "max_concurrency": job.max_concurrency,
        "rate": job.rate,
        "enabled": job.enabled,
        "tags": to_json(job.tags),
        "metadata": to_stored_json(job.metadata),
        "payload_schema": to_json(job.payload_model.json_schema()),
        "source": job.source,
    }


def _record(row: Row[Any]) -> JobRecord:
    facts = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    facts["tags"] = tuple(json.loads(facts["tags"]))
    for name in ("metadata", "payload_schema"):
        facts[name] = json.loads(facts[name])
    for name in ("strict_order", "enabled"):  # SQLite's booleans are numbers
        facts[name] = bool(facts[name])
    facts["registered_at"] = from_micros(facts["registered_at"])
    return JobRecord(**facts)


_ALL = text(f"SELECT {_COLUMNS} FROM netscript_job_definitions")
_IDS = text("SELECT id, kind FROM netscript_job_definitions ORDER BY id")
_COUNT = text("SELECT count(*) FROM netscript_job_definitions WHERE kind = :kind")
_ONE = text(f"SELECT {_COLUMNS} FROM netscript_job_definitions WHERE id = :id")
_PAGE = text(
    f"SELECT {_COLUMNS} FROM netscript_job_definitions WHERE kind = :kind "
    "ORDER BY id LIMIT :limit OFFSET :offset"
)
_PUT = text(
    """
    INSERT INTO netscript_job_definitions
        (id, kind, name, description, topic, priority, max_attempts, timeout, strict_order,
         max_concurrency, rate, enabled, tags, metadata, payload_schema, source, registered_at)
    VALUES (:id, :kind, :name, :description, :topic, :priority, :max_attempts, :timeout,
        :strict_order, :max_concurrency, :rate, :enabled, :tags, :metadata, :payload_schema,
        :source, :now)
    ON CONFLICT (id) DO UPDATE SET
        kind = excluded.kind, name = excluded.name, description = excluded.description,
        topic = excluded.topic, priority = excluded.priority,
        max_attempts = excluded.max_attempts, timeout = excluded.timeout,
        strict_order = excluded.strict_order, enabled = excluded.enabled, tags = excluded.tags,
        max_concurrency = excluded.max_concurrency, rate = excluded.rate,
        metadata = excluded.metadata, payload_schema = excluded.payload_schema,
        source = excluded.source, registered_at = excluded.registered_at
    """
)
