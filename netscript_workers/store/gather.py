"""Gathering: many callers, one thread, one call for whatever waited."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Generic, TypeVar, cast

from netscript_workers.errors import StoreUnavailableError

T = TypeVar("T")
R = TypeVar("R")


class _Waiters(Generic[R]):
    """Answers to the futures of one event loop, carried over in one call."""

    def __init__(self) -> None:
        self.answers: list[tuple[asyncio.Future[R], R | BaseException]] = []

    def deliver(self) -> None:
        for future, answer in self.answers:
            if future.done():  # its caller was cancelled meanwhile
                continue
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def answer_all(
    answered: Iterable[tuple[Future[R] | asyncio.Future[R], R | BaseException | Future[R]]],
) -> None:
    """Resolve futures from a thread, those of an event loop in one call into it.

    An answer that is a future itself comes later.
    """
    loops: dict[asyncio.AbstractEventLoop, _Waiters[R]] = {}
    for future, answer in answered:
        if isinstance(answer, Future):
            later = cast("Future[R]", answer)
            later.add_done_callback(partial(_pass_on, future))
        elif isinstance(future, asyncio.Future):
            loops.setdefault(future.get_loop(), _Waiters()).answers.append((future, answer))
        elif future.set_running_or_notify_cancel():
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)
    for loop, waiters in loops.items():
        try:
            loop.call_soon_threadsafe(waiters.deliver)
        except RuntimeError:  # the loop was closed; nobody is waiting any more
            continue


def _pass_on(to: Future[R] | asyncio.Future[R], done: Future[R]) -> None:
    error = done.exception()
    answer_all([(to, done.result() if error is None else error)])


class Gatherer(Generic[T, R]):
    """Gives a function all items that were submitted while it was busy with the last ones.

    There is no timer: an item that comes alone is worked on at once, and the busier it gets, the
    larger the batches.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[list[T]], Sequence[R | BaseException | Future[R]]],
        *,
        max_batch: int = 512,
    ) -> None:
        """Prepare; `start()` starts the thread.

        Args:
            name: Of the thread.
            work: Gets up to `max_batch` items, answers each in its place, with a future where
                the answer comes later. What it raises is everybody's answer.
            max_batch: How many items one call gets at most.
        """
        self._work = work
        self._max_batch = max_batch
        self._items: deque[tuple[T, Future[R] | asyncio.Future[R]]] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Finish what was submitted, then end. More is refused from now on."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, item: T) -> Future[R]:
        """Hand in an item from any thread.

        Raises:
            StoreUnavailableError: It was closed.
        """
        future: Future[R] = Future()
        self._put([(item, future)])
        return future

    def submit_all(self, items: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        """Hand in items together, from any thread, each with the future that gets its answer."""
        try:
            self._put(items)
        except StoreUnavailableError as error:
            answer_all((future, error) for _, future in items)

    async def call(self, item: T) -> R:
        """Hand in an item and wait for its answer.

        Raises:
            StoreUnavailableError: It was closed.
        """
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._put([(item, future)])
        return await future

    def _put(self, items: Sequence[tuple[T, Future[R] | asyncio.Future[R]]]) -> None:
        with self._ready:
            if self._closed:
                raise StoreUnavailableError("The process is shutting down.")
            self._items.extend(items)
            self._ready.notify()

    def _run(self) -> None:
        while batch := self._next_batch():
            answers: Sequence[R | BaseException | Future[R]]
            try:
                answers = self._work([item for item, _ in batch])
            except BaseException as error:  # noqa: BLE001 - it is the callers' to see
                answers = [error] * len(batch)
            answer_all((future, answer) for (_, future), answer in zip(batch, answers, strict=True))

    def _next_batch(self) -> list[tuple[T, Future[R] | asyncio.Future[R]]]:
        with self._ready:
            while not self._items and not self._closed:
                self._ready.wait()
            size = min(len(self._items), self._max_batch)
            return [self._items.popleft() for _ in range(size)]
