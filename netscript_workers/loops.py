"""The event loops of our own processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def run_loop(main: Callable[[], Any]) -> Any:
    """Run on uvloop where it is installed; it costs a third less per execution."""
    try:
        from uvloop import new_event_loop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.run(main())
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main())


class LoopThread:
    """A loop in a thread of its own, where other threads have something done."""

    def __init__(self, name: str) -> None:
        """Prepare; the thread starts when it is first needed."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._lock = threading.Lock()
        self._calls: set[Future[Any]] = set()

    def call(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """Do this there, and return what it returns.

        Args:
            work: What is awaited there.
            seconds: How long to wait for it; then it is cancelled.

        Raises:
            TimeoutError: It took longer.
            concurrent.futures.CancelledError: The loop was closed meanwhile.
        """
        with self._lock:
            if not self._thread.is_alive():
                self._thread.start()
            done = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._calls.add(done)
        try:
            return done.result(seconds)
        except TimeoutError:
            done.cancel()
            raise
        finally:
            with self._lock:
                self._calls.discard(done)

    def close(self) -> None:
        """End the loop, whatever is under way there; nothing is called after this."""
        with self._lock:
            for call in self._calls:
                call.cancel()
            if self._thread.is_alive():
                self._loop.call_soon_threadsafe(self._loop.stop)
            else:
                self._loop.close()

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()
