"""The worker: claims executions, runs them, stores how they end, and stops in good order."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from netscript_workers.actions import JobCatalog
from netscript_workers.crews import Crew, check_project
from netscript_workers.errors import WorkerFencedError
from netscript_workers.heartbeat import Heartbeat
from netscript_workers.ids import new_id
from netscript_workers.jobs import JobDefinition
from netscript_workers.maintenance import Maintenance
from netscript_workers.pump import Pump, WorkerOptions
from netscript_workers.scheduler import JOB, Scheduler, declared_jobs, job_target
from netscript_workers.store import leases, lifelines
from netscript_workers.store.engine import Store
from netscript_workers.store.leases import WorkerRecord
from netscript_workers.store.lifelines import Lifeline
from netscript_workers.store.wake import Bell, make_bell

logger = logging.getLogger(__name__)

# How long handlers that were told to end may take for it.
_LAST_SECONDS = 0.5


class Worker:
    """One worker process's part of the work: an asyncio loop and a handful of threads.

    The loop's thread runs handlers. The tick's thread alone claims and stores how attempts end.
    Heartbeat and maintenance have threads of their own.
    """

    def __init__(
        self,
        store: Store,
        jobs: Mapping[str, JobDefinition[Any, Any]],
        options: WorkerOptions,
        catalog: JobCatalog | None = None,
        *,
        give_up: Callable[[], None] | None = None,
    ) -> None:
        """Prepare; `run()` does the work.

        Args:
            store: Where the work is.
            jobs: The jobs it knows, by id.
            options: How it works.
            catalog: Where actions that name a job by its id look it up.
            give_up: Ends the process. It is called when the lease is about to end and a handler
                keeps the loop from hearing of it.

        Raises:
            ConfigurationError: Jobs run in processes of their own, and there is no project in
                which those would find them.
        """
        check_project(jobs, options)
        self.id = new_id()
        self._store = store
        self._jobs = jobs
        self._options = options
        self._catalog = catalog
        self._stop_wanted = asyncio.Event()
        self._fenced: str | None = None
        self._give_up = give_up
        self._pump: Pump | None = None
        self._crew: Crew | None = None

    def stop(self) -> None:
        """Ask the worker to finish and leave. Call it on the loop's thread."""
        if self._pump is not None:
            self._pump.stop_claiming()
        self._stop_wanted.set()

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes that belong to it."""
        return [] if self._crew is None else self._crew.pids

    def cancel(self, execution_id: str) -> None:
        """End an execution that runs here, as `cancelled`. Call it on the loop's thread.

        A `def` handler in a thread can only be asked, and holds its slot until it returns.
        """
        if self._crew is not None:
            self._crew.cancel(execution_id)

    async def run(self) -> list[str]:
        """Work until `stop()`; return the ids of executions that could not be ended.

        Those run in threads, which nothing can end, or don't let themselves be cancelled: they end
        with the process, and are rescued then.

        Raises:
            WorkerFencedError: The lease was lost, and with it every execution.
        """
        lifeline = Lifeline(lifelines.folder(self._store.parsed_url), self.id)
        record = WorkerRecord(
            id=self.id,
            version=self._options.version,
            concurrency=self._options.plan.capacity,
            jobs=tuple(sorted(self._jobs)),
            lifeline=lifeline.path,
        )
        await asyncio.to_thread(leases.register, self._store, record, self._options.lease)
        bell = make_bell(self._store.parsed_url)
        loop = asyncio.get_running_loop()
        pump = Pump(self._store, self.id, self._jobs, self._options, bell=bell, loop=loop)
        self._pump = pump
        crew = Crew(
            self._store, self.id, self._jobs, self._options, pump, lifeline.fileno(), self._catalog
        )
        self._crew = crew

        def fenced(reason: str) -> None:
            loop.call_soon_threadsafe(self._fence, reason, crew)
            if self._give_up is not None:
                last = threading.Timer(self._options.heartbeat / 2, self._give_up)
                last.daemon = True
                last.start()

        heartbeat = Heartbeat(
            self._store,
            self.id,
            interval=self._options.heartbeat,
            lease=self._options.lease,
            on_fenced=fenced,
        )
        maintenance = Maintenance(
            self._store,
            self.id,
            lifeline=lifeline.path,
            retention=self._options.retention,
            strangers=pump.strangers,
            on_rescued=pump.look,
            find_suspects=crew.isolation.look,
            on_kept=pump.use_marks,
        )
        scheduler = self._scheduler(pump, bell) if self._options.scheduler else None
        pump.start()
        heartbeat.start()
        maintenance.start()
        if scheduler is not None:
            scheduler.start()
        logger.info("worker %s runs %d jobs", self.id, len(self._jobs))
        try:
            await self._stop_wanted.wait()
            return await self._leave(pump, crew, lifeline)
        finally:
            # Who lost the lease may have lost the network: its threads wait for answers in vain.
            patience = None if self._fenced is None else _LAST_SECONDS
            parts = [maintenance.stop, pump.stop, heartbeat.stop]
            if scheduler is not None:
                parts.append(scheduler.stop)
            await asyncio.gather(*(asyncio.to_thread(stop, patience) for stop in parts))
            await crew.close()
            bell.close()

    def _scheduler(self, pump: Pump, bell: Bell) -> Scheduler:
        def fired() -> None:
            pump.look()
            bell.ring()

        declared = declared_jobs(self._jobs.values())
        return Scheduler(
            self._store, declared, {JOB: job_target(self._jobs)}, on_fired=fired, id=self.id
        )

    def _fence(self, reason: str, crew: Crew) -> None:
        logger.error("worker %s ends: %s", self.id, reason)
        self._fenced = reason
        crew.drop()
        self._stop_wanted.set()

    async def _leave(self, pump: Pump, crew: Crew, lifeline: Lifeline) -> list[str]:
        pump.stop_claiming()
        if self._fenced is not None:
            raise WorkerFencedError(f"The worker lost its lease: {self._fenced}.")
        await asyncio.to_thread(leases.set_state, self._store, self.id, "draining")

        await _until(lambda: crew.is_idle or self._fenced is not None, self._options.grace)
        crew.drain()
        await _until(lambda: crew.is_idle, _LAST_SECONDS)
        crew.kill()
        await _until(lambda: crew.is_drained, _LAST_SECONDS)
        left = crew.left
        await asyncio.to_thread(pump.stop)
        await crew.close()
        if left:
            logger.warning("%d executions run on and end with the process", len(left))
            return left
        await asyncio.to_thread(leases.deregister, self._store, self.id)
        lifeline.cut()
        return []


async def _until(check: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not check() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
