"""Group commit: whatever waits while one transaction commits goes into the next one together."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from netscript_workers.errors import NetscriptError, PayloadInvalidError, StoreUnavailableError
from netscript_workers.store import outbox
from netscript_workers.store.engine import Store
from netscript_workers.store.gather import Gatherer, answer_all
from netscript_workers.store.idempotency import DEFAULT_WINDOW
from netscript_workers.store.outbox import Receipt, Submission
from netscript_workers.telemetry import spans

logger = logging.getLogger(__name__)

# How long a batch waits for rows that somebody else's open transaction holds. Short: everybody
# in the batch waits with it.
BATCH_LOCK_TIMEOUT = 0.05
# How long the one item that needs those rows waits for them, alone.
ITEM_PATIENCE = 5.0
PATIENT_CONNECTIONS = 3


class Writer:
    """Stores submissions, many to a transaction, and answers each one by itself.

    One bad item must not fail its neighbours, and nobody's open transaction may stall them: a
    batch that meets a lock, a deadlock or data that can't be stored is rolled back and split, down
    to the item it is about. An item that waits for somebody's uncommitted key goes on alone, on
    connections reserved for that.
    """

    def __init__(
        self,
        store: Store,
        *,
        window: int = DEFAULT_WINDOW,
        on_commit: Callable[[], None] = lambda: None,
        patience: float = ITEM_PATIENCE,
    ) -> None:
        """Prepare; `start()` starts it.

        Args:
            store: Where to write.
            window: How long an idempotency key is kept, in microseconds.
            on_commit: Called after each commit, from the writing thread; must not block.
            patience: Seconds that an item may wait for others' transactions.
        """
        self._store = store
        self._window = window
        self._on_commit = on_commit
        self._patience = patience
        self._gatherer: Gatherer[Submission, Receipt] = Gatherer("netscript-writer", self._write)
        self._writing = threading.Lock()
        self._closed = False
        self._patient = ThreadPoolExecutor(
            PATIENT_CONNECTIONS, thread_name_prefix="netscript-writer-patient"
        )

    def start(self) -> None:
        """Start the writing thread."""
        self._gatherer.start()

    def close(self) -> None:
        """Store what was submitted, then end."""
        self._closed = True
        self._gatherer.close()
        self._patient.shutdown()

    def submit(self, submission: Submission) -> Future[Receipt]:
        """Hand in a submission from any thread; the future resolves after the commit."""
        return self._gatherer.submit(submission)

    def submit_all(self, submissions: Sequence[tuple[Submission, asyncio.Future[Receipt]]]) -> None:
        """Have submissions stored together, by this very thread if nobody writes just now.

        Args:
            submissions: Each with the future that is told.
        """
        if self._closed or not self._writing.acquire(blocking=False):
            self._gatherer.submit_all(submissions)
            return
        try:
            answers = self._work([submission for submission, _ in submissions])
        except BaseException as error:  # noqa: BLE001 - it is the callers' to see
            answers = [error] * len(submissions)
        finally:
            self._writing.release()
        answer_all(
            (future, answer) for (_, future), answer in zip(submissions, answers, strict=True)
        )

    def _write(self, batch: list[Submission]) -> list[Receipt | BaseException | Future[Receipt]]:
        with self._writing:
            return self._work(batch)

    async def store(self, submission: Submission) -> Receipt:
        """Store a submission; it is durable when this returns.

        Raises:
            StoreUnavailableError: The database did not take it; nothing of it is stored.
            PayloadInvalidError: The database can't hold such data; nothing of it is stored.
        """
        return await self._gatherer.call(submission)

    def _work(self, batch: list[Submission]) -> list[Receipt | BaseException | Future[Receipt]]:
        try:
            return [*self._commit(batch, BATCH_LOCK_TIMEOUT)]
        except DBAPIError as error:
            if len(batch) > 1 and self._is_about_some(error):
                half = len(batch) // 2
                return self._work(batch[:half]) + self._work(batch[half:])
            refusal = self._refusal(error)
            if isinstance(refusal, _ContendedError):
                return [self._wait_alone(submission, refusal) for submission in batch]
            return [refusal] * len(batch)
        except SQLAlchemyError as error:  # the pool timed out
            return [_unavailable(error)] * len(batch)

    def _wait_alone(
        self, submission: Submission, contended: _ContendedError
    ) -> Future[Receipt] | BaseException:
        try:
            return self._patient.submit(self._store_alone, submission, contended)
        except RuntimeError:  # closed
            return contended

    def _commit(self, batch: list[Submission], lock_timeout: float) -> list[Receipt]:
        recorder = spans.look()
        began = 0 if recorder is None else time.time_ns()
        with self._store.begin(lock_timeout=lock_timeout) as conn:
            now = self._store.now(conn)
            receipts = outbox.store(conn, self._store.dialect, batch, now=now, window=self._window)
        self._on_commit()
        if recorder is not None:
            told = zip(batch, receipts, strict=True)
            recorder.committed([(one.trace, receipt.enqueued) for one, receipt in told], began)
        return receipts

    def _store_alone(self, submission: Submission, contended: _ContendedError) -> Receipt:
        """Wait for the rows of one item where nobody else has to wait with it."""
        while (left := contended.since + self._patience - time.monotonic()) > 0:
            try:
                return self._commit([submission], left)[0]
            except DBAPIError as error:
                refusal = self._refusal(error)
                if not isinstance(refusal, _ContendedError):
                    raise refusal from error
        raise StoreUnavailableError(
            "Another transaction holds an idempotency key of this request.", hint="Try again."
        )

    def _is_about_some(self, error: DBAPIError) -> bool:
        """Tell whether splitting helps; SQLite's lock concerns every item alike."""
        dialect = self._store.dialect
        return dialect.is_bad_data(error) or (
            dialect.is_contention(error) and not self._store.is_sqlite
        )

    def _refusal(self, error: DBAPIError) -> NetscriptError:
        dialect = self._store.dialect
        if dialect.is_bad_data(error):
            logger.warning("data that can't be stored was refused: %s", type(error.orig).__name__)
            return PayloadInvalidError("The database can't hold this data.")
        if dialect.is_contention(error) and not self._store.is_sqlite:
            return _ContendedError("The rows are locked by another transaction.")
        return _unavailable(error)


class _ContendedError(StoreUnavailableError):
    """One item waits for somebody else's transaction."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.since = time.monotonic()


def _unavailable(error: SQLAlchemyError) -> StoreUnavailableError:
    cause = getattr(error, "orig", None) or error
    # The class alone: a driver's message may carry the statement's values.
    logger.warning("the database did not take a batch: %s", type(cause).__name__)
    return StoreUnavailableError("The database can't take this now.", hint="Try again.")
