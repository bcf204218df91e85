"""What the store should hold, said in plain Python: the model that random lives are compared to.

One transaction of the store is one call here. There are no rows, no locks and no SQL: a life is an
object, a concurrency key has a holder or none, and time is a number that is handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from netscript_workers.domain import (
    CRASH_BUDGET,
    SUSPECT_AFTER,
    Enqueued,
    NewExecution,
    Verdict,
)
from netscript_workers.store.outbox import PRIORITY_STEP

FINAL = {Verdict.COMPLETE: "completed", Verdict.FAIL: "failed", Verdict.CANCEL: "cancelled"}
LIVE = ("scheduled", "blocked", "queued", "running")


@dataclass(slots=True)
class Life:
    """One execution."""

    id: str
    job: str
    topic: str
    key: str | None
    strict: bool
    priority: int
    max_attempts: int
    status: str
    reason: str | None
    run_at: int
    attempt: int = 1
    losses: int = 0
    crashes: int = 0
    begun: bool = False
    holds: bool = False
    worker: str | None = None
    finished_at: int | None = None
    records: int = 0
    unwanted: bool = False

    @property
    def sort_at(self) -> int:
        return self.run_at - self.priority * PRIORITY_STEP

    @property
    def is_suspect(self) -> bool:
        return self.losses >= SUSPECT_AFTER


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ends: the verdict, the seconds until it runs again, and what it enqueues."""

    id: str
    verdict: Verdict
    delay: int = 0
    actions: tuple[NewExecution, ...] = ()

    @property
    def reason(self) -> str | None:
        return {
            Verdict.COMPLETE: None,
            Verdict.FAIL: "error",
            Verdict.CANCEL: "cancelled",
            Verdict.RETRY: "retry",
            Verdict.SNOOZE: "snooze",
            Verdict.RELEASE: "drained",
        }[self.verdict]

    @property
    def failed(self) -> bool:
        return self.verdict in {Verdict.FAIL, Verdict.RETRY}


@dataclass(slots=True)
class Model:
    """The whole store.

    Attributes:
        lives: By id, in the order in which they were enqueued.
        holders: Who holds each concurrency key.
        notes: Keys that somebody has yet to look at.
        owners: Who took each idempotency key, with which payload, until when.
        paused: Topics.
        due_seen: When each worker knows that something is due, None for never.
    """

    lives: dict[str, Life] = field(default_factory=dict[str, Life])
    holders: dict[str, str] = field(default_factory=dict[str, str])
    notes: set[str] = field(default_factory=set[str])
    owners: dict[tuple[str, str], tuple[str, str, int]] = field(
        default_factory=dict[tuple[str, str], tuple[str, str, int]]
    )
    paused: set[str] = field(default_factory=set[str])
    due_seen: dict[str, int | None] = field(default_factory=dict[str, "int | None"])

    def live(self, *statuses: str) -> list[Life]:
        wanted = statuses or LIVE
        return [life for life in self.lives.values() if life.status in wanted]

    def finished(self) -> list[Life]:
        return self.live(*FINAL.values())

    def enqueue(self, given: Iterable[NewExecution], now: int, window: int) -> list[Enqueued]:
        return [self._enqueue(new, now, window) for new in given]

    def _enqueue(self, new: NewExecution, now: int, window: int) -> Enqueued:
        if new.idempotency_key is not None:
            name = (new.job_id, new.idempotency_key)
            owner, content, until = self.owners.get(name, ("", "", 0))
            if until > now:
                return Enqueued(owner, duplicate=True, conflict=content != new.fingerprint)
            self.owners[name] = (new.id, new.fingerprint, now + window)
        later = new.delay > 0
        keyed = new.concurrency_key is not None
        life = Life(
            id=new.id,
            job=new.job_id,
            topic=new.topic,
            key=new.concurrency_key,
            strict=new.strict_order,
            priority=new.priority,
            max_attempts=new.max_attempts,
            status="scheduled" if later else "blocked" if keyed else "queued",
            reason="delay" if later else "concurrency key" if keyed else None,
            run_at=now + new.delay,
        )
        self.lives[life.id] = life
        if life.status == "blocked" and life.key is not None:
            self.notes.add(life.key)
        return Enqueued(new.id)

    def settle(
        self, worker: str, ends: Sequence[End], *, look: bool, now: int, window: int
    ) -> None:
        """All of a tick up to the claim."""
        looked_at: set[str] = set()
        for end in ends:
            looked_at |= self._end(worker, end, now)
        for end in ends:
            self.enqueue(end.actions, now, window)
            looked_at |= {new.concurrency_key for new in end.actions if new.concurrency_key}
        if look:
            looked_at |= self.notes
            self.notes = set()
            self.due_seen[worker] = self._next_due()
        looked_at |= self._promote(worker, now)
        self._admit(looked_at)

    def _end(self, worker: str, end: End, now: int) -> set[str]:
        life = self.lives[end.id]
        life.worker = worker if end.verdict in FINAL else None
        life.records += end.failed
        if end.verdict in FINAL:
            life.status, life.reason, life.finished_at = FINAL[end.verdict], end.reason, now
            return self._free(life)
        if life.unwanted:
            return self._cancelled(life, now)
        life.attempt += end.verdict is Verdict.RETRY
        life.run_at = now + end.delay
        keeps = life.key is not None and (end.verdict is Verdict.RELEASE or life.strict)
        if life.run_at > now:
            life.status, life.reason = "scheduled", end.reason
            seen = self.due_seen.get(worker)
            self.due_seen[worker] = life.run_at if not seen else min(seen, life.run_at)
        elif life.key is not None and not keeps:
            life.status, life.reason = "blocked", "concurrency key"
        else:
            life.status, life.reason = "queued", end.reason
        return set() if keeps else self._free(life)

    def _cancelled(self, life: Life, now: int) -> set[str]:
        life.status, life.reason, life.finished_at = "cancelled", "cancelled", now
        return self._free(life)

    def _free(self, life: Life) -> set[str]:
        life.holds = False
        if life.key is None:
            return set()
        assert self.holders.pop(life.key) == life.id
        return {life.key}

    def _next_due(self) -> int | None:
        return min((life.run_at for life in self.live("scheduled")), default=None)

    def _promote(self, worker: str, now: int) -> set[str]:
        seen = self.due_seen.get(worker, 0)
        if seen is None or seen > now:
            return set()
        waiting: set[str] = set()
        for life in self.live("scheduled"):
            if life.run_at > now:
                continue
            if life.key is None or life.holds:
                life.status, life.reason = "queued", None
            else:
                life.status, life.reason = "blocked", "concurrency key"
                waiting.add(life.key)
        self.due_seen[worker] = self._next_due()
        return waiting

    def _admit(self, keys: Iterable[str]) -> int:
        admitted = 0
        for key in keys:
            if key in self._held_up():
                holder = self.lives[self.holders.pop(key)]
                holder.status, holder.reason, holder.holds = "blocked", "concurrency key", False
            waiting = [
                life
                for life in self.live("blocked")
                if life.key == key and life.topic not in self.paused
            ]
            if key not in self.holders and waiting:
                first = min(waiting, key=lambda life: life.id)
                first.status, first.reason, first.holds = "queued", None, True
                self.holders[key] = first.id
                admitted += 1
        return admitted

    def _held_up(self) -> set[str]:
        """Keys whose holder can't start, because its topic is paused."""
        holders = ((key, self.lives[id_]) for key, id_ in self.holders.items())
        return {
            key
            for key, life in holders
            if life.status == "queued"
            and life.topic in self.paused
            and not (life.strict and life.begun)
        }

    def pause(self, topic: str) -> None:
        self.paused.add(topic)
        self._admit(
            {key for key in self._held_up() if self.lives[self.holders[key]].topic == topic}
        )

    def eligible(self, topic: str) -> list[Life]:
        """What may be claimed of a topic, the most urgent first."""
        if topic in self.paused:
            return []
        queued = self.live("queued")
        ready = [life for life in queued if life.topic == topic and not life.is_suspect]
        return sorted(ready, key=lambda life: (life.sort_at, life.id))

    def next_suspect(self) -> Life | None:
        """What is claimed next of those that run alone."""
        queued = self.live("queued")
        ready = [life for life in queued if life.is_suspect and life.topic not in self.paused]
        return min(ready, key=lambda life: (life.sort_at, life.id), default=None)

    def crash(self, id_: str, now: int) -> None:
        """It killed the process in which it ran alone."""
        life = self.lives[id_]
        life.crashes += 1
        life.records += 1
        life.worker = None
        if life.crashes < CRASH_BUDGET and life.unwanted:
            self._admit(self._cancelled(life, now))
        elif life.crashes < CRASH_BUDGET:
            life.status, life.reason = "queued", "runs alone"
        else:
            life.status, life.reason, life.finished_at = "failed", "crashed", now
            self._admit(self._free(life))

    def claimed(self, id_: str, worker: str) -> None:
        life = self.lives[id_]
        life.status, life.reason, life.worker, life.begun = "running", None, worker, True

    def give_back(self, worker: str, now: int, *, lost: bool) -> list[str]:
        back = [life for life in self.live("running") if life.worker == worker]
        for life in back:
            life.status, life.worker = "queued", None
            life.losses += lost
            life.records += lost
            life.reason = "runs alone" if life.is_suspect else "rescued" if lost else "drained"
        self._cancel_unwanted(back, now)
        return sorted(life.id for life in back)

    def forget(self, ids: Iterable[str], now: int) -> None:
        """Give back what a worker holds without knowing it."""
        back = [self.lives[id_] for id_ in ids]
        for life in back:
            life.status, life.worker, life.reason = "queued", None, None
        self._cancel_unwanted(back, now)

    def _cancel_unwanted(self, back: Iterable[Life], now: int) -> None:
        freed = [self._cancelled(life, now) for life in back if life.unwanted]
        self._admit({key for keys in freed for key in keys})

    def cancel(self, id_: str, now: int) -> None:
        life = self.lives[id_]
        if life.status == "running":
            life.unwanted = True
            return
        life.status, life.reason, life.finished_at = "cancelled", "cancelled", now
        if life.holds:
            self._admit(self._free(life))
        elif life.key is not None:
            self.notes.add(life.key)

    def retry(self, id_: str, policy: int, now: int) -> None:
        life = self.lives[id_]
        failures = life.attempt if life.status == "failed" else life.attempt - 1
        life.attempt, life.max_attempts = failures + 1, failures + policy
        life.run_at, life.finished_at, life.crashes, life.worker = now, None, 0, None
        life.unwanted = False
        life.losses = life.losses if life.reason == "crashed" else 0
        life.status, life.reason = "queued", None
        if life.key is not None:
            life.status, life.reason = "blocked", "concurrency key"
            self.notes.add(life.key)

    def sweep(self) -> int:
        """Return how many keys got a note; a pause that came later is no fault."""
        blocked = [life for life in self.live("blocked") if life.topic not in self.paused]
        waiting = {life.key for life in blocked if life.key is not None}
        overlooked = waiting - self.holders.keys() - self.notes
        self.notes |= overlooked
        self._admit(self._held_up())
        return len(overlooked)

    def prune(self, before: int) -> None:
        for life in self.finished():
            assert life.finished_at is not None
            if life.finished_at < before:
                del self.lives[life.id]
