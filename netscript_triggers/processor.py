"""The processor: runs handlers that did not run inline, and tries failed ones again."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from netscript_triggers.definitions import AnyTrigger
from netscript_triggers.dispatch import CANT_HOLD, FILTERED, Handled, after_failure, run_handler
from netscript_triggers.events import EventStatus
from netscript_triggers.filters import is_wanted
from netscript_triggers.handlers import Handlers
from netscript_triggers.restoring import event_of
from netscript_triggers.states import TriggerStates
from netscript_triggers.store import runs, states
from netscript_triggers.store.inbox import DIED, Disposition
from netscript_triggers.store.runs import Finish, StoredEvent
from netscript_triggers.upkeep import Upkeep
from netscript_workers.actions import JobCatalog
from netscript_workers.clock import MICROSECONDS
from netscript_workers.domain import NewWork
from netscript_workers.errors import NetscriptError, PayloadInvalidError
from netscript_workers.ids import new_id
from netscript_workers.store.engine import Store
from netscript_workers.store.gather import Gatherer
from netscript_workers.store.idempotency import DEFAULT_WINDOW
from netscript_workers.store.retention import Retention
from netscript_workers.telemetry import spans

logger = logging.getLogger(__name__)

CONCURRENCY = 20
HANDLER_SECONDS = 30.0
# Longer than a handler may take, so that only a process that died loses its claim.
LEASE_SECONDS = 60.0
_POLL_SECONDS = 1.0


class Processor:
    """Claims due events and runs their handlers, any number of processes side by side."""

    def __init__(
        self,
        store: Store,
        triggers: Mapping[str, AnyTrigger],
        handlers: Handlers,
        catalog: JobCatalog,
        *,
        states: TriggerStates | None = None,
        retention: Retention | None = None,
        window: int = DEFAULT_WINDOW,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; `run()` does the work.

        Args:
            store: Where the events are.
            triggers: Those this process has code for; events of others are left alone.
            handlers: Runs handlers.
            catalog: Where actions that name a job by its id look it up.
            states: Where what the database says of triggers is kept for all who ask.
            retention: How long ended events are kept; None keeps them.
            window: How long idempotency keys are kept, in microseconds.
            on_commit: Called after each commit that may have stored executions.
        """
        self._store = store
        self._triggers = triggers
        self._handlers = handlers
        self._catalog = catalog
        self._window = window
        self._on_commit = on_commit
        self._states = states or TriggerStates()
        self._upkeep = Upkeep(store, self._states, retention)
        self._turn = 0
        self._finishes: Gatherer[Finish, bool] = Gatherer("netscript-processor", self._finish)
        self._nudged = asyncio.Event()
        self._stopping = False
        self._running: dict[asyncio.Task[None], StoredEvent] = {}

    def nudge(self) -> None:
        """Look for due events now. Call it on the loop's thread."""
        self._nudged.set()

    def stop(self) -> None:
        """Ask `run()` to give back what it has and return."""
        self._stopping = True
        self._nudged.set()

    async def run(self) -> None:
        """Work until `stop()`."""
        self._finishes.start()
        try:
            while not self._stopping:
                self._nudged.clear()
                wait = _POLL_SECONDS * random.uniform(0.8, 1.0)  # noqa: S311 - spread, not secrecy
                try:
                    free = CONCURRENCY - len(self._running)
                    events, due_in = await asyncio.to_thread(self._look, free)
                except SQLAlchemyError as error:
                    cause = getattr(error, "orig", None) or error
                    logger.warning("due events were not read: %s", type(cause).__name__)
                else:
                    self._start(events)
                    wait = min(wait, due_in) if len(self._running) < CONCURRENCY else wait
                await self._sleep(wait)
        finally:
            await self._give_back()
            await asyncio.to_thread(self._finishes.close)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0.01)):
                await self._nudged.wait()
        except TimeoutError:
            return

    def _start(self, events: list[StoredEvent]) -> None:
        for event in events:
            task = asyncio.get_running_loop().create_task(self._process(event))
            self._running[task] = event
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        was_full = len(self._running) >= CONCURRENCY
        event = self._running.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The claim runs out, and somebody tries again.
            logger.warning("an event could not be settled: %s", error)
        if was_full or self._triggers[event.trigger_id].concurrency is not None:
            self._nudged.set()

    async def _process(self, event: StoredEvent) -> None:
        recorder = spans.look()
        if recorder is None:
            await self._run_event(event)
            return
        with recorder.processing(event, {}, anew=event.runs_anew) as around:
            traceparent, tracestate = around.carried
            event = replace(event, traceparent=traceparent, tracestate=tracestate)
            await self._run_event(event)

    async def _run_event(self, event: StoredEvent) -> None:
        trigger = self._triggers[event.trigger_id]
        work = NewWork()
        failure: str | None = None
        try:
            if event.attempt > trigger.retry.max_attempts:
                disposition = _died(event)
                failure = DIED
            else:
                work, disposition = await self._handle(trigger, event)
        except NetscriptError as error:
            disposition = after_failure(trigger, error, attempt=event.attempt)
            # What no retry can mend is the event's own fault, and says nothing of the handler.
            failure = disposition.error if error.retryable or event.probe else None
        if await self._settle(event, disposition, work):
            if work.trace is not None:
                work.trace.stored(())
            self._note(trigger, event, disposition, failure)

    async def _handle(self, trigger: AnyTrigger, event: StoredEvent) -> Handled:
        chosen = event.by_hand or event.replayed_from is not None
        if not chosen and not is_wanted(trigger.events, event.event_type):
            return NewWork(), replace(FILTERED, attempt=event.attempt)
        return await run_handler(
            self._handlers,
            self._catalog,
            trigger,
            event_of(trigger, event),
            limit=HANDLER_SECONDS,
        )

    def _note(
        self,
        trigger: AnyTrigger,
        event: StoredEvent,
        disposition: Disposition,
        failure: str | None,
    ) -> None:
        if failure is not None:
            self._states.note_failure(trigger, failure, probe=event.probe)
        elif disposition.error is None and disposition.reason != FILTERED.reason:
            self._states.note_success(trigger, probe=event.probe)
        if event.probe:  # all the others wait for it
            self._nudged.set()

    async def _settle(self, event: StoredEvent, disposition: Disposition, work: NewWork) -> bool:
        try:
            kept = await self._finishes.call(Finish(event, disposition, work))
        except PayloadInvalidError as error:
            disposition = Disposition(
                status=EventStatus.DEAD, error=str(error), attempt=event.attempt
            )
            kept = await self._finishes.call(Finish(event, disposition))
        if not kept:
            logger.warning("event %s: its claim ran out before its handler ended", event.id)
        elif disposition.status is EventStatus.DEAD:
            logger.error("event %s of trigger %s is dead", event.id, event.trigger_id)
        elif disposition.delay is not None or disposition.until is not None:
            self._nudged.set()
        return kept

    # On other threads.

    def _look(self, free: int) -> tuple[list[StoredEvent], float]:
        """Claim what is due; return it, and the seconds until there may be more."""
        self._upkeep.store_notes()
        self._upkeep.prune()
        with self._store.read() as conn:
            now = self._store.now(conn)
            self._states.learn(states.read(conn))
            due = runs.waiting(conn, self._store.dialect, sorted(self._triggers))
        due = {
            id_: self._due_at(id_, at) for id_, at in due.items() if self._states.is_enabled(id_)
        }
        ready = [id_ for id_, at in due.items() if at <= now]
        if not ready or free <= 0:
            soonest = min((at for at in due.values() if at > now), default=now + MICROSECONDS)
            return [], (soonest - now) / MICROSECONDS
        # Each in its turn is the first: one that has much to do leaves something to the others.
        self._turn += 1
        first = self._turn % len(ready)
        share = max(1, free // len(ready))
        claimed: list[StoredEvent] = []
        more = False
        for id_ in ready[first:] + ready[:first]:
            limit = min(share, free - len(claimed))
            found = self._claim(id_, limit) if limit > 0 else []
            more = more or len(found) == limit
            claimed += found
        return claimed, 0.0 if more else _POLL_SECONDS

    def _due_at(self, trigger_id: str, due_at: int) -> int:
        state = self._states.of(trigger_id)
        return max(due_at, state.probe_at or 0) if state.is_open else due_at

    def _claim(self, trigger_id: str, limit: int) -> list[StoredEvent]:
        state = self._states.of(trigger_id)
        bound = self._triggers[trigger_id].concurrency
        with self._store.begin() as conn:
            now = self._store.now(conn)
            if bound is not None:
                # Whoever counts what runs must be the only one who adds to it.
                self._store.dialect.lock(conn, f"trigger:{trigger_id}")
                limit = min(limit, bound - runs.running(conn, trigger_id, now))
            if state.is_open and limit > 0:
                until = now + round(LEASE_SECONDS * MICROSECONDS)
                limit = int(states.take_probe(conn, trigger_id, until=until, now=now))
            if limit <= 0:
                return []
            found = runs.claim(
                conn,
                self._store.dialect,
                trigger=trigger_id,
                token=new_id(),
                limit=limit,
                lease=LEASE_SECONDS,
                now=now,
            )
            if state.is_open and not found:
                states.return_probe(conn, trigger_id, now)
        return runs.as_probe(found) if state.is_open else found

    def _finish(self, batch: list[Finish]) -> list[bool | BaseException]:
        try:
            with self._store.begin() as conn:
                now = self._store.now(conn)
                kept = runs.finish(conn, self._store.dialect, batch, now=now, window=self._window)
        except DBAPIError as error:
            if not self._store.dialect.is_bad_data(error):
                raise
            if len(batch) == 1:
                return [PayloadInvalidError(CANT_HOLD)]
            half = len(batch) // 2
            return self._finish(batch[:half]) + self._finish(batch[half:])
        self._on_commit()
        return [*kept]

    async def _give_back(self) -> None:
        """End what runs; another process, or the next start of this one, has it at once."""
        tasks = dict(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        left = [event for task, event in tasks.items() if task.cancelled()]
        try:
            await asyncio.to_thread(self._release, left)
        except SQLAlchemyError:
            logger.warning("%d events wait until their claims run out", len(left))

    def _release(self, events: list[StoredEvent]) -> None:
        self._upkeep.store_notes()
        if not events:
            return
        with self._store.begin() as conn:
            now = self._store.now(conn)
            runs.release(conn, events, now)
            for event in events:
                if event.probe:
                    states.return_probe(conn, event.trigger_id, now)


def _died(event: StoredEvent) -> Disposition:
    return Disposition(
        status=EventStatus.DEAD,
        error="Every process that ran its handler died.",
        attempt=event.attempt,
    )
