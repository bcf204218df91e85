"""The processor: runs handlers that did not run inline, and tries failed ones again."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from netscript_triggers.definitions import WebhookDefinition
from netscript_triggers.dispatch import after_failure, run_handler
from netscript_triggers.events import EventStatus, WebhookEvent
from netscript_triggers.handlers import Handlers
from netscript_triggers.paths import PATH_HEADER, parameters_of
from netscript_triggers.payloads import read_payload
from netscript_triggers.store import inbox
from netscript_triggers.store.inbox import Disposition, Finish, StoredEvent
from netscript_workers.actions import JobCatalog
from netscript_workers.clock import from_micros
from netscript_workers.domain import NewWork
from netscript_workers.errors import NetscriptError, PayloadInvalidError
from netscript_workers.ids import new_id
from netscript_workers.store.engine import Store
from netscript_workers.store.gather import Gatherer
from netscript_workers.store.idempotency import DEFAULT_WINDOW

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
        triggers: Mapping[str, WebhookDefinition[Any]],
        handlers: Handlers,
        catalog: JobCatalog,
        *,
        window: int = DEFAULT_WINDOW,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; `run()` does the work.

        Args:
            store: Where the events are.
            triggers: Those this process has code for; events of others are left alone.
            handlers: Runs handlers.
            catalog: Where actions that name a job by its id look it up.
            window: How long idempotency keys are kept, in microseconds.
            on_commit: Called after each commit that may have stored executions.
        """
        self._store = store
        self._triggers = triggers
        self._handlers = handlers
        self._catalog = catalog
        self._window = window
        self._on_commit = on_commit
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
                free = CONCURRENCY - len(self._running)
                if free > 0:
                    try:
                        events, due_in = await asyncio.to_thread(self._claim, free)
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
        self._running.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The claim runs out, and somebody tries again.
            logger.warning("an event could not be settled: %s", error)
        if was_full:
            self._nudged.set()

    async def _process(self, event: StoredEvent) -> None:
        trigger = self._triggers[event.trigger_id]
        work = NewWork()
        try:
            if event.attempt > trigger.retry.max_attempts:
                disposition = _died(event)
            else:
                work = await run_handler(
                    self._handlers,
                    self._catalog,
                    trigger,
                    _event(trigger, event),
                    limit=HANDLER_SECONDS,
                )
                disposition = Disposition(status=EventStatus.COMPLETED, attempt=event.attempt)
        except NetscriptError as error:
            disposition = after_failure(trigger, error, attempt=event.attempt)
        await self._settle(event, disposition, work)

    async def _settle(self, event: StoredEvent, disposition: Disposition, work: NewWork) -> None:
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
        elif disposition.delay is not None:
            self._nudged.set()

    # On other threads.

    def _claim(self, limit: int) -> tuple[list[StoredEvent], float]:
        with self._store.read() as conn:
            due = inbox.next_due(conn)
            now = self._store.now(conn)
        if due is None:
            return [], _POLL_SECONDS
        if due > now:
            return [], (due - now) / 1e6
        with self._store.begin() as conn:
            claimed = inbox.claim(
                conn,
                self._store.dialect,
                triggers=sorted(self._triggers),
                token=new_id(),
                limit=limit,
                lease=LEASE_SECONDS,
                now=self._store.now(conn),
            )
        return claimed, 0.0 if len(claimed) == limit else _POLL_SECONDS

    def _finish(self, batch: list[Finish]) -> list[bool | BaseException]:
        try:
            with self._store.begin() as conn:
                now = self._store.now(conn)
                kept = inbox.finish(conn, self._store.dialect, batch, now=now, window=self._window)
        except DBAPIError as error:
            if not self._store.dialect.is_bad_data(error):
                raise
            if len(batch) == 1:
                return [PayloadInvalidError("The database can't hold one of its actions.")]
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
        if left:
            try:
                await asyncio.to_thread(self._release, left)
            except SQLAlchemyError:
                logger.warning("%d events wait until their claims run out", len(left))

    def _release(self, events: list[StoredEvent]) -> None:
        with self._store.begin() as conn:
            inbox.release(conn, events, self._store.now(conn))


def _died(event: StoredEvent) -> Disposition:
    return Disposition(
        status=EventStatus.DEAD,
        error="Every process that ran its handler died.",
        attempt=event.attempt,
    )


def _event(trigger: WebhookDefinition[Any], stored: StoredEvent) -> WebhookEvent[Any]:
    payload, about = read_payload(trigger, stored.body, stored.headers)
    target = stored.headers.get(PATH_HEADER)
    parameters = None if target is None else parameters_of(trigger.path, target)
    return WebhookEvent(
        id=stored.id,
        trigger_id=stored.trigger_id,
        kind=trigger.kind,
        status=EventStatus.PROCESSING,
        payload=payload,
        headers=stored.headers,
        body=stored.body,
        idempotency_key=stored.idempotency_key,
        attempt=stored.attempt,
        received_at=from_micros(stored.received_at),
        traceparent=stored.traceparent,
        tracestate=stored.tracestate,
        path_params=parameters or {},
        cloudevent=about,
    )
