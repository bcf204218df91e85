"""The scheduler: fires what is due, beside any number of others that do the same."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from netscript_workers.actions import Cause, JobCatalog, enqueue_job, resolve
from netscript_workers.clock import MICROSECONDS, from_micros, to_micros, to_rfc3339
from netscript_workers.domain import TriggeredBy
from netscript_workers.ids import new_id
from netscript_workers.instants import Instant
from netscript_workers.jobs import JobDefinition
from netscript_workers.schedules import Declared, Plan, make_plan, starts_at
from netscript_workers.store import fires, schedules
from netscript_workers.store.definitions import ConnectionCatalog
from netscript_workers.store.engine import Store
from netscript_workers.store.fires import Start, Target, Unfinished
from netscript_workers.store.idempotency import DEFAULT_WINDOW
from netscript_workers.store.outbox import Submission
from netscript_workers.store.schedules import StoredSchedule
from netscript_workers.telemetry import spans
from netscript_workers.telemetry.untraced import Untraced

if TYPE_CHECKING:
    from netscript_workers.telemetry.serving import Firing

logger = logging.getLogger(__name__)

JOB = "job"

# With nothing due sooner it looks this often: a statement, which also says that it lives.
_LOOK_SECONDS = 60.0
# What came due and can't be dealt with is tried again after this, and then after twice as long.
_FIRST_PUT_OFF = 5.0
_LAST_PUT_OFF = 60.0
_FIRST_BACKOFF = 0.5
_LAST_BACKOFF = 30.0
# Schedules whose user's code runs at a time.
_PREPARED_AT_A_TIME = 8
# Of the instants that a look finds due, those that its span names.
_TOLD = 16
# The wait is not exact, and a look that comes a moment early costs one more.
_MARGIN_SECONDS = 0.001


def declared_jobs(jobs: Iterable[JobDefinition[Any, Any]]) -> list[Declared]:
    """Return the schedules of jobs that have one and are enabled."""
    return [
        Declared(id=f"job:{job.id}", kind=JOB, target=job.id, schedule=job.schedule)
        for job in jobs
        if job.schedule is not None and job.enabled
    ]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A kind of schedule whose instants need the user's code first.

    It runs in a thread of its own: no transaction waits for it, and no other schedule.

    Attributes:
        prepare: Runs it, and returns what stores what came of it. A LookupError puts the schedule
            off: this process lacks the code.
        give_up: Returns what stores that the database can't hold what came of it.
        unfinished: Tells whether some of what was set off before is unfinished.
        close: Called when the scheduler leaves.
    """

    prepare: Callable[[StoredSchedule, Sequence[Instant]], Target]
    give_up: Callable[[StoredSchedule, Sequence[Instant]], Target]
    unfinished: Unfinished
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Schedules:
    """More schedules than those of jobs: what is declared, and what their kinds set off."""

    declared: Sequence[Declared] = ()
    targets: Mapping[str, Prepared] = field(default_factory=dict[str, Prepared])


# Says, once there is a database, which schedules there are besides those of jobs.
MoreSchedules: TypeAlias = Callable[[Store, JobCatalog], Schedules]


@dataclass(frozen=True, slots=True)
class _PutOff:
    until: int
    seconds: float

    @classmethod
    def again(cls, before: _PutOff | None, now: int) -> _PutOff:
        """Put off for the first time or, after `before`, for twice as long."""
        seconds = _FIRST_PUT_OFF if before is None else min(before.seconds * 2, _LAST_PUT_OFF)
        return cls(now + round(seconds * _spread() * MICROSECONDS), seconds)

    def left(self, now: int) -> float:
        """Return the seconds that are left; none if the clock was set back meanwhile."""
        left = (self.until - now) / MICROSECONDS
        return left if left <= self.seconds else 0.0


class Scheduler:
    """One thread that fires schedules as they come due.

    It fires those of all processes: a definition is data, so whoever is there can go by it. Each
    instant is dealt with once, because the cursor moves, the instant is recorded and what it sets
    off is stored in one transaction.
    """

    def __init__(
        self,
        store: Store,
        declared: Sequence[Declared],
        targets: Mapping[str, Target | Prepared],
        *,
        window: int = DEFAULT_WINDOW,
        on_fired: Callable[[], None] = lambda: None,
        id: str | None = None,  # noqa: A002 - as everything has one
    ) -> None:
        """Prepare; `start()` starts the thread.

        Args:
            store: Where schedules and executions are.
            declared: The schedules that this process's code has.
            targets: What schedules of each kind set off; others are left to others.
            window: How long idempotency keys are kept, in microseconds.
            on_fired: Called, from the thread, when there is work.
            id: Of this scheduler; by default a new one.
        """
        self.id = id or new_id()
        self._store = store
        self._declared = declared
        self._targets = targets
        self._window = window
        # Those whose user's code runs just now; looks leave them out.
        self._preparing: dict[str, Future[None]] = {}
        self._preparers = ThreadPoolExecutor(
            _PREPARED_AT_A_TIME, thread_name_prefix="netscript-schedule"
        )
        # Guards what the threads of both kinds change.
        self._lock = threading.Lock()
        self._on_fired = on_fired
        # Who else was there when the definitions were last looked at; None: not yet.
        self._others: str | None = None
        # Those that are due and can't be dealt with here; looks leave them out.
        self._put_off: dict[str, _PutOff] = {}
        # The database's present at the last look.
        self._seen_at = 0
        self._poked = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="netscript-scheduler", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Look at the database now, because a definition has changed."""
        self._poked.set()

    def stop(self, patience: float | None = None) -> bool:
        """Finish what is being fired, then leave; tell whether it has ended in so many seconds."""
        self._stopped = True
        self._poked.set()
        until = None if patience is None else time.monotonic() + patience
        if self._thread.is_alive():
            self._thread.join(patience)
        self._preparers.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            preparing = [one for one in self._preparing.values() if not one.cancelled()]
        left = None if until is None else max(0.0, until - time.monotonic())
        unfinished = wait(preparing, left).not_done
        for target in self._targets.values():
            if isinstance(target, Prepared):
                target.close()
        return not self._thread.is_alive() and not unfinished

    def _run(self) -> None:
        recorder = spans.look()
        if recorder is not None:
            about = {"netscript.scheduler.id": self.id, "netscript.schedules": len(self._declared)}
            with recorder.root("scheduler.start", about):
                pass
        backoff = _FIRST_BACKOFF
        while not self._stopped:
            self._poked.clear()
            try:
                wait = self.turn()
            except Exception as error:  # noqa: BLE001 - the next look may do better
                _tell("schedules were put off", error)
                wait, backoff = backoff * _spread(), min(backoff * 2, _LAST_BACKOFF)
            else:
                backoff = _FIRST_BACKOFF
            if not self._stopped:
                self._poked.wait(wait)
        try:
            schedules.leave(self._store, self.id)
        except Exception as error:  # noqa: BLE001 - who is not seen again is forgotten
            _tell("the scheduler left without a word", error)

    def turn(self) -> float:
        """Look once and fire what is due; return the seconds until the next look."""
        look = self._look()
        came = look.next_at is not None and look.next_at <= look.now
        with self._lock:
            put_off = [one.left(look.now) for one in self._put_off.values()]
        if came or any(left <= 0 for left in put_off):
            self._fire_due()
            return 0.0
        waits = [_LOOK_SECONDS * _spread()]
        if look.next_at is not None:
            waits.append((look.next_at - look.now) / MICROSECONDS + _MARGIN_SECONDS)
        return min(waits + put_off)

    def _look(self) -> schedules.Look:
        if self._others is None:
            return self._declare(forget=True)
        look = schedules.look(self._store, self.id, tuple(self._targets), self._left_out())
        if look is None:  # it slept, and was taken for dead
            return self._declare(forget=False)
        asleep = abs(look.now - self._seen_at) > schedules.ALIVE_FOR
        self._seen_at = look.now
        # Who has slept, or sees the clock jump, can't tell who else is gone: it waits and sees.
        if look.others != self._others and not asleep:
            return self._declare(forget=True)
        return look

    def _left_out(self) -> set[str]:
        with self._lock:
            return self._preparing.keys() | self._put_off.keys()

    def _declare(self, *, forget: bool) -> schedules.Look:
        recorder = spans.look()
        about = {"netscript.scheduler.id": self.id, "netscript.schedules": len(self._declared)}
        with recorder.root("schedule.declare", about) if recorder else nullcontext():
            schedules.declare(self._store, self.id, self._declared, forget=forget)
        with self._lock:
            self._put_off.clear()  # another definition may be one that can be dealt with
        look = schedules.look(self._store, self.id, tuple(self._targets), self._left_out())
        assert look is not None
        self._seen_at = look.now
        self._others = look.others if forget else "to be looked at again"
        return look

    def _fire_due(self) -> None:
        """Fire what is due, and put off what can't be dealt with here."""
        with self._store.read() as conn:
            now = self._store.now(conn)
            with self._lock:
                # What waits no longer is tried again, unless somebody else has dealt with it.
                before = dict(self._put_off)
                self._put_off = {id_: one for id_, one in before.items() if one.left(now) > 0}
                but = self._put_off.keys() | self._preparing.keys()
            kinds = tuple(self._targets)
            found = schedules.due(conn, self._store.dialect, kinds, now, but)
        for one in found:
            try:
                self._begin(one, now, before.get(one.id))
            except (LookupError, ValueError, DBAPIError) as error:
                # No such zone on this machine, or data of its own: nothing to hold up others for.
                if isinstance(error, DBAPIError) and not self._store.dialect.is_bad_data(error):
                    raise
                self._put_off_again(one, error, before.get(one.id), now)

    def _put_off_again(
        self, one: StoredSchedule, error: Exception, before: _PutOff | None, now: int
    ) -> None:
        _tell(f"the schedule {one.id} was put off", error)
        with self._lock:
            self._put_off[one.id] = _PutOff.again(before, now)

    def _begin(self, one: StoredSchedule, now: int, before: _PutOff | None) -> None:
        assert one.next_at is not None
        plan = make_plan(one.schedule, anchor=one.anchor, cursor=one.next_at, now=from_micros(now))
        target = self._targets[one.kind]
        if not isinstance(target, Prepared):
            with _traced(one, plan) as firing:
                firing.fired = self._fire(one, plan, target, fires.unfinished_executions)
            return

        def prepare_and_fire() -> None:
            try:
                with _traced(one, plan) as firing:
                    firing.fired = self._fire_prepared(one, plan, target)
            except Exception as error:  # noqa: BLE001 - nobody waits for it; it stays due
                self._put_off_again(one, error, before, now)
            finally:
                with self._lock:
                    del self._preparing[one.id]
                self._poked.set()

        with self._lock:
            self._preparing[one.id] = self._preparers.submit(prepare_and_fire)

    def _fire_prepared(self, one: StoredSchedule, plan: Plan, target: Prepared) -> int:
        try:
            return self._fire(one, plan, target.prepare(one, plan.fires), target.unfinished)
        except DBAPIError as error:
            if not self._store.dialect.is_bad_data(error):
                raise
            return self._fire(one, plan, target.give_up(one, plan.fires), target.unfinished)

    def _fire(self, one: StoredSchedule, plan: Plan, target: Target, unfinished: Unfinished) -> int:
        refs = fires.fire(self._store, one, plan, target, unfinished, window=self._window)
        if refs:
            logger.info("schedule %s fired %d times", one.id, len(refs))
            self._on_fired()
        return len(refs)


def job_target(jobs: Mapping[str, JobDefinition[Any, Any]]) -> Target:
    """Return what a job's schedule sets off: an execution with an empty payload.

    Args:
        jobs: Those at hand; others are looked up among those that some process has registered.
    """

    def starts(conn: Connection, due: StoredSchedule, instants: Sequence[Instant]) -> list[Start]:
        catalog, job = ConnectionCatalog(conn), jobs.get(due.target, due.target)
        found: list[Start] = []
        for instant in instants:
            nominal = to_rfc3339(to_micros(instant.at))
            action = enqueue_job(job, run_at=starts_at(due.id, due.schedule, instant.at))
            cause = Cause(triggered_by=TriggeredBy.CRON, correlation_id=f"{due.id}@{nominal}")
            new = resolve(action, catalog, cause)
            recorder = spans.recorder
            trace = None if recorder is None else recorder.sending_here((new,))
            found.append(Start(new.id, Submission(executions=(new,), trace=trace)))
        return found

    return starts


def _traced(one: StoredSchedule, plan: Plan) -> Firing | Untraced:
    recorder = spans.recorder
    if recorder is None:
        return Untraced()
    about = {
        "netscript.schedule.id": one.id,
        "netscript.schedule.kind": one.kind,
        "netscript.schedule.instants": [to_rfc3339(to_micros(at.at)) for at in plan.fires[-_TOLD:]],
    }
    return recorder.firing(about)


def _tell(what: str, error: Exception) -> None:
    cause = getattr(error, "orig", None) or error
    logger.warning("%s: %s", what, type(cause).__name__)


def _spread() -> float:
    """Keep many schedulers from doing the same at the same moment."""
    return random.uniform(0.8, 1.0)  # noqa: S311 - spread, not secrecy
