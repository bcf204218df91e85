"""The tick: one transaction that stores what has ended, lets the next in, and claims.

N results and N claims cost one commit.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from netscript_workers.clock import MICROSECONDS
from netscript_workers.domain import ClaimedExecution
from netscript_workers.errors import NetscriptError
from netscript_workers.store import (
    admissions,
    batches,
    changes,
    claims,
    entrance,
    gates,
    outbox,
    outcomes,
    steps,
)
from netscript_workers.store.claims import Probe, TopicRotation
from netscript_workers.store.engine import Store
from netscript_workers.store.entrance import Asked
from netscript_workers.store.held_up import PATIENCE, HeldUp, needs_key
from netscript_workers.store.idempotency import DEFAULT_WINDOW
from netscript_workers.store.marks import Marks
from netscript_workers.store.outbox import Submission
from netscript_workers.store.outcomes import Settled, refused
from netscript_workers.store.rations import ration
from netscript_workers.store.steps import FinishedStep, LogLine, Progress
from netscript_workers.telemetry import working
from netscript_workers.topics import Places, Served

logger = logging.getLogger(__name__)

# Somebody else's transaction holds what is due; it is looked at again this soon.
_HELD_SECONDS = 0.1
# Topics with ready executions are looked up again this often while every claim is full.
_TOPICS_SECONDS = 0.1


@dataclass(slots=True)
class Work:
    """What a worker brings to a tick.

    Attributes:
        ended: Attempts that ended.
        steps: Steps that finished.
        progress: How far running executions are.
        logs: Lines that handlers logged.
        slots: How many executions could be started now.
        places: How many of each topic, where topics have limits or slots of their own.
        lanes: Where some jobs have fewer: ids of jobs, as a JSON array, and how many of them.
        look: Look for new notes and due executions, because somebody rang or time has passed.
        found: What a look has found just now, so that none is needed.
    """

    ended: list[Settled] = field(default_factory=list[Settled])
    steps: list[FinishedStep] = field(default_factory=list[FinishedStep])
    progress: list[Progress] = field(default_factory=list[Progress])
    logs: list[LogLine] = field(default_factory=list[LogLine])
    slots: int = 0
    places: Places | None = None
    lanes: Sequence[tuple[str, int]] = ()
    look: bool = False
    found: Probe | None = None

    @property
    def has_results(self) -> bool:
        """Whether there is anything to store."""
        return bool(self.ended or self.steps or self.progress or self.logs)


@dataclass(slots=True)
class Done:
    """What a tick did.

    Attributes:
        claimed: To be started now.
        stale: Ids of ends that were refused, because their claim is no longer the current one.
        refused: Ends that could not be stored as they were, and the sentence that says why.
        lost_steps: Ids of executions whose step was refused for the same reason as `stale`.
        next_in: Seconds until something is due, None if nothing is.
        full: Every slot was filled, so there may be more.
        others: Something became ready that this worker may have no slot for.
        more: There are notes left to look at.
        rationed: A topic's rate may have kept ready executions from being claimed.
        passed_over: There was something ready that could have been started, and nothing was
            claimed.
    """

    claimed: list[ClaimedExecution] = field(default_factory=list[ClaimedExecution])
    stale: set[str] = field(default_factory=set[str])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    lost_steps: set[str] = field(default_factory=set[str])
    next_in: float | None = None
    full: bool = False
    others: bool = False
    more: bool = False
    rationed: bool = False
    passed_over: bool = False


class Ticker:
    """Runs one worker's ticks, from one thread."""

    def __init__(
        self,
        store: Store,
        *,
        worker_id: str,
        jobs: Mapping[str, bool],
        topics: Sequence[str] | Served | None = None,
        window: int = DEFAULT_WINDOW,
    ) -> None:
        """Prepare for a worker.

        Args:
            store: Where the work is.
            worker_id: In whose name executions are claimed.
            jobs: The jobs it knows, and whether each keeps its concurrency key through retries.
            topics: The topics it serves; None for all.
            window: How long idempotency keys of actions are kept, in microseconds.
        """
        self.marks = Marks()
        self.held_up = HeldUp()
        self._store = store
        self._worker_id = worker_id
        self._strict = jobs
        self._jobs = json.dumps(sorted(jobs))
        self._served = topics if isinstance(topics, Served) else Served(_only(topics))
        self._rotation = TopicRotation(self._served)
        self._window = window
        self._topics: list[str] = []
        self._topics_read = float("-inf")
        self._next_due: int | None = 0
        self._next_look: int | None = None
        self._next_ration: int | None = None

    def run(self, work: Work) -> Done:
        """Do one tick; what a user's open transaction is in the way of is held up, alone.

        Raises:
            DBAPIError: The database did not take it; nothing was stored and nothing claimed.
        """
        try:
            return self._commit(work)
        except DBAPIError as error:
            if work.has_results and self._store.dialect.is_bad_data(error):
                return self._one_by_one(work)
            keyed = [end for end in work.ended if needs_key(end)]
            if not (keyed and self._store.is_held(error)):
                raise
        plain = [end for end in work.ended if not needs_key(end)]
        done = self.run(replace(work, ended=plain, look=True, found=None))
        self.held_up.add(keyed)
        return done

    def store_held_up(self) -> Done:
        """Try again to store what was held up.

        Raises:
            DBAPIError: The database did not take it; what is not stored is still held up.
        """
        total = Done()
        self.held_up.go_round(lambda end: self._store_alone(end, total))
        return total

    def _commit(self, work: Work) -> Done:
        done = Done()
        # Only where an action names an idempotency key does a tick need rows that users hold.
        patience = PATIENCE if any(map(needs_key, work.ended)) else None
        with self._store.begin(lock_timeout=patience) as conn:
            now = self._store.now(conn)
            changed: list[tuple[str, str]] = []
            self._save_notes(conn, work, done, now)
            stored = self._settle(conn, work.ended, done, now)
            changed += stored.changed
            asked = stored.asked
            done.more = stored.counted
            if work.look and (work.found is None or work.found.notes):
                notes = admissions.take_notes(conn, self._store.dialect)
                done.more |= notes.more
                asked.keys |= notes.keys
                asked.jobs |= notes.jobs
                if notes.batches:
                    self._complete(conn, notes.batches, stored, now)
            self._promote(conn, work, asked, changed, now, done)
            if asked:
                self._let_in(conn, asked, changed, now, done)
            made_ready = stored.ready or any(status == "queued" for _, status in changed)
            self._claim(conn, work, done, fresh=work.look or made_ready)
            done.passed_over = not done.claimed and self._could_claim(work)
            changed += [(claim.id, "running") for claim in done.claimed]
            changes.record(conn, self._store.dialect, list(dict(changed).items()), now)
            times = (self._next_due, self._next_look, self._next_ration)
            dues = [at for at in times if at is not None]
            if dues:
                done.next_in = max(0.0, (min(dues) - self._store.now(conn)) / 1e6)
        working.settled(work.ended, stored.changed)
        done.full = len(done.claimed) >= work.slots
        # Some of it may be of topics or jobs for which there is no place here.
        partly = bool(work.lanes) or work.places is not None or not self._served.is_all
        done.others |= (made_ready or done.more) and (done.full or partly)
        return done

    def _save_notes(self, conn: Connection, work: Work, done: Done, now: int) -> None:
        dialect = self._store.dialect
        if work.steps:
            saved = steps.save_steps(conn, dialect, work.steps, now)
            done.lost_steps = {step.id for step in work.steps} - saved
        if work.progress:
            steps.save_progress(conn, dialect, work.progress)
        if work.logs:
            steps.save_logs(conn, dialect, work.logs)

    def _settle(
        self, conn: Connection, ended: Sequence[Settled], done: Done, now: int
    ) -> outcomes.Stored:
        if not ended:
            return outcomes.Stored()
        stored = outcomes.settle(
            conn,
            self._store.dialect,
            ended,
            strict=self._strict,
            worker_id=self._worker_id,
            now=now,
            window=self._window,
        )
        done.stale = {end.claim.id for end in ended} - stored.accepted
        if stored.next_due is not None:
            self._next_due = min(stored.next_due, self._next_due or stored.next_due)
        return stored

    def _complete(
        self, conn: Connection, added: Mapping[str, int], stored: outcomes.Stored, now: int
    ) -> None:
        """Store the callbacks of batches that are complete."""
        callbacks = tuple(batches.count(conn, self._store.dialect, added, now))
        if callbacks:
            work = Submission(executions=callbacks)
            outbox.store(conn, self._store.dialect, [work], now=now, window=self._window)
            stored.ready = True
        stored.asked.keys |= {key for one in callbacks if (key := one.concurrency_key) is not None}
        stored.asked.jobs |= {one.job_id for one in callbacks if one.limited}

    def _promote(
        self,
        conn: Connection,
        work: Work,
        asked: Asked,
        changed: list[tuple[str, str]],
        now: int,
        done: Done,
    ) -> None:
        """Make ready what is due, and learn when the next one is."""
        if work.look and work.found is not None:
            self._next_due, self._next_look = work.found.next_due, work.found.next_look
        elif work.look:
            self._next_due, self._next_look = claims.next_due(conn)
        if self._next_look is not None and self._next_look <= now:
            asked.jobs |= gates.due(conn, now)
            self._next_look = None
        if self._next_due is None or self._next_due > now:
            return
        promoted = claims.promote(conn, self._store.dialect, now)
        changed += promoted.changed
        asked.keys |= promoted.keys
        asked.jobs |= promoted.jobs
        self._next_due, self._next_look = claims.next_due(conn)
        if len(promoted.changed) == claims.PROMOTED_AT_A_TIME:
            done.others = True
        elif self._next_due is not None and self._next_due <= now:
            self._next_due = now + round(_HELD_SECONDS * MICROSECONDS)

    def _let_in(
        self,
        conn: Connection,
        asked: Asked,
        changed: list[tuple[str, str]],
        now: int,
        done: Done,
    ) -> None:
        found = entrance.let_in(conn, self._store.dialect, asked, now)
        changed += found.changed
        done.more |= found.more
        if found.look_at is not None:
            self._next_look = min(found.look_at, self._next_look or found.look_at)

    def _claim(self, conn: Connection, work: Work, done: Done, *, fresh: bool) -> None:
        self._next_ration = None
        if work.slots <= 0:
            return
        clock = time.monotonic()
        if fresh or not self._topics or clock - self._topics_read > _TOPICS_SECONDS:
            self._topics = self._rotation.next_order(conn, self._store.dialect, self.marks)
            self._topics_read = clock
        # Not the tick's beginning: what was enqueued since then can't have started before.
        now = self._store.now(conn)
        # What the lanes share. A tick that is rolled back leaves the work's own as they were.
        places = Places(work.slots) if work.places is None else work.places.copy()
        rated = {topic for topic in self._rotation.rated if places.of(topic) > 0}
        rations = ration(conn, self._store.dialect, rated, now) if rated else None
        for jobs, slots in work.lanes or ((self._jobs, work.slots),):
            claimed = claims.claim(
                conn,
                self._store.dialect,
                worker_id=self._worker_id,
                jobs=jobs,
                topics=self._topics,
                slots=min(slots, work.slots - len(done.claimed)),
                now=now,
                marks=self.marks,
                rations=rations,
                places=places,
            )
            done.claimed += claimed
            if rations is not None:
                rations.spend(conn, self._store.dialect, claimed)
        self._next_ration = None if rations is None else rations.next_at()
        working.claimed(done.claimed, time.monotonic() - clock)
        if rations is not None:
            done.rationed = self._next_ration is not None
            if rations.missed:  # perhaps it has no rate any more
                self._topics_read = float("-inf")

    def _could_claim(self, work: Work) -> bool:
        """Tell whether anything was ready in a topic for which there was a place."""
        if work.slots <= 0 or not all(slots > 0 for _, slots in work.lanes):
            return False
        places = work.places
        return any(places is None or places.of(topic) > 0 for topic in self._topics)

    def _one_by_one(self, work: Work) -> Done:
        """Store each item by itself, so that the one that can't be stored fails alone."""
        total = Done()
        for step in work.steps:
            self._try(Work(steps=[step]), step.id, total)
        for note in work.progress:
            self._try(Work(progress=[note]), note.id, total)
        for line in work.logs:
            self._try(Work(logs=[line]), line.execution_id, total)
        for end in work.ended:
            if not self._store_alone(end, total):
                self.held_up.add([end])
        rest = Work(slots=work.slots, places=work.places, lanes=work.lanes, look=True)
        return self._merge(total, self._commit(rest))

    def _store_alone(self, end: Settled, total: Done) -> bool:
        """Store one end, or that it was refused; return False if it has to wait."""
        try:
            failed = self._try(Work(ended=[end]), end.claim.id, total)
        except DBAPIError as error:
            if not (needs_key(end) and self._store.is_held(error)):
                raise
            return False
        if failed is not None:
            refusal = end._replace(outcome=refused(end.outcome, failed))
            total.stale |= self._commit(Work(ended=[refusal])).stale
        return True

    def _try(self, work: Work, execution_id: str, total: Done) -> str | None:
        try:
            done = self._commit(work)
        except (DBAPIError, NetscriptError) as error:
            if isinstance(error, DBAPIError) and not self._store.dialect.is_bad_data(error):
                raise
            # The class alone: the message may carry the values.
            reason = type(error.orig if isinstance(error, DBAPIError) else error).__name__
            logger.warning("execution %s: the database refused a value (%s)", execution_id, reason)
            total.refused[execution_id] = reason
            return reason
        self._merge(total, done)
        return None

    @staticmethod
    def _merge(total: Done, done: Done) -> Done:
        total.claimed += done.claimed
        total.stale |= done.stale
        total.lost_steps |= done.lost_steps
        total.next_in, total.full = done.next_in, done.full
        total.others |= done.others
        total.more |= done.more
        total.passed_over = done.passed_over
        total.rationed |= done.rationed
        return total


def _only(topics: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if topics is None else tuple(topics)
