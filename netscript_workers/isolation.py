"""Isolation: executions that must run alone, each in a process of its own.

A process that ran one execution and died is proof against it. It holds its worker's lifeline too,
so nobody takes the execution for lost before both are dead, and it ends with its worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from netscript_workers.children import Child, Order
from netscript_workers.domain import ClaimedExecution, Death, Outcome, Reason, Verdict
from netscript_workers.execution.outcome import not_begun
from netscript_workers.store import suspects
from netscript_workers.store.engine import Store

logger = logging.getLogger(__name__)

# What keeps a child from starting (no memory, a module that can't be imported) may pass.
_START_AGAIN_SECONDS = 5.0
_RECORD_AGAIN_SECONDS = 0.5


class Isolation:
    """Claims suspects, one after the other, and has each run in a process of its own.

    `look` is called by maintenance, `claim` by the tick, everything else on the loop's thread.
    """

    def __init__(
        self,
        store: Store,
        worker_id: str,
        *,
        jobs: Collection[str],
        topics: Sequence[str] | None,
        project: tuple[Path, str] | None,
        window: int,
        lifeline: int,
        loop: asyncio.AbstractEventLoop,
        on_end: Callable[[ClaimedExecution, Outcome | None], None],
        on_wanted: Callable[[], None],
    ) -> None:
        """Prepare.

        Args:
            store: Where suspects wait.
            worker_id: Who has them run.
            jobs: The ids of the jobs it knows.
            topics: The topics it serves; None for all.
            project: Where a child finds the jobs: the project's folder, and theirs in it.
            window: How long idempotency keys of actions are kept, in microseconds.
            lifeline: The descriptor of the worker's lifeline.
            loop: The worker's.
            on_end: Called on the loop with every end; without an outcome where it is stored.
            on_wanted: Called from any thread when there may be a suspect to claim.
        """
        self._store = store
        self._worker_id = worker_id
        self._jobs = json.dumps(sorted(jobs))
        self._topics = None if topics is None else json.dumps(list(topics))
        self._project = project
        self._window = window
        self._lifeline = lifeline
        self._loop = loop
        self._on_end = on_end
        self._on_wanted = on_wanted
        self._wanted = threading.Event()
        self._closed = threading.Event()
        self._leaving = False
        self._mine: set[str] = set()
        self._children: dict[str, Child] = {}

    @property
    def running(self) -> int:
        """How many executions run alone now."""
        return len(self._children)

    def look(self) -> bool:
        """Look for suspects that wait; tell whether there are any."""
        # Without a project a child would not find the jobs: then they are left to who has one.
        if self._project is None:
            return False
        found = suspects.any_waiting(self._store, self._jobs, self._topics)
        if found:
            self._want()
        return found

    def claim(self) -> ClaimedExecution | None:
        """Claim a suspect, if one is known to wait and there is a processor for it."""
        if not self._wanted.is_set() or len(self._mine) >= (os.cpu_count() or 1):
            return None
        found = suspects.claim(self._store, self._worker_id, self._jobs, self._topics)
        if found is None:
            self._wanted.clear()
        else:
            self._mine.add(found.id)
        return found

    def start(self, claim: ClaimedExecution) -> None:
        """Run a claimed suspect; one that comes when the worker stops goes back at once."""
        if self._leaving:
            self._over(claim, not_begun(claim))
            return
        place, folder = self._project or (Path(), "jobs")
        order = Order(
            claim=claim,
            worker_id=self._worker_id,
            url=self._store.parsed_url.render_as_string(hide_password=False),
            project=str(place),
            jobs_dir=folder,
            window=self._window,
            log_level=logging.getLogger().getEffectiveLevel(),
        )
        # Here and not in its thread: the kernel ends a child with the thread that started it.
        try:
            child = Child(self._lifeline)
        except OSError as error:
            self._over(claim, _not_started(claim, type(error).__name__))
            return
        self._children[claim.id] = child
        logger.warning("execution %s runs alone: %d workers died of it", claim.id, claim.losses)
        name = f"netscript-alone-{child.pid}"
        threading.Thread(target=self._attend, args=(child, order), name=name, daemon=True).start()

    def drain(self) -> None:
        """Have them end what can be ended; it is stored as not having had its turn."""
        self._leaving = True
        for child in self._children.values():
            child.drain()

    def kill(self) -> None:
        """End them now; what they ran has not had its turn."""
        for child in self._children.values():
            child.kill()

    def drop(self) -> None:
        """End them now; others have what they ran."""
        self._leaving = True
        self._closed.set()
        self.kill()

    def _want(self) -> None:
        self._wanted.set()
        self._on_wanted()

    def _attend(self, child: Child, order: Order) -> None:
        """Wait for a child, on a thread of its own, and see what its end means."""
        claim, outcome = order.claim, None
        try:
            outcome = self._outcome(child, order)
        finally:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._over, claim, outcome)

    def _outcome(self, child: Child, order: Order) -> Outcome | None:
        claim = order.claim
        child.give(order)
        death = child.wait()
        if self._closed.is_set() or child.has_stored:
            return None
        if child.was_killed or child.is_unsaved:
            return not_begun(claim)
        if not child.has_begun:
            return _not_started(claim, suspects.describe(death))
        logger.error("execution %s killed its process: %s", claim.id, suspects.describe(death))
        self._record(claim, death)
        return None

    def _record(self, claim: ClaimedExecution, death: Death) -> None:
        while True:
            try:
                suspects.record_crash(self._store, claim, death, self._worker_id)
            except Exception as error:  # noqa: BLE001 - until it is recorded, nobody knows of it
                cause = getattr(error, "orig", None) or error
                logger.warning("a crash could not be recorded yet: %s", type(cause).__name__)
                if self._closed.wait(_RECORD_AGAIN_SECONDS):
                    return
            else:
                return

    def _over(self, claim: ClaimedExecution, outcome: Outcome | None) -> None:
        self._children.pop(claim.id, None)
        self._mine.discard(claim.id)
        self._on_end(claim, outcome)
        self._want()  # it may be to run again, or others wait


def _not_started(claim: ClaimedExecution, told: str) -> Outcome:
    logger.error("execution %s must run alone, and no process starts: %s", claim.id, told)
    return Outcome(
        execution_id=claim.id,
        token=claim.token,
        verdict=Verdict.SNOOZE,
        reason=Reason.ALONE,
        delay=_START_AGAIN_SECONDS,
    )
