"""The coordinator: a verified delivery becomes an event and its executions, in one transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from netscript_triggers.definitions import AnyTrigger
from netscript_triggers.dispatch import (
    COMPLETED,
    FILTERED,
    Handled,
    after_failure,
    resolve_now,
    resolve_of,
)
from netscript_triggers.events import EventStatus, TriggerEvent
from netscript_triggers.filters import is_wanted
from netscript_triggers.handlers import Handlers, call_here, took_too_long
from netscript_triggers.intake import Arrival, Intake
from netscript_triggers.records import Accepted
from netscript_triggers.states import TriggerStates
from netscript_triggers.store import inbox
from netscript_triggers.store.inbox import Disposition, Known
from netscript_workers.actions import JobCatalog
from netscript_workers.domain import Enqueued, NewWork
from netscript_workers.errors import (
    NetscriptError,
    PayloadInvalidError,
    StoreUnavailableError,
    describe,
)
from netscript_workers.execution.outcome import storable
from netscript_workers.store.engine import Store
from netscript_workers.store.gather import answer_all
from netscript_workers.store.idempotency import Key, Name
from netscript_workers.store.outbox import Receipt, Submission
from netscript_workers.store.writer import Writer
from netscript_workers.telemetry import spans

logger = logging.getLogger(__name__)

# An inline handler holds up the sender's request: past this the processor tries it again.
INLINE_SECONDS = 5.0
_BYTES_AT_A_TIME = 16 * 1_048_576


class Delivery(Arrival):
    """A verified, parsed delivery, and what has been found out about it so far.

    Attributes:
        trigger: Whose it is.
        event: What the handler sees.
        fingerprint: Of the body, so that a key that comes with another one is seen.
        received_at: The event's `received_at` in microseconds since the epoch.
        name: Under which the inbox knows it; None takes it for a new one in any case.
        followers: Who waits for the same, because the same was delivered again meanwhile.
        begun: What a `def` handler has left to be awaited on the loop.
        submission: What is to be stored, once its handler has run.
        disposition: Where its event then stands.
    """

    __slots__ = (
        "begun", "disposition", "event", "fingerprint", "followers", "name", "received_at",
        "submission", "trigger",
    )  # fmt: skip

    def __init__(
        self,
        trigger: AnyTrigger,
        event: TriggerEvent[Any],
        *,
        fingerprint: str,
        received_at: int,
    ) -> None:
        """Take it as it came."""
        super().__init__(trigger.id)
        self.trigger = trigger
        self.event = event
        self.fingerprint = fingerprint
        self.received_at = received_at
        key = event.idempotency_key
        self.name: Name | None = None if key is None else (f"trigger:{trigger.id}", key)
        self.followers: list[asyncio.Future[Accepted]] = []
        self.begun: Awaitable[Any] | None = None
        self.submission = _NOTHING
        self.disposition = COMPLETED

    def submit(self, work: NewWork, disposition: Disposition) -> Submission:
        """Return what is to be stored of it."""
        event = self.event
        guard = None if self.name is None else Key(*self.name, self.fingerprint, event.id)
        self.disposition = disposition
        self.submission = Submission(
            executions=work.executions,
            batches=work.batches,
            guard=guard,
            companion=inbox.companion(event, disposition, self.received_at),
            trace=work.trace if work.executions else self._trace(),
        )
        return self.submission

    def _trace(self) -> Any:
        """Return what tells of the commit where no execution does."""
        recorder = spans.recorder
        return None if recorder is None else recorder.sending((), self.event)


_NOTHING = Submission()
_NO_WORK = NewWork()
_PENDING = Disposition(status=EventStatus.PENDING, delay=0.0)


class Coordinator:
    """Takes deliveries on the server's loop; what waits for the database waits in threads."""

    def __init__(
        self,
        store: Store,
        writer: Writer,
        handlers: Handlers,
        catalog: JobCatalog,
        *,
        states: TriggerStates | None = None,
        on_pending: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; `start()` starts it. `conflicts` counts keys that came with other content.

        Args:
            store: Where duplicates are looked up.
            writer: Stores the events.
            handlers: Runs handlers on the loop.
            catalog: Where actions that name a job by its id look it up.
            states: Whose circuits are open, so that their events wait.
            on_pending: Called when an event was stored whose handler has yet to run.
        """
        self._store = store
        self._writer = writer
        self._handlers = handlers
        self._catalog = catalog
        self._states = states or TriggerStates()
        self._on_pending = on_pending
        self._intake: Intake[Delivery] = Intake(
            look_up=self._look_up,
            handle=self._handle_here,
            pass_on=self._pass_on,
            give_up=self._give_up,
            limit=lambda: INLINE_SECONDS,
        )
        self._under_way: dict[Name, Delivery] = {}
        self.conflicts = 0

    def start(self) -> None:
        """Start the threads."""
        self._intake.start()

    def close(self) -> None:
        """Stop them."""
        self._intake.close()

    async def accept(self, delivery: Delivery) -> Accepted:
        """Store the event and what its handler asks for, or find that it was stored before.

        Raises:
            StoreUnavailableError: The database did not take it; nothing was stored.
        """
        name = delivery.name
        if name is None:
            return await self._accept(delivery)
        first = self._under_way.get(name)
        if first is not None:
            self._compare(delivery, first.fingerprint)
            mine: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
            first.followers.append(mine)
            return _again(await mine)
        self._under_way[name] = delivery
        try:
            accepted = await self._accept(delivery)
        except BaseException as error:
            failure = error if isinstance(error, Exception) else StoreUnavailableError()
            for waiting in delivery.followers:
                if not waiting.done():
                    waiting.set_exception(failure)
            raise
        else:
            for waiting in delivery.followers:
                if not waiting.done():
                    waiting.set_result(accepted)
            return accepted
        finally:
            del self._under_way[name]

    async def _accept(self, delivery: Delivery) -> Accepted:
        future = delivery.future = asyncio.get_running_loop().create_future()
        self._intake.put(delivery)
        try:
            told: Known | Receipt | None = await future
            if told is None:
                told = await self._writer.store(await self._handle(delivery))
        except PayloadInvalidError as error:
            if not delivery.submission.executions:
                raise
            # The database refuses one of the actions: the event is kept without any of them.
            dead = Disposition(status=EventStatus.DEAD, error=str(error))
            told = await self._writer.store(delivery.submit(_NO_WORK, dead))
        if isinstance(told, Known):
            self._compare(delivery, told.fingerprint)
            return told.accepted
        if told.duplicate_of is not None:  # another process was first
            if told.conflict:
                self._count_conflict(delivery)
            return await asyncio.to_thread(self._accepted_before, told.duplicate_of)
        return self._note(delivery, told.enqueued)

    def _note(self, delivery: Delivery, enqueued: tuple[Enqueued, ...]) -> Accepted:
        event, disposition = delivery.event, delivery.disposition
        for one in enqueued:
            if one.conflict:
                self.conflicts += 1
                logger.warning(
                    "event %s: a key of trigger %s stands for execution %s, with another payload",
                    event.id, event.trigger_id, one.execution_id,
                )  # fmt: skip
        if disposition.status is EventStatus.FAILED:
            self._states.note_failure(delivery.trigger, disposition.error or "")
        elif disposition is COMPLETED:
            self._states.note_success(delivery.trigger)
        if disposition.delay is not None:
            self._on_pending()
        ids = tuple([one.execution_id for one in enqueued])
        return Accepted(event.id, disposition.status, ids)

    def _compare(self, delivery: Delivery, fingerprint: str) -> None:
        """Look whether a key came again with another body; the first body is kept."""
        if fingerprint != delivery.fingerprint:
            self._count_conflict(delivery)

    def _count_conflict(self, delivery: Delivery) -> None:
        self.conflicts += 1
        logger.warning("trigger %s: a key came again with another body", delivery.trigger.id)

    def _accepted_before(self, event_id: str) -> Accepted:
        try:
            with self._store.read() as conn:
                return inbox.get_accepted(conn, self._store.dialect, [event_id])[event_id]
        except SQLAlchemyError as error:
            raise StoreUnavailableError(
                "The database can't answer now.", hint="Try again."
            ) from error

    async def _handle(self, delivery: Delivery) -> Submission:
        """Do on the loop what is left to do for a new delivery."""
        trigger = delivery.trigger
        error: NetscriptError
        if delivery.given_up and not delivery.called:
            # So much was before it that its handler's turn never came: that is no failure of its.
            return delivery.submit(_NO_WORK, _PENDING)
        if delivery.given_up:
            error = took_too_long(INLINE_SECONDS)
        else:
            try:
                if delivery.begun is None:
                    ran = self._handlers.run(trigger, delivery.event, limit=INLINE_SECONDS)
                else:
                    ran = self._handlers.finish(trigger, delivery.begun, limit=INLINE_SECONDS)
                return delivery.submit(*await resolve_of(delivery.event, await ran, self._catalog))
            except NetscriptError as raised:
                error = raised
        return delivery.submit(_NO_WORK, after_failure(trigger, error, attempt=1))

    # In the intake's threads.

    def _look_up(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Answer what is known; of the rest return those whose handler is called here."""
        try:
            known = self._find({one.name for one in deliveries if one.name is not None})
        except Exception as error:  # noqa: BLE001 - whatever it is, it is theirs to know
            answer_all((one.future, error) for one in deliveries)
            return ()
        answers: list[tuple[asyncio.Future[Any], Any]] = []
        ready: list[Delivery] = []
        here: list[Delivery] = []
        for one in deliveries:
            found = None if one.name is None else known.get(one.name)
            trigger = one.trigger
            if found is not None:
                answers.append((one.future, found))
            elif trigger.events and not is_wanted(trigger.events, one.event.event_type):
                one.submit(_NO_WORK, FILTERED)
                ready.append(one)
            elif trigger.dispatch == "background" or self._states.is_open(trigger.id):
                one.submit(_NO_WORK, _PENDING)
                ready.append(one)
            elif trigger.is_async:
                answers.append((one.future, None))
            else:
                here.append(one)
        answer_all(answers)
        self._pass_on(ready)
        return here

    def _find(self, names: Set[Name]) -> Mapping[Name, Known]:
        try:
            with self._store.read() as conn:
                now = self._store.now(conn)
                return inbox.find(conn, self._store.dialect, names, now)
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            logger.warning("duplicates could not be looked up: %s", type(cause).__name__)
            raise StoreUnavailableError(
                "The database can't answer now.", hint="Try again."
            ) from error

    def _handle_here(self, delivery: Delivery) -> Callable[[], None] | None:
        """Call a `def` handler; return what keeps its outcome, None where the loop goes on."""
        try:
            handled = self._outcome_here(delivery)
        except BaseException as error:  # noqa: BLE001 - a policy's or a model's sys.exit(), say
            told = storable(describe(error), 500)
            handled = (_NO_WORK, Disposition(status=EventStatus.DEAD, error=told))
        if handled is None:
            answer_all([(delivery.future, None)])
            return None

        def keep() -> None:
            delivery.submit(*handled)

        return keep

    def _outcome_here(self, delivery: Delivery) -> Handled | None:
        trigger = delivery.trigger
        try:
            actions = call_here(trigger, delivery.event)
            if isinstance(actions, tuple):
                return resolve_now(delivery.event, actions, self._catalog)
        except NetscriptError as error:
            return _NO_WORK, after_failure(trigger, error, attempt=1)
        delivery.begun = actions
        return None

    def _pass_on(self, deliveries: Sequence[Delivery]) -> None:
        some: list[tuple[Submission, asyncio.Future[Any]]] = []
        size = 0
        for one in deliveries:
            some.append((one.submission, one.future))
            size += len(one.event.body)
            if size > _BYTES_AT_A_TIME:  # PostgreSQL takes no message over a gigabyte
                self._writer.submit_all(some)
                some, size = [], 0
        if some:
            self._writer.submit_all(some)

    # On the loop.

    @staticmethod
    def _give_up(delivery: Delivery) -> None:
        if not delivery.future.done():
            delivery.future.set_result(None)


def _again(accepted: Accepted) -> Accepted:
    return Accepted(accepted.event_id, accepted.status, accepted.executions, duplicate=True)
