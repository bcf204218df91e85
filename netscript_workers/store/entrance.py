"""The entrance: lets blocked executions in by their concurrency key and by the gate of their job.

Both or none: who needs a key and a place gets them in one instant, or waits without either. All
gates are locked first, in their order, then all slots, in theirs; so ticks never deadlock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Connection

from netscript_workers.store import admissions, gates
from netscript_workers.store.admissions import NoteKind, Slots, Turns
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.gates import Gate


@dataclass(slots=True, kw_only=True)
class Asked:
    """What is to be looked at, and why.

    Attributes:
        keys: Concurrency keys that somebody waits for, or may.
        jobs: Jobs at whose gate somebody waits, or may.
        released_keys: How many holders of each key have ended.
        released_jobs: How many executions of each job have given back their place.
    """

    keys: set[str] = field(default_factory=set[str])
    jobs: set[str] = field(default_factory=set[str])
    released_keys: Counter[str] = field(default_factory=Counter[str])
    released_jobs: Counter[str] = field(default_factory=Counter[str])

    def __bool__(self) -> bool:
        """Tell whether there is anything to look at."""
        return bool(self.keys or self.jobs or self.released_keys or self.released_jobs)


@dataclass(slots=True)
class LetIn:
    """What came of it.

    Attributes:
        changed: The ids let in, as `queued`, and of those that gave way, as `blocked`.
        entered: How many executions of each job its gate let in.
        arrived: How many have their key's turn and wait for the gate of their job since now.
        look_at: When a rate lets the next one in, in microseconds since the epoch.
        more: A note was left that is worth a look at once.
    """

    changed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    entered: Counter[str] = field(default_factory=Counter[str])
    arrived: int = 0
    look_at: int | None = None
    more: bool = False


class _Waiting(NamedTuple):
    id: str
    job_id: str
    key: str | None
    holds_key: bool
    sort_at: int = 0


def let_in(conn: Connection, dialect: Dialect, asked: Asked, now: int) -> LetIn:
    """Give back what was released, and let in whoever may come now.

    Args:
        conn: The transaction that also stores why there is room.
        dialect: The database's own ways.
        asked: Where to look.
        now: The database's present.
    """
    result = LetIn()
    locked = gates.lock_gates(conn, dialect, asked.jobs | asked.released_jobs.keys())
    keys = asked.keys | asked.released_keys.keys()
    found: list[_Waiting] = []
    if locked:
        for job_id, gate in locked.items():
            gate.used -= asked.released_jobs[job_id]
        stuck = _give_way(conn, dialect, locked, result)
        found = _first_at(conn, locked, stuck, now)
        keys |= {one.key for one in (*found, *stuck) if one.key and not one.holds_key}
    slots, turns = Slots(), Turns()
    if keys:
        slots = admissions.lock_slots(conn, dialect, keys, asked.released_keys)
        turns = admissions.take_turns(conn, dialect, slots, locked)
        result.changed += turns.changed
        result.arrived = len(turns.arrived)
    again = turns.jobs | {job for _, job, *_ in turns.arrived if job not in locked}
    if locked:
        known = {one.id for one in found}
        found += [
            _Waiting(id_, job, key, holds_key=False, sort_at=sort_at)
            for id_, job, key, sort_at in turns.arrived
            if job in locked and id_ not in known
        ]
        again |= _pass(conn, dialect, locked, found, turns, slots, result, now)
        gates.write_gates(conn, dialect, locked)
        looks = [gate.look_at for gate in locked.values() if gate.look_at is not None]
        result.look_at = min(looks, default=None)
    if keys:
        admissions.write_slots(conn, dialect, slots)
    admissions.note(conn, dialect, NoteKind.JOB, again)
    result.more = bool(again)
    return result


def let_pass(conn: Connection, dialect: Dialect, topic: str, now: int) -> LetIn:
    """Have what has not begun in a topic that was just paused give way to others."""
    asked = Asked(keys=admissions.keys_in_topic(conn, topic), jobs=gates.jobs_in_topic(conn, topic))
    return let_in(conn, dialect, asked, now)


def _give_way(
    conn: Connection, dialect: Dialect, locked: dict[str, Gate], result: LetIn
) -> list[_Waiting]:
    """Take places from what is paused; return those that have a key to give back as well."""
    stuck = [
        _Waiting(row.id, row.job_id, row.concurrency_key, bool(row.keeps_key))
        for row in gates.held_up(conn, dialect, locked)
    ]
    alone = [one.id for one in stuck if one.key is None or one.holds_key]
    if alone:
        for row in gates.give_way(conn, dialect, alone):
            _count_back(locked[row.job_id], 1)
            result.changed.append((row.id, "blocked"))
    return [one for one in stuck if one.key is not None and not one.holds_key]


def _count_back(gate: Gate, count: int) -> None:
    gate.used -= count
    gate.idle -= count


def _first_at(
    conn: Connection, locked: dict[str, Gate], stuck: Sequence[_Waiting], now: int
) -> list[_Waiting]:
    """Return who is most urgent at each gate: as many as there is room for, and one more."""
    leaving = Counter(one.job_id for one in stuck)
    found: list[_Waiting] = []
    for gate in locked.values():
        gate.measure(now)
        if gate.has_places or leaving[gate.job_id]:
            most = gate.room + leaving[gate.job_id] + 1
            found += (_Waiting._make(row) for row in gates.waiting_at(conn, gate, most))
    return found


def _pass(
    conn: Connection,
    dialect: Dialect,
    locked: dict[str, Gate],
    found: list[_Waiting],
    turns: Turns,
    slots: Slots,
    result: LetIn,
    now: int,
) -> set[str]:
    """Let in as many as there is room for; return the gates that are worth another look at once."""
    able: dict[str, list[_Waiting]] = {job_id: [] for job_id in locked}
    others: dict[str, _Waiting] = {}
    for one in sorted(found, key=lambda one: (one.sort_at, one.id)):
        if one.key is None or one.holds_key or turns.heads.get(one.key) == one.id:
            able[one.job_id].append(one)
        else:  # its key is busy, or an older one has come: the key calls it again
            others[one.id] = one
    chosen: dict[str, _Waiting] = {}
    for job_id, gate in locked.items():
        _count_back(gate, turns.gave_up[job_id])
        gate.measure(now)
        chosen |= {one.id: one for one in able[job_id][: gate.room]}
    moved: set[str] = set()
    if chosen:
        moved |= set(gates.let_in(conn, dialect, chosen.keys()))
    for id_ in sorted(moved):
        one = chosen[id_]
        result.entered[one.job_id] += 1
        result.changed.append((id_, "queued"))
        if one.key is not None and not one.holds_key:
            slots.take(one.key, id_)
    if others:
        moved |= set(gates.send_back(conn, dialect, others.keys()))
    # What did not move is held by a transaction of somebody's own.
    held = {one.job_id for one in (*chosen.values(), *others.values()) if one.id not in moved}
    again: set[str] = set()
    for job_id, gate in locked.items():
        gate.let_in(result.entered[job_id], now)
        waiting = len(able[job_id]) > result.entered[job_id] or not gate.seen or job_id in held
        if gate.plan_look(now, waiting=waiting, locked=job_id in held):
            again.add(job_id)
    return again
