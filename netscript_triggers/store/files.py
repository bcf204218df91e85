"""What file watches have taken: one row for each file that is there, and how far each has come."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from netscript_triggers.events import EventStatus, FileChange, FileEvent
from netscript_triggers.files.facts import FileFacts
from netscript_triggers.files.settling import Stamp
from netscript_triggers.store import inbox
from netscript_triggers.store.inbox import PENDING
from netscript_triggers.store.schema import files
from netscript_workers.clock import from_micros
from netscript_workers.ids import new_id
from netscript_workers.payloads import to_json
from netscript_workers.store import outbox
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.idempotency import Key
from netscript_workers.store.outbox import Submission
from netscript_workers.telemetry import spans

# Rows that are read or written together.
AT_A_TIME = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file that was taken.

    Attributes:
        sha256: Of its content; None if it was there before anybody watched.
        event_id: The event that it became; None if it became none.
        generation: Of all files that its watch has taken, the how-manieth; a file that was written
            anew has another one.
    """

    path: str
    stamp: Stamp
    sha256: str | None
    event_id: str | None
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """What is to be stored of a file.

    Attributes:
        facts: The file, or of one that is gone what it was.
        change: The event that it becomes; None for none.
        before: What was known of its path.
        moved_from: What was known of it at another path, which it has left.
        is_gone: Nothing is at its path any more.
    """

    facts: FileFacts
    change: FileChange | None = None
    before: FileRecord | None = None
    moved_from: FileRecord | None = None
    is_gone: bool = False


def digest(path: str) -> str:
    """Return what stands for a path in keys, whatever its length."""
    return sha256(os.fsencode(path)).hexdigest()[:32]


def read(
    conn: Connection, dialect: Dialect, trigger_id: str, paths: Collection[str]
) -> dict[str, FileRecord]:
    """Return what is known of these paths."""
    asked = json.dumps(sorted(digest(path) for path in paths))
    rows = conn.execute(_by_path(dialect), {"trigger": trigger_id, "digests": asked})
    return {record.path: record for record in map(_record, rows)}


def read_inodes(
    conn: Connection, dialect: Dialect, trigger_id: str, inodes: Collection[int]
) -> list[FileRecord]:
    """Return the records of these inodes, at whatever paths."""
    if not inodes:
        return []
    bound = {"trigger": trigger_id, "inodes": json.dumps(sorted(inodes))}
    return [_record(row) for row in conn.execute(_by_inode(dialect), bound)]


def page(conn: Connection, trigger_id: str, after: str) -> tuple[list[FileRecord], str | None]:
    """Return the records that follow in the order of their digests, and after what to go on."""
    bound = {"trigger": trigger_id, "after": after, "limit": AT_A_TIME}
    rows = conn.execute(_PAGE, bound).all()
    more = rows[-1].path_digest if len(rows) == AT_A_TIME else None
    return [_record(row) for row in rows], more


def read_roots(conn: Connection, trigger_id: str) -> dict[str, int]:
    """Return the directories that were looked at to the end before, and their inodes then."""
    stored = conn.execute(_ROOTS, {"trigger": trigger_id}).scalar_one_or_none()
    return {} if stored is None else dict(json.loads(stored))


def read_all_roots(conn: Connection) -> dict[str, dict[str, int]]:
    """Return the same of every file watch there is, or was."""
    return {row.trigger_id: dict(json.loads(row.roots)) for row in conn.execute(_ALL_ROOTS)}


def note_root(conn: Connection, dialect: Dialect, trigger_id: str, root: str, inode: int) -> None:
    """Note that a directory was looked at to the end."""
    known = _lock(conn, dialect, trigger_id)
    roots = {**json.loads(known.roots), root: inode}
    conn.execute(_SET_ROOTS, {"trigger": trigger_id, "roots": to_json(roots)})


def forget(conn: Connection, dialect: Dialect, trigger_id: str, paths: Collection[str]) -> None:
    """Forget files that are watched no more, without events."""
    _lock(conn, dialect, trigger_id)
    digests = json.dumps(sorted(digest(path) for path in paths))
    conn.execute(_delete(dialect), {"trigger": trigger_id, "digests": digests})


def forget_roots(
    conn: Connection, dialect: Dialect, trigger_id: str, roots: Collection[str]
) -> None:
    """Forget directories that are watched no more."""
    known = json.loads(_lock(conn, dialect, trigger_id).roots)
    left = {root: inode for root, inode in known.items() if root not in roots}
    conn.execute(_SET_ROOTS, {"trigger": trigger_id, "roots": to_json(left)})


def store(
    conn: Connection,
    dialect: Dialect,
    trigger_id: str,
    takings: Sequence[Taking],
    *,
    now: int,
    window: int,
) -> int:
    """Store files and their events in the caller's transaction; return how many events.

    Who comes second stores nothing: what was known of a file when it was looked at must still be
    what is known.
    """
    generation = int(_lock(conn, dialect, trigger_id).generation)
    paths = {path for one in takings for path in _touched(one)}
    known = read(conn, dialect, trigger_id, paths)
    ours = [one for one in takings if _is_current(one, known)]
    kept: list[_Kept] = []
    for one in ours:
        if one.change is not None:
            generation += 1
            kept.append(_event(trigger_id, one, one.change, generation, now))
        else:
            kept.append(_without_event(one))
    submissions = [one.submission for one in kept if one.submission is not None]
    outbox.store(conn, dialect, submissions, now=now, window=window)
    _write(conn, dialect, trigger_id, kept, now)
    conn.execute(_SET_GENERATION, {"trigger": trigger_id, "generation": generation})
    return len(submissions)


def pass_over(
    conn: Connection,
    dialect: Dialect,
    trigger_id: str,
    root: str,
    seen: Sequence[FileFacts],
    *,
    now: int,
) -> bool:
    """Store files without events, in the caller's transaction.

    Returns:
        False, and nothing is stored, if a look at the directory has ended: they may have come
        since.
    """
    if root in json.loads(_lock(conn, dialect, trigger_id).roots):
        return False
    known = read(conn, dialect, trigger_id, [facts.path for facts in seen])
    new = [Taking(facts=facts) for facts in seen if facts.path not in known]
    _write(conn, dialect, trigger_id, [_without_event(one) for one in new], now)
    return True


@dataclass(frozen=True, slots=True)
class _Kept:
    taking: Taking
    event_id: str | None
    generation: int
    submission: Submission | None = None


def _touched(one: Taking) -> list[str]:
    moved = [] if one.moved_from is None else [one.moved_from.path]
    return [one.facts.path, *moved]


def _is_current(one: Taking, known: Mapping[str, FileRecord]) -> bool:
    moved = one.moved_from
    return known.get(one.facts.path) == one.before and (
        moved is None or known.get(moved.path) == moved
    )


def _event(trigger_id: str, one: Taking, change: FileChange, generation: int, now: int) -> _Kept:
    body = to_json(one.facts.payload(change)).encode()
    key = f"file:{digest(one.facts.path)}:{one.facts.sha256}:{generation}"
    traceparent, tracestate = _trace(trigger_id, change)
    event = FileEvent(
        id=new_id(),
        trigger_id=trigger_id,
        kind="file-watch",
        status=EventStatus.PENDING,
        payload=None,
        headers={},
        body=body,
        idempotency_key=key,
        attempt=1,
        received_at=from_micros(now),
        traceparent=traceparent,
        tracestate=tracestate,
        event_type=change,
    )
    guard = Key(f"trigger:{trigger_id}", key, sha256(body).hexdigest(), event.id)
    companion = inbox.companion(event, PENDING, now)
    return _Kept(one, event.id, generation, Submission(guard=guard, companion=companion))


def _trace(trigger_id: str, change: FileChange) -> tuple[str | None, str | None]:
    """Return what the event's trace, which begins here, is continued by."""
    recorder = spans.look()
    if recorder is None:
        return None, None
    about = {"netscript.trigger.id": trigger_id, "netscript.file.change": change}
    with recorder.root("file.take", about) as around:
        return around.carried


def _without_event(one: Taking) -> _Kept:
    origin = one.moved_from or one.before
    if origin is None:
        return _Kept(one, None, 0)
    return _Kept(one, origin.event_id, origin.generation)


def _write(
    conn: Connection, dialect: Dialect, trigger_id: str, kept: Sequence[_Kept], now: int
) -> None:
    old = {
        digest(record.path)
        for one in kept
        for record in (one.taking.before, one.taking.moved_from)
        if record is not None
    }
    if old:
        bound = {"trigger": trigger_id, "digests": json.dumps(sorted(old))}
        conn.execute(_delete(dialect), bound)
    rows = [_row(trigger_id, one, now) for one in kept if not one.taking.is_gone]
    if rows:
        dialect.insert(conn, files, rows)


def _row(trigger_id: str, one: _Kept, now: int) -> dict[str, Any]:
    facts = one.taking.facts
    return {
        "trigger_id": trigger_id,
        "path_digest": digest(facts.path),
        "path": os.fsencode(facts.path),
        "size": facts.stamp.size,
        "mtime_ns": facts.stamp.mtime_ns,
        "inode": facts.stamp.inode,
        "sha256": facts.sha256,
        "event_id": one.event_id,
        "generation": one.generation,
        "taken_at": now,
    }


def _record(row: Row[Any]) -> FileRecord:
    return FileRecord(
        path=os.fsdecode(bytes(row.path)),
        stamp=Stamp(row.size, row.mtime_ns, row.inode),
        sha256=row.sha256,
        event_id=None if row.event_id is None else str(row.event_id),
        generation=row.generation,
    )


def _lock(conn: Connection, dialect: Dialect, trigger_id: str) -> Row[Any]:
    """Take the watch's own row, so that its servers store one after the other."""
    conn.execute(_PUT_FIRST, {"trigger": trigger_id})
    return conn.execute(_locked(dialect), {"trigger": trigger_id}).one()


_COLUMNS = "path, size, mtime_ns, inode, sha256, event_id, generation"
_PAGE = text(
    f"""
    SELECT path_digest, {_COLUMNS} FROM netscript_files
    WHERE trigger_id = :trigger AND path_digest > :after ORDER BY path_digest LIMIT :limit
    """
)
_ROOTS = text("SELECT roots FROM netscript_file_watches WHERE trigger_id = :trigger")
_ALL_ROOTS = text("SELECT trigger_id, roots FROM netscript_file_watches ORDER BY trigger_id")
_SET_ROOTS = text("UPDATE netscript_file_watches SET roots = :roots WHERE trigger_id = :trigger")
_SET_GENERATION = text(
    "UPDATE netscript_file_watches SET generation = :generation WHERE trigger_id = :trigger"
)
_PUT_FIRST = text(
    """
    INSERT INTO netscript_file_watches (trigger_id, generation, roots) VALUES (:trigger, 0, '{}')
    ON CONFLICT (trigger_id) DO NOTHING
    """
)


@cache
def _locked(dialect: Dialect) -> TextClause:
    return text(
        f"SELECT * FROM netscript_file_watches WHERE trigger_id = :trigger {dialect.for_update}"
    )


@cache
def _by_path(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT {_COLUMNS} FROM netscript_files
        WHERE trigger_id = :trigger AND path_digest IN {dialect.members("digests")}
        """
    )


@cache
def _by_inode(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT {_COLUMNS} FROM netscript_files
        WHERE trigger_id = :trigger AND inode IN {dialect.members("inodes", "bigint")}
        """
    )


@cache
def _delete(dialect: Dialect) -> TextClause:
    return text(
        f"""
        DELETE FROM netscript_files
        WHERE trigger_id = :trigger AND path_digest IN {dialect.members("digests")}
        """
    )
