"""What schedules set off: an event, with what its handler has returned, for each instant."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Connection

from netscript_triggers.circuits import Note
from netscript_triggers.definitions import AnyTrigger, ScheduleDefinition
from netscript_triggers.dispatch import UNSTORABLE, Handled, after_failure, run_handler
from netscript_triggers.events import EventStatus, ScheduleEvent
from netscript_triggers.firing import DisabledError, instant_key
from netscript_triggers.handlers import Handlers, took_too_long
from netscript_triggers.schedules import schedule_id, scheduled_time
from netscript_triggers.store import inbox, states
from netscript_triggers.store import triggers as stored_triggers
from netscript_triggers.store.inbox import PENDING
from netscript_workers.actions import JobCatalog
from netscript_workers.clock import from_micros, to_micros
from netscript_workers.domain import NewWork
from netscript_workers.errors import NetscriptError, TriggerNotFoundError
from netscript_workers.ids import new_id
from netscript_workers.instants import Instant
from netscript_workers.loops import LoopThread
from netscript_workers.payloads import to_stored_json
from netscript_workers.scheduler import MoreSchedules, Prepared, Schedules
from netscript_workers.schedules import Declared, starts_at, told_late
from netscript_workers.store import fires
from netscript_workers.store.dialects import Dialect
from netscript_workers.store.engine import Store
from netscript_workers.store.fires import Start, Target, unfinished_executions
from netscript_workers.store.outbox import Submission
from netscript_workers.store.schedules import StoredSchedule
from netscript_workers.telemetry import spans

KIND = ScheduleDefinition.kind

# For one handler; of several instants at once no further one begins after it, those that are left
# run in a server.
HANDLER_SECONDS = 5.0
# How much longer than a handler may take its thread is waited for.
_LEEWAY = 1.0

_Definition: TypeAlias = ScheduleDefinition[Any]


def schedules_of(triggers: Mapping[str, AnyTrigger]) -> MoreSchedules:
    """Return what tells a scheduler of the schedules among triggers, which it registers.

    Args:
        triggers: Those of the project, by id.
    """
    mine = {id_: one for id_, one in triggers.items() if isinstance(one, ScheduleDefinition)}

    def tell(store: Store, catalog: JobCatalog) -> Schedules:
        stored_triggers.register(store, mine.values())
        declared = [
            Declared(id=schedule_id(id_), kind=KIND, target=id_, schedule=one.schedule)
            for id_, one in mine.items()
        ]
        firing = ScheduledHandlers(store, mine, catalog)
        prepared = Prepared(
            prepare=firing.prepare,
            give_up=firing.give_up,
            unfinished=unfinished,
            close=firing.close,
        )
        return Schedules(declared, {KIND: prepared})

    return tell


class ScheduledHandlers:
    """Runs the handlers of schedules, before anything is written: no transaction waits for them."""

    def __init__(
        self, store: Store, triggers: Mapping[str, _Definition], catalog: JobCatalog
    ) -> None:
        """Prepare.

        Args:
            store: Where it stands how triggers are.
            triggers: The schedules this process has code for.
            catalog: Where actions that name a job by its id look it up.
        """
        self._store = store
        self._triggers = triggers
        self._catalog = catalog
        self._handlers = Handlers()
        # An `async def` handler that blocks its loop must not hold up those in threads.
        self._loops = {True: LoopThread("netscript-async"), False: LoopThread("netscript-threads")}

    def prepare(self, due: StoredSchedule, instants: Sequence[Instant]) -> Target:
        """Call the handler for each instant; return what stores what came of it.

        Raises:
            TriggerNotFoundError: This process has no code for it.
        """
        trigger = self._trigger(due)
        busy = False
        with self._store.read() as conn:
            now = from_micros(self._store.now(conn))
            state = states.get(conn, trigger.id)
            if due.schedule.overlap == "skip":
                instants = instants[-1:]  # those before would overlap with it
                busy = fires.is_busy(conn, self._store.dialect, due.id, unfinished)
        notes: list[Note] = []
        ready: dict[datetime, Start] = {}
        until = time.monotonic() + HANDLER_SECONDS
        for instant in instants if state.enabled else ():
            event = _event(trigger, instant, now)
            # What is busy now, and is not any more when this is stored, is for a server to handle.
            if busy or state.is_open or time.monotonic() >= until:
                handled: Handled = (NewWork(), PENDING)
            else:
                handled, note = self._handle(trigger, event)
                if note.error is not None or state.failures:
                    notes.append(note)
            ready[instant.at] = _start(due, instant, event, handled)

        def starts(
            conn: Connection, _due: StoredSchedule, chosen: Sequence[Instant]
        ) -> list[Start]:
            if not ready or not states.get(conn, trigger.id).enabled:
                raise DisabledError(trigger.id)
            states.apply(conn, self._store.dialect, notes, self._store.now(conn))
            return [ready[instant.at] for instant in chosen]

        return starts

    def give_up(self, due: StoredSchedule, instants: Sequence[Instant]) -> Target:
        """Return what stores events that are dead, for the database can't hold their actions.

        Raises:
            TriggerNotFoundError: This process has no code for it.
        """
        trigger = self._trigger(due)

        def starts(
            conn: Connection, _due: StoredSchedule, chosen: Sequence[Instant]
        ) -> list[Start]:
            now = from_micros(self._store.now(conn))
            return [
                _start(due, instant, _event(trigger, instant, now), (NewWork(), UNSTORABLE))
                for instant in chosen
            ]

        return starts

    def close(self) -> None:
        """Let go of the threads, without waiting for handlers that don't end."""
        for loop in self._loops.values():
            loop.close()
        self._handlers.close()

    def _trigger(self, due: StoredSchedule) -> _Definition:
        trigger = self._triggers.get(due.target)
        if trigger is None:
            raise TriggerNotFoundError(due.target, self._triggers)
        return trigger

    def _handle(self, trigger: _Definition, event: ScheduleEvent) -> tuple[Handled, Note]:
        limit = HANDLER_SECONDS
        work = run_handler(self._handlers, self._catalog, trigger, event, limit=limit)
        try:
            try:
                handled = self._loops[trigger.is_async].call(work, limit + _LEEWAY)
            except TimeoutError:  # it holds up the loop
                raise took_too_long(limit) from None
        except NetscriptError as error:
            ending = after_failure(trigger, error, attempt=1)
            # What no retry can mend says nothing of the handler.
            told = ending.error if error.retryable else None
            return (NewWork(), ending), Note(trigger.id, trigger.circuit, told)
        return handled, Note(trigger.id, trigger.circuit)


def _event(trigger: _Definition, instant: Instant, now: datetime) -> ScheduleEvent:
    instant = told_late(instant, now)
    payload = scheduled_time(instant.at, trigger.schedule.timezone, instant.note)
    id_ = new_id()
    recorder = spans.recorder
    traceparent, tracestate = (None, None) if recorder is None else recorder.carried_here()
    return ScheduleEvent(
        id=id_,
        trigger_id=trigger.id,
        kind=KIND,
        status=EventStatus.PROCESSING,
        payload=payload,
        headers={},
        body=to_stored_json(payload).encode(),
        idempotency_key=instant_key(trigger.id, instant.at, id_).key,
        attempt=1,
        received_at=now,
        traceparent=traceparent,
        tracestate=tracestate,
    )


def _start(due: StoredSchedule, instant: Instant, event: ScheduleEvent, handled: Handled) -> Start:
    work, disposition = handled
    received_at = to_micros(event.received_at)
    if due.schedule.jitter:
        earliest = to_micros(starts_at(due.id, due.schedule, instant.at))
        for new in work.executions:
            asked = received_at + new.delay if new.run_at is None else new.run_at
            new.run_at = max(asked, earliest)
    return Start(
        event.id,
        Submission(
            executions=work.executions,
            batches=work.batches,
            guard=instant_key(event.trigger_id, instant.at, event.id),
            companion=inbox.companion(event, disposition, received_at),
            trace=work.trace,
        ),
    )


def unfinished(conn: Connection, dialect: Dialect, refs: Sequence[str]) -> bool:
    """Tell whether one of these events, or an execution it led to, has not ended."""
    found = inbox.read_accepted(conn, dialect, refs).values()
    if any(not one.status.is_final for one in found):
        return True
    ids = [id_ for one in found for id_ in one.executions]
    return bool(ids) and unfinished_executions(conn, dialect, ids)
