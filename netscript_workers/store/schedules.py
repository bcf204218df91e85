"""Schedules in the database: whose definition holds, and who is there to know it.

There is no leader. Every scheduler says which schedules its code has, as long as it lives. Of the
definitions that living schedulers have, the one that was first seen last holds: a process of an
older deploy that starts again changes nothing while one of the newer is there, and once the newer
ones are all gone, which is a roll-back, its own holds again. A schedule that no living scheduler
has is disabled, and keeps its cursor: should somebody have it again, that is looked back from.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from netscript_workers.clock import MICROSECONDS, from_micros, to_micros
from netscript_workers.instants import Instant, Instants, recent
from netscript_workers.schedules import MAX_RECORDED, Declared, Schedule
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store

# A scheduler that was not seen for so long is gone. It looks three times in between.
ALIVE_FOR = 200 * MICROSECONDS
# Definitions of a schedule that are remembered.
_KNOWN = 50
_CHANGED = "definition changed before it fired"
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Look:
    """What a scheduler sees when nothing is to be done.

    Attributes:
        now: The database's present, in microseconds since the epoch.
        next_at: When the next schedule is due; None if none is.
        others: Tells whether the other schedulers are the same as before.
    """

    now: int
    next_at: int | None
    others: str


def look(
    store: Store, scheduler_id: str, kinds: Sequence[str], but: Iterable[str] = ()
) -> Look | None:
    """Say that a scheduler lives and see what is next, in one statement.

    It returns None if the scheduler was taken for dead; it must `declare` again.

    Args:
        store: Where.
        scheduler_id: Who it is.
        kinds: Of the schedules that it knows how to fire.
        but: The ids of those that it has put off.
    """
    with store.statement() as conn:
        now = store.now(conn)
        bound = {"id": scheduler_id, "now": now, **_chosen(kinds, but), **_alive(now)}
        row = conn.execute(_look(store.dialect), bound).one_or_none()
    if row is None:
        return None
    return Look(now, row.next_at, f"{row.many} {row.youngest}")


def declare(
    store: Store, scheduler_id: str, declared: Sequence[Declared], *, forget: bool = True
) -> None:
    """Say which schedules a scheduler's code has, and bring the tables in line with that.

    Doing it again changes nothing, unless other schedulers have come or gone.

    Args:
        store: Where.
        scheduler_id: Whose code it is.
        declared: What it has.
        forget: Whether those that were not seen for long are gone.
    """
    own = {one.id: one for one in declared}
    with store.begin() as conn:
        # One at a time, so that all see the same order of definitions.
        store.dialect.lock(conn, "schedules")
        now = store.now(conn)
        if forget:
            conn.execute(_FORGET_DEAD, {"id": scheduler_id, **_alive(now)})
        prints = json.dumps({one.id: one.fingerprint for one in declared})
        conn.execute(_PUT_SCHEDULER, {"id": scheduler_id, "declared": prints, "now": now})
        living: defaultdict[str, set[str]] = defaultdict(set)
        for told in conn.execute(_DECLARED).scalars():
            for id_, fingerprint in json.loads(told).items():
                living[id_].add(fingerprint)
        rows = {row.id: row for row in conn.execute(_ALL)}
        for id_ in sorted(own):
            _bring_in(conn, own[id_], rows.get(id_), living[id_], now)
        for id_ in sorted(rows.keys() - living.keys()):
            if rows[id_].enabled:
                conn.execute(_ENABLE, {"id": id_, "enabled": False, "now": now})


def leave(store: Store, scheduler_id: str) -> None:
    """Say that a scheduler is gone; what only it knew is disabled by whoever looks next."""
    with store.begin() as conn:
        conn.execute(_LEAVE, {"id": scheduler_id})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSchedule:
    """A schedule as the database has it.

    Attributes:
        definition: When it is due, as it was written, maybe by a newer version.
        anchor: Where `every` is counted from.
        next_at: The first instant that nobody has dealt with; None if none is to come.
    """

    id: str
    kind: str
    target: str
    definition: str
    version: int
    enabled: bool
    anchor: datetime
    next_at: datetime | None

    @property
    def schedule(self) -> Schedule:
        """When it is due.

        Raises:
            ValueError: A newer version wrote it.
        """
        return _read(self.definition)


def get_schedule(conn: Connection, schedule_id: str) -> StoredSchedule | None:
    """Return a schedule, if a scheduler has ever known it."""
    row = conn.execute(_ONE, {"id": schedule_id}).one_or_none()
    return None if row is None else _stored(row)


def list_schedules(conn: Connection) -> list[StoredSchedule]:
    """Return all schedules by id, disabled ones too."""
    return [_stored(row) for row in conn.execute(_ALL)]


def due(
    conn: Connection, dialect: Dialect, kinds: Sequence[str], now: int, but: Iterable[str] = ()
) -> list[StoredSchedule]:
    """Return schedules whose cursor has come, at most a hundred, those that wait longest first.

    Args:
        conn: A connection.
        dialect: Its database's.
        kinds: Of which schedules.
        now: The database's present, in microseconds since the epoch.
        but: The ids of those that are left out.
    """
    bound = {"now": now, **_chosen(kinds, but)}
    return [_stored(row) for row in conn.execute(_due(dialect), bound)]


def _chosen(kinds: Sequence[str], but: Iterable[str]) -> Mapping[str, str]:
    return {"kinds": json.dumps(list(kinds)), "but": json.dumps(list(but))}


def _alive(now: int) -> Mapping[str, int]:
    # A clock that was set back must not keep the dead alive for as long.
    return {"oldest": now - ALIVE_FOR, "newest": now + ALIVE_FOR}


def _bring_in(
    conn: Connection, one: Declared, row: Row[Any] | None, living: set[str], now: int
) -> None:
    if row is None:
        conn.execute(_INSERT, {**_facts(one, now), "known": json.dumps([one.fingerprint])})
        _record_past(conn, one, 1, now)
        return
    known: list[str] = json.loads(row.known)
    if one.fingerprint not in known:
        known = [*known, one.fingerprint][-_KNOWN:]
    if one.fingerprint != row.fingerprint:
        if max(living, key=lambda each: _rank(known, each)) == one.fingerprint:
            _replace(conn, one, row, known, now)
        return
    if not row.enabled:
        conn.execute(_ENABLE, {"id": one.id, "enabled": True, "now": now})


def _rank(known: Sequence[str], fingerprint: str) -> int:
    return known.index(fingerprint) if fingerprint in known else -1


def _replace(
    conn: Connection, one: Declared, row: Row[Any], known: Sequence[str], now: int
) -> None:
    """Begin a new version; other instants are looked for from now on, not in the past.

    But those that came before and that nobody has dealt with yet are not lost: from the first one
    that both definitions name, the new one's policy says what becomes of them.
    """
    facts = _facts(one, now)
    version = row.version + 1
    if _is_timed_like(one.schedule, row.definition):
        facts |= {"anchor": row.anchor, "next_at": row.next_at}
    else:
        shared, dropped = _unfired(one, row, now)
        if shared is not None:
            facts["next_at"] = shared
        else:
            _record_past(conn, one, version, now)
        for each in dropped:
            _skip(conn, one, version, to_micros(each.at), each.note, now)
    conn.execute(_REPLACE, {**facts, "known": json.dumps(known), "version": version})


def _is_timed_like(schedule: Schedule, definition: str) -> bool:
    try:
        return _read(definition).is_timed_like(schedule)
    except ValueError:
        return False


def _unfired(one: Declared, row: Row[Any], now: int) -> tuple[int | None, Sequence[Instant]]:
    """Return from where a new definition names what is unfired, and what it does not name."""
    if not row.enabled or row.next_at is None or row.next_at > now:
        return None, ()
    present, cursor = from_micros(now), from_micros(row.next_at)
    try:
        old = _read(row.definition).instants(from_micros(row.anchor))
        came = recent(old, cursor - _TICK, present, MAX_RECORDED)
    except (LookupError, ValueError):  # a newer version's, or in a zone that this machine lacks
        came = [Instant(cursor)]
    instants = one.schedule.instants(present)
    named = [each for each in came if _names(instants, each.at)]
    dropped = [Instant(each.at, _CHANGED) for each in came if each not in named]
    if len(came) < MAX_RECORDED:
        return (to_micros(named[0].at) if named else None), dropped
    if dropped:
        dropped[0] = dropped[0].noted(f"as all before it since {cursor:%Y-%m-%dT%H:%M:%SZ}")
    return (row.next_at if named else None), dropped


def _names(instants: Instants, at: datetime) -> bool:
    found = next(instants.after(at - _TICK), None)
    return found is not None and found.at == at


def _facts(one: Declared, now: int) -> dict[str, Any]:
    present = from_micros(now)
    upcoming = next(one.schedule.instants(present).after(present), None)
    return {
        "id": one.id,
        "kind": one.kind,
        "target": one.target,
        "definition": one.schedule.write(),
        "fingerprint": one.fingerprint,
        "anchor": now,
        "next_at": None if upcoming is None else to_micros(upcoming.at),
        "now": now,
    }


def _record_past(conn: Connection, one: Declared, version: int, now: int) -> None:
    """Record the one instant of a schedule that came before anybody knew of it."""
    at = one.schedule.at
    if at is not None and to_micros(at) <= now:
        _skip(conn, one, version, to_micros(at), "past when it was defined", now)


def _skip(
    conn: Connection, one: Declared, version: int, at: int, note: str | None, now: int
) -> None:
    bound = {"id": one.id, "at": at, "version": version, "note": note, "now": now}
    conn.execute(_SKIP, bound)


# One that is due is asked for it several times.
@lru_cache(maxsize=512)
def _read(definition: str) -> Schedule:
    return Schedule.read(definition)


def _stored(row: Row[Any]) -> StoredSchedule:
    return StoredSchedule(
        id=row.id,
        kind=row.kind,
        target=row.target,
        definition=row.definition,
        version=row.version,
        enabled=bool(row.enabled),
        anchor=from_micros(row.anchor),
        next_at=None if row.next_at is None else from_micros(row.next_at),
    )


@cache
def _look(dialect: Dialect) -> TextClause:
    return text(
        f"""
        UPDATE netscript_schedulers SET seen_at = :now WHERE id = :id
        RETURNING (SELECT min(next_at) FROM netscript_schedules
                WHERE enabled AND kind IN {dialect.members("kinds")}
                AND id NOT IN {dialect.members("but")}) AS next_at,
            (SELECT count(*) FROM netscript_schedulers o
                WHERE o.id <> :id AND o.seen_at BETWEEN :oldest AND :newest) AS many,
            (SELECT max(CAST(o.id AS text)) FROM netscript_schedulers o
                WHERE o.id <> :id AND o.seen_at BETWEEN :oldest AND :newest) AS youngest
        """
    )


@cache
def _due(dialect: Dialect) -> TextClause:
    return text(
        f"""
        SELECT {_COLUMNS} FROM netscript_schedules
        WHERE enabled AND next_at <= :now AND kind IN {dialect.members("kinds")}
            AND id NOT IN {dialect.members("but")}
        ORDER BY next_at LIMIT 100
        """
    )


_COLUMNS = "id, kind, target, definition, fingerprint, known, version, enabled, anchor, next_at"
_ALL = text(f"SELECT {_COLUMNS} FROM netscript_schedules ORDER BY id")
_ONE = text(f"SELECT {_COLUMNS} FROM netscript_schedules WHERE id = :id")
_FORGET_DEAD = text(
    "DELETE FROM netscript_schedulers WHERE id <> :id AND seen_at NOT BETWEEN :oldest AND :newest"
)
_PUT_SCHEDULER = text(
    """
    INSERT INTO netscript_schedulers (id, declared, seen_at) VALUES (:id, :declared, :now)
    ON CONFLICT (id) DO UPDATE SET declared = excluded.declared, seen_at = excluded.seen_at
    """
)
_DECLARED = text("SELECT declared FROM netscript_schedulers")
_LEAVE = text("DELETE FROM netscript_schedulers WHERE id = :id")
_ENABLE = text(
    "UPDATE netscript_schedules SET enabled = :enabled, changed_at = :now WHERE id = :id"
)
_INSERT = text(
    """
    INSERT INTO netscript_schedules (id, kind, target, definition, fingerprint, known, version,
        enabled, anchor, next_at, changed_at)
    VALUES (:id, :kind, :target, :definition, :fingerprint, :known, 1, true, :anchor, :next_at,
        :now)
    """
)
_REPLACE = text(
    """
    UPDATE netscript_schedules SET kind = :kind, target = :target, definition = :definition,
        fingerprint = :fingerprint, known = :known, version = :version, enabled = true,
        anchor = :anchor, next_at = :next_at, changed_at = :now
    WHERE id = :id
    """
)
_SKIP = text(
    """
    INSERT INTO netscript_schedule_fires
        (schedule_id, nominal_at, version, outcome, note, recorded_at)
    VALUES (:id, :at, :version, 'skipped', :note, :now)
    ON CONFLICT (schedule_id, nominal_at) DO NOTHING
    """
)
