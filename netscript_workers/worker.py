"""The worker: claims executions, runs them, stores how they end, and stops in good order."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from netscript_workers.actions import JobCatalog
from netscript_workers.assignment import WorkerOptions
from netscript_workers.crews import Crew, check_project
from netscript_workers.errors import StateError, WorkerFencedError
from netscript_workers.heartbeat import Heartbeat
from netscript_workers.ids import new_id
from netscript_workers.jobs import JobDefinition
from netscript_workers.maintenance import Maintenance
from netscript_workers.pump import Pump
from netscript_workers.scheduler import (
    JOB,
    MoreSchedules,
    Scheduler,
    Schedules,
    declared_jobs,
    job_target,
)
from netscript_workers.shutdown import ShutdownManager, ShutdownReport, ShutdownResource
from netscript_workers.store import leases, lifelines
from netscript_workers.store.engine import Store
from netscript_workers.store.leases import WorkerRecord
from netscript_workers.store.lifelines import Lifeline
from netscript_workers.store.wake import Bell, make_bell
from netscript_workers.telemetry import working

logger = logging.getLogger(__name__)

# How long handlers that were told to end may take for it.
_LAST_SECONDS = 0.5
# How long each thread may take: the tick tries for five seconds to store what has ended.
_THREAD_SECONDS = 8.0
# What leaving takes at most, beside the grace that executions get.
_LEAVING_SECONDS = 30.0


class Worker:
    """One worker process's part of the work: an asyncio loop and a handful of threads.

    The loop's thread runs handlers. The tick's thread alone claims and stores how attempts end.
    Heartbeat and maintenance have threads and connections of their own.

    Attributes:
        id: New at every start.
        started: Set when it is on the list of workers.
        report: How everything in it has stopped; None before that.
    """

    def __init__(
        self,
        store: Store,
        jobs: Mapping[str, JobDefinition[Any, Any]],
        options: WorkerOptions,
        catalog: JobCatalog | None = None,
        *,
        give_up: Callable[[], None] | None = None,
        schedules: MoreSchedules | None = None,
    ) -> None:
        """Prepare; `run()` does the work.

        Args:
            store: Where the work is.
            jobs: The jobs it knows, by id.
            options: How it works.
            catalog: Where actions that name a job by its id look it up.
            give_up: Ends the process. It is called when the lease is about to end and a handler
                keeps the loop from hearing of it.
            schedules: Which schedules there are besides those of jobs; they need a catalog.

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
        self.started = asyncio.Event()
        self.report: ShutdownReport | None = None
        self._grace = options.grace
        self._left: list[str] = []
        self._lifeline: Lifeline | None = None
        self._stop_wanted = asyncio.Event()
        self._reason: str | None = None
        self._fenced: str | None = None
        self._give_up = give_up
        self._schedules = schedules
        self._pump: Pump | None = None
        self._crew: Crew | None = None

    def stop(self, reason: str | None = None) -> None:
        """Ask the worker to finish and leave. Call it on the loop's thread.

        Args:
            reason: Why; it stands in the log.
        """
        if self._pump is not None and self._crew is not None:
            self._take_no_more(self._pump, self._crew)
        self._reason = self._reason or reason
        self._stop_wanted.set()

    @property
    def is_leaving(self) -> bool:
        """Whether it was told to leave, or has to."""
        return self._stop_wanted.is_set()

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
        with the process, and are rescued then. `report` says what became of everything else.

        Raises:
            WorkerFencedError: The lease was lost, and with it every execution.
        """
        self._lifeline = Lifeline(lifelines.folder(self._store.parsed_url), self.id)
        plan = self._options.plan
        record = WorkerRecord(
            id=self.id,
            version=self._options.version,
            concurrency=plan.capacity,
            jobs=tuple(sorted(self._jobs)),
            lifeline=self._lifeline.path,
            served=plan.served,
            bounds=plan.bounds,
        )
        await asyncio.to_thread(leases.register, self._store, record, self._options.lease)
        manager = self._start(self._lifeline, asyncio.get_running_loop())
        self.started.set()
        logger.info("worker %s runs %d jobs", self.id, len(self._jobs))
        with working.watched(self._slots):
            try:
                await self._stop_wanted.wait()
            except asyncio.CancelledError:
                self._grace = 0.0  # whoever cancels waits for nothing that can be ended
                await self._leave(manager, "cancelled")
                raise
            await self._leave(manager, self._fenced or self._reason or "told to stop")
        if self._fenced is not None:
            raise WorkerFencedError(f"The worker lost its lease: {self._fenced}.")
        return self._left

    def _slots(self) -> tuple[int, int]:
        return (0, 0) if self._pump is None else self._pump.slots()

    def _start(self, lifeline: Lifeline, loop: asyncio.AbstractEventLoop) -> ShutdownManager:
        """Start everything; return who stops it in good order."""
        upkeep = self._store.apart()  # however busy handlers keep the pool
        bell = make_bell(self._store.parsed_url)
        pump = Pump(self._store, self.id, self._jobs, self._options, bell=bell, loop=loop)
        self._pump = pump
        crew = Crew(
            self._store,
            upkeep,
            self.id,
            self._jobs,
            self._options,
            pump,
            lifeline.fileno(),
            self._catalog,
        )
        self._crew = crew

        def fenced(reason: str) -> None:
            loop.call_soon_threadsafe(self._fence, reason, crew)
            if self._give_up is not None:
                last = threading.Timer(self._options.heartbeat / 2, self._give_up)
                last.daemon = True
                last.start()

        def drain() -> None:
            loop.call_soon_threadsafe(self._told_to_leave)

        heartbeat = Heartbeat(
            self._store,
            self.id,
            interval=self._options.heartbeat,
            lease=self._options.lease,
            on_fenced=fenced,
            is_stalled=lambda: pump.is_stalled,
            on_drain=drain,
        )
        maintenance = Maintenance(
            upkeep,
            self.id,
            lifeline=lifeline.path,
            retention=self._options.retention,
            strangers=pump.strangers,
            on_rescued=pump.look,
            find_suspects=crew.isolation.look,
            on_kept=pump.use_marks,
        )
        scheduler = self._scheduler(upkeep, pump, bell) if self._options.scheduler else None
        pump.when_to_drain(drain)
        pump.start()
        heartbeat.start()
        maintenance.start()
        if scheduler is not None:
            scheduler.start()

        def sign_off() -> None:
            if self._left:  # they are rescued when they end, which is with the process
                raise StateError("it stays on the list, for its executions run on")
            if self._fenced is None:
                leases.deregister(upkeep, self.id)
                lifeline.cut()

        manager = ShutdownManager(timeout=self._grace + _LEAVING_SECONDS)
        stops: list[tuple[int, str, Callable[[], Any]]] = [
            (0, "executions", partial(self._end_executions, upkeep, pump, crew)),
            (10, "tick", self._joining(pump.stop)),
            (10, "maintenance", self._joining(maintenance.stop)),
            (20, "runners", crew.close),
            # Whoever has left the list would be told that it was given up.
            (30, "heartbeat", self._joining(heartbeat.stop)),
            (40, "registration", sign_off),
            (50, "bell", bell.close),
            (60, "connections", upkeep.dispose),
        ]
        if scheduler is not None:
            stops.append((10, "scheduler", self._joining(scheduler.stop)))
        for priority, name, stop in stops:
            manager.register(ShutdownResource(name, stop, priority))
        return manager

    def _scheduler(self, store: Store, pump: Pump, bell: Bell) -> Scheduler:
        def fired() -> None:
            pump.look()
            bell.ring()

        more = Schedules()
        if self._schedules is not None and self._catalog is not None:
            more = self._schedules(store, self._catalog)
        return Scheduler(
            store,
            [*declared_jobs(self._jobs.values()), *more.declared],
            {JOB: job_target(self._jobs), **more.targets},
            window=self._options.window,
            on_fired=fired,
            id=self.id,
        )

    def _joining(self, stop: Callable[[float | None], bool]) -> Callable[[], None]:
        """Have a thread end, without waiting for one that waits for the network in vain."""

        def join() -> None:
            patience = _THREAD_SECONDS if self._fenced is None else _LAST_SECONDS
            if not stop(patience):
                raise StateError("it did not end in time")

        return join

    def _take_no_more(self, pump: Pump, crew: Crew) -> None:
        """Claim nothing more, and hand back at once what has not begun: it would only wait here."""
        pump.stop_claiming()
        crew.hand_back()

    def _told_to_leave(self) -> None:
        if not self._stop_wanted.is_set():
            logger.info("worker %s was told to leave: finishing what runs", self.id)
            self.stop("told to leave")

    def _fence(self, reason: str, crew: Crew) -> None:
        logger.error("worker %s ends: %s", self.id, reason)
        self._fenced = reason
        crew.drop()
        self._stop_wanted.set()

    async def _leave(self, manager: ShutdownManager, reason: str) -> None:
        self.report = await manager.shutdown(reason)
        level = logging.INFO if self.report.is_clean else logging.WARNING
        logger.log(level, "worker %s has left (%s); %s", self.id, reason, self.report)

    async def _end_executions(self, store: Store, pump: Pump, crew: Crew) -> None:
        """Let what runs finish; end what is left after the grace, and hand it back."""
        self._take_no_more(pump, crew)
        if self._fenced is not None:  # all were dropped, for others have them
            return
        try:
            await asyncio.to_thread(leases.set_state, store, self.id, "draining")
        except Exception as error:  # noqa: BLE001 - it leaves all the same
            cause = getattr(error, "orig", None) or error
            logger.warning("it can't be shown as draining: %s", type(cause).__name__)
        await _until(lambda: crew.is_idle or self._fenced is not None, self._grace)
        crew.drain()
        await _until(lambda: crew.is_idle, _LAST_SECONDS)
        crew.kill()
        await _until(lambda: crew.is_drained, _LAST_SECONDS)
        self._left = crew.left
        if self._left:
            raise StateError(f"{len(self._left)} executions run on and end with the process")


async def _until(check: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not check() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
