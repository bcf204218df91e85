"""The worker process, composed: settings, database, definitions, worker, signals."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, NoReturn, TypeAlias

from netscript_workers import __version__
from netscript_workers.assignment import WorkerOptions
from netscript_workers.errors import ConfigurationError, WorkerFencedError
from netscript_workers.execution.runners.pool import Recycling
from netscript_workers.jobs import JobDefinition
from netscript_workers.loops import run_loop
from netscript_workers.memory import spare_what_stays
from netscript_workers.registry import discover_jobs
from netscript_workers.scheduler import (
    JOB,
    MoreSchedules,
    Scheduler,
    Schedules,
    declared_jobs,
    job_target,
)
from netscript_workers.settings import Settings
from netscript_workers.store import definitions, migrations, topics
from netscript_workers.store.definitions import StoredCatalog
from netscript_workers.store.engine import Store
from netscript_workers.store.retention import Retention
from netscript_workers.store.wake import make_bell
from netscript_workers.telemetry.wiring import Tracing, start_tracing
from netscript_workers.worker import Worker

logger = logging.getLogger(__name__)

# How long threads that have nothing more to do may take to end.
_LAST_SECONDS = 1.0
# Python waits for threads of a pool even where they are daemons, as those of a daemon's pool are.
_POOLS = ("netscript-feed", "netscript-handler", "netscript-schedule")
HOUR = 3_600_000_000

Jobs: TypeAlias = Mapping[str, JobDefinition[Any, Any]]


def open_store(settings: Settings, *, patience: float | None = None) -> Store:
    """Open the project's database, which must have the schema of this version.

    Args:
        settings: The project's.
        patience: Seconds that a transaction waits for its turn on SQLite; by default 30.

    Raises:
        SchemaOutdatedError: It has another schema, or none.
        StoreUnavailableError: It can't be reached.
        ConfigurationError: The URL can't be used.
    """
    store = Store(settings.url) if patience is None else Store(settings.url, patience=patience)
    try:
        migrations.check(store)
    except BaseException:
        store.dispose()
        raise
    return store


def worker_options(settings: Settings, *, has_folder: bool = True) -> WorkerOptions:
    """Return a worker's options from the project's settings.

    Args:
        settings: The project's.
        has_folder: Whether processes of their own find its jobs in its folder.
    """
    completed, failed = settings.retention_days
    return WorkerOptions(
        concurrency=settings.slots,
        topics=settings.served_topics,
        topic_rules=settings.topic_rules,
        heartbeat=settings.heartbeat_seconds,
        lease=settings.lease_seconds,
        grace=settings.shutdown_timeout,
        window=round(settings.idempotency_hours * HOUR),
        retention=Retention(completed=completed, failed=failed),
        scheduler=settings.scheduler,
        version=__version__,
        project=(settings.project_dir, settings.jobs_dir) if has_folder else None,
        tasks_dir=settings.tasks_dir,
        runtime=settings.runtime,
        kill_grace=settings.kill_grace,
        recycling=Recycling(runs=settings.recycle_runs, bytes=settings.recycle_mib * 2**20),
        task_slots=settings.task_concurrency,
        folder=settings.project_dir,
        keep_logs=logging.getLevelNamesMapping()[settings.log_level.upper()],
    )


def run_worker(settings: Settings, schedules: MoreSchedules | None = None) -> int:
    """Run a worker until it is told to stop; return the exit code.

    The first SIGTERM or SIGINT lets running executions finish, as long as `shutdown_timeout`
    allows; the second ends the process at once, and its executions are rescued.

    Args:
        settings: The project's.
        schedules: Which schedules there are besides those of jobs.

    Raises:
        NetscriptError: It can't start; the sentence says why.
    """
    tracing = start_tracing("worker")
    store, jobs = open_project(settings)
    spare_what_stays()
    try:
        run_loop(lambda: _work(store, jobs, worker_options(settings), schedules, tracing))
    finally:
        tracing.close()
    store.dispose()
    return ended(0)


def run_scheduler(settings: Settings, schedules: MoreSchedules | None = None) -> int:
    """Fire schedules, and run nothing, until told to stop; return the exit code.

    The first SIGTERM or SIGINT lets it finish what it fires and say goodbye, as long as
    `shutdown_timeout` allows; the second ends the process at once.

    Args:
        settings: The project's.
        schedules: Which schedules there are besides those of jobs.

    Raises:
        NetscriptError: It can't start; the sentence says why.
    """
    tracing = start_tracing("scheduler")
    store, jobs = open_project(settings)
    bell = make_bell(store.parsed_url)
    more = Schedules() if schedules is None else schedules(store, StoredCatalog(store, jobs))
    scheduler = Scheduler(
        store,
        [*declared_jobs(jobs.values()), *more.declared],
        {JOB: job_target(jobs), **more.targets},
        window=round(settings.idempotency_hours * HOUR),
        on_fired=bell.ring,
    )
    logger.info(
        "scheduler %s knows %d jobs and %d triggers", scheduler.id, len(jobs), len(more.declared)
    )
    try:
        asyncio.run(_fire(scheduler, settings.shutdown_timeout))
    finally:
        tracing.close()
    bell.close()
    store.dispose()
    return ended(0)


def open_project(settings: Settings, jobs: Jobs | None = None) -> tuple[Store, Jobs]:
    """Open the database and make the project's jobs known there.

    Args:
        settings: The project's.
        jobs: Its jobs, if they are not those of its folder.

    Raises:
        NetscriptError: It can't be opened, or there are no jobs.
    """
    if jobs is None:
        jobs = discover_jobs(settings.project_dir, *settings.folders)
    if not jobs:
        raise ConfigurationError(
            f"There are no jobs in {settings.project_dir / settings.jobs_dir}.",
            hint="Write one there with @job, or name another folder in NETSCRIPT_JOBS_DIR.",
        )
    store = open_store(settings)
    try:
        definitions.register(store, jobs.values())
        for rule in settings.topic_rules:  # what the file does not limit is left as it is
            if rule.rate is not None:
                topics.set_rate(store, rule.name, rule.rate)
    except BaseException:
        store.dispose()
        raise
    return store, jobs


async def _work(
    store: Store,
    jobs: Jobs,
    options: WorkerOptions,
    schedules: MoreSchedules | None,
    tracing: Tracing,
) -> None:
    def give_up() -> None:
        _leave(1)

    worker = Worker(
        store, jobs, options, StoredCatalog(store, jobs), give_up=give_up, schedules=schedules
    )
    loop = asyncio.get_running_loop()
    told_before = False

    def stop(number: signal.Signals) -> None:
        nonlocal told_before
        if told_before:
            logger.warning("told twice: ending at once")
            _leave(128 + number)
        told_before = True
        logger.info("finishing what runs; once more ends at once")
        worker.stop(number.name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    try:
        left = await worker.run()
    except WorkerFencedError:
        tracing.close()
        _leave(1)
    if left or not (worker.report and worker.report.is_clean):
        tracing.close()
        # Only the end of the process stops them; the loop would wait for them first.
        _leave(0)


async def _fire(scheduler: Scheduler, patience: float) -> None:
    """Let it fire until a signal comes: a loop notices one whichever thread the system tells."""
    told = asyncio.Event()

    def stop(number: signal.Signals) -> None:
        if told.is_set():
            _leave(128 + number)
        logger.info("leaving; once more ends at once")
        told.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    scheduler.start()
    await told.wait()
    await asyncio.to_thread(scheduler.stop, patience)


def ended(code: int) -> int:
    """Return the exit code, once nothing keeps the process from ending.

    What hangs in a thread, such as a handler that nothing can end, would keep it for ever: then it
    ends here, at once.
    """
    deadline = time.monotonic() + _LAST_SECONDS
    for thread in threading.enumerate():
        is_waited_for = not thread.daemon or thread.name.startswith(_POOLS)
        if thread is not threading.current_thread() and is_waited_for:
            thread.join(max(deadline - time.monotonic(), 0.0))
            if thread.is_alive():
                logger.warning("ending although %s has not ended", thread.name)
                _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """End the process without waiting for threads that may never end."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
