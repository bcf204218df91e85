"""The coordinator: a verified delivery becomes an event and its executions, in one transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from netscript_triggers.definitions import WebhookDefinition
from netscript_triggers.events import EventStatus, WebhookEvent
from netscript_triggers.handlers import Handlers
from netscript_triggers.records import Accepted
from netscript_triggers.store import inbox
from netscript_triggers.store.inbox import Disposition, Known, NewEvent
from netscript_workers.actions import Cause, EnqueueJob, JobCatalog, resolve
from netscript_workers.clock import SYSTEM_CLOCK, from_micros
from netscript_workers.domain import NewExecution, TriggeredBy
from netscript_workers.errors import (
    NetscriptError,
    PayloadInvalidError,
    StoreUnavailableError,
    describe,
)
from netscript_workers.execution.outcome import MAX_ERROR_CHARS, storable
from netscript_workers.ids import new_id
from netscript_workers.store.engine import Store
from netscript_workers.store.gather import Gatherer
from netscript_workers.store.idempotency import Key, Name
from netscript_workers.store.outbox import Submission
from netscript_workers.store.writer import Writer

logger = logging.getLogger(__name__)

# An inline handler holds up the sender's request: past this the processor tries it again.
INLINE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A verified, parsed delivery.

    Attributes:
        key: Under which it is known; None takes it for a new one in any case.
        fingerprint: Of the body, so that a key that comes with another one is seen.
    """

    trigger: WebhookDefinition[Any]
    payload: Any
    headers: Mapping[str, str]
    body: bytes
    key: str | None
    fingerprint: str
    traceparent: str | None = None
    tracestate: str | None = None


class Coordinator:
    """Takes deliveries on the server's loop; what waits for the database waits in threads."""

    def __init__(
        self,
        store: Store,
        writer: Writer,
        handlers: Handlers,
        catalog: JobCatalog,
        *,
        on_pending: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; `start()` starts it. `conflicts` counts keys that came with other content.

        Args:
            store: Where duplicates are looked up.
            writer: Stores the events.
            handlers: Runs handlers.
            catalog: Where actions that name a job by its id look it up.
            on_pending: Called when an event was stored whose handler has yet to run.
        """
        self._store = store
        self._writer = writer
        self._handlers = handlers
        self._catalog = catalog
        self._on_pending = on_pending
        self._lookup: Gatherer[Name, Known | None] = Gatherer("netscript-lookup", self._find)
        self._under_way: dict[Name, tuple[asyncio.Future[Accepted], str]] = {}
        self.conflicts = 0

    def start(self) -> None:
        """Start the thread that looks up duplicates."""
        self._lookup.start()

    def close(self) -> None:
        """Stop it."""
        self._lookup.close()

    async def accept(self, delivery: Delivery) -> Accepted:
        """Store the event and what its handler asks for, or find that it was stored before.

        Raises:
            StoreUnavailableError: The database did not take it; nothing was stored.
        """
        if delivery.key is None:
            return await self._accept_new(delivery, None)
        name = (f"trigger:{delivery.trigger.id}", delivery.key)
        first = self._under_way.get(name)
        if first is not None:
            future, fingerprint = first
            self._compare(delivery, fingerprint)
            return _again(await asyncio.shield(future))
        mine: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
        self._under_way[name] = (mine, delivery.fingerprint)
        try:
            known = await self._lookup.call(name)
            if known is None:
                accepted = await self._accept_new(delivery, name)
            else:
                self._compare(delivery, known.fingerprint)
                accepted = known.accepted
        except BaseException as error:
            failure = error if isinstance(error, Exception) else StoreUnavailableError()
            mine.set_exception(failure)
            mine.exception()  # nobody may be waiting for it
            raise
        else:
            mine.set_result(accepted)
            return accepted
        finally:
            del self._under_way[name]

    def _compare(self, delivery: Delivery, fingerprint: str) -> None:
        """Look whether a key came again with another body; the first body is kept."""
        if fingerprint != delivery.fingerprint:
            self._count_conflict(delivery)

    def _count_conflict(self, delivery: Delivery) -> None:
        self.conflicts += 1
        logger.warning("trigger %s: a key came again with another body", delivery.trigger.id)

    def _find(self, names: list[Name]) -> list[Known | BaseException | None]:
        try:
            with self._store.read() as conn:
                now = self._store.now(conn)
                found = inbox.find(conn, self._store.dialect, set(names), now)
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            logger.warning("duplicates could not be looked up: %s", type(cause).__name__)
            raise StoreUnavailableError(
                "The database can't answer now.", hint="Try again."
            ) from error
        return [found.get(name) for name in names]

    async def _accept_new(self, delivery: Delivery, name: Name | None) -> Accepted:
        event = _event(delivery)
        guard = None if name is None else Key(*name, delivery.fingerprint, event.id)
        executions, disposition = await self._handle(delivery, event)
        try:
            return await self._store_event(delivery, event, guard, executions, disposition)
        except PayloadInvalidError as error:
            if not executions:
                raise
            # The database refuses one of the actions: the event is kept without any of them.
            dead = Disposition(status=EventStatus.DEAD, error=str(error))
            return await self._store_event(delivery, event, guard, (), dead)

    async def _handle(
        self, delivery: Delivery, event: WebhookEvent[Any]
    ) -> tuple[tuple[NewExecution, ...], Disposition]:
        if delivery.trigger.dispatch == "background":
            return (), Disposition(status=EventStatus.PENDING, delay=0.0)
        try:
            executions = await run_handler(
                self._handlers, self._catalog, delivery.trigger, event, limit=INLINE_SECONDS
            )
        except NetscriptError as error:
            return (), after_failure(delivery.trigger, error, attempt=1)
        return executions, Disposition(status=EventStatus.COMPLETED)

    async def _store_event(
        self,
        delivery: Delivery,
        event: WebhookEvent[Any],
        guard: Key | None,
        executions: tuple[NewExecution, ...],
        disposition: Disposition,
    ) -> Accepted:
        new = NewEvent(
            id=event.id,
            trigger_id=delivery.trigger.id,
            kind=delivery.trigger.kind,
            idempotency_key=delivery.key,
            headers=delivery.headers,
            body=delivery.body,
            traceparent=delivery.traceparent,
            tracestate=delivery.tracestate,
            received_at=round(event.received_at.timestamp() * 1e6),
        )
        receipt = await self._writer.store(
            Submission(
                executions=executions, guard=guard, companion=inbox.companion(new, disposition)
            )
        )
        if receipt.duplicate_of is not None:  # another process was first
            if receipt.conflict:
                self._count_conflict(delivery)
            return await asyncio.to_thread(self._accepted_before, receipt.duplicate_of)
        for one in receipt.enqueued:
            if one.conflict:
                self.conflicts += 1
                logger.warning(
                    "event %s: a key of trigger %s stands for execution %s, with another payload",
                    event.id, delivery.trigger.id, one.execution_id,
                )  # fmt: skip
        if disposition.delay is not None:
            self._on_pending()
        ids = tuple(one.execution_id for one in receipt.enqueued)
        return Accepted(event.id, disposition.status, ids)

    def _accepted_before(self, event_id: str) -> Accepted:
        try:
            with self._store.read() as conn:
                return inbox.get_accepted(conn, self._store.dialect, [event_id])[event_id]
        except SQLAlchemyError as error:
            raise StoreUnavailableError(
                "The database can't answer now.", hint="Try again."
            ) from error


async def run_handler(
    handlers: Handlers,
    catalog: JobCatalog,
    trigger: WebhookDefinition[Any],
    event: WebhookEvent[Any],
    *,
    limit: float,
) -> tuple[NewExecution, ...]:
    """Call a handler and make its actions ready to be stored.

    Raises:
        NetscriptError: The handler failed, or one of its actions can't be stored.
    """
    actions = await handlers.run(trigger, event, limit=limit)
    cause = Cause(
        triggered_by=TriggeredBy.WEBHOOK,
        trigger_event_id=event.id,
        correlation_id=event.id,
        traceparent=event.traceparent,
        tracestate=event.tracestate,
    )

    def ready() -> tuple[NewExecution, ...]:
        return tuple(resolve(action, catalog, cause) for action in actions)

    return await asyncio.to_thread(ready) if _any_by_id(actions) else ready()


def _any_by_id(actions: tuple[EnqueueJob[Any], ...]) -> bool:
    """Tell whether a job is named by its id, which may have to be read from the database."""
    return any(isinstance(action.job, str) for action in actions)


def after_failure(
    trigger: WebhookDefinition[Any], error: NetscriptError, *, attempt: int
) -> Disposition:
    """Decide what becomes of an event whose handler has failed for the `attempt`-th time.

    What no retry can mend (an unknown job, a refused payload) ends it at once.
    """
    sentence = storable(str(error), MAX_ERROR_CHARS)
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    if not error.retryable or not trigger.retry.allows(cause, attempt):
        return Disposition(status=EventStatus.DEAD, error=sentence, attempt=attempt)
    try:
        wait = trigger.retry.delay(attempt, cause)
    except Exception as broken:  # noqa: BLE001 - the policy is the user's code too
        sentence = storable(f"{sentence} (its backoff raised {describe(broken)})", MAX_ERROR_CHARS)
        return Disposition(status=EventStatus.DEAD, error=sentence, attempt=attempt)
    return Disposition(status=EventStatus.FAILED, error=sentence, delay=wait, attempt=attempt + 1)


def _event(delivery: Delivery) -> WebhookEvent[Any]:
    return WebhookEvent(
        id=new_id(),
        trigger_id=delivery.trigger.id,
        kind=delivery.trigger.kind,
        status=EventStatus.PROCESSING,
        payload=delivery.payload,
        headers=delivery.headers,
        body=delivery.body,
        idempotency_key=delivery.key,
        attempt=1,
        received_at=from_micros(SYSTEM_CLOCK.now()),
        traceparent=delivery.traceparent,
        tracestate=delivery.tracestate,
    )


def _again(accepted: Accepted) -> Accepted:
    return Accepted(accepted.event_id, accepted.status, accepted.executions, duplicate=True)
