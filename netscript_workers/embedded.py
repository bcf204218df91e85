"""The embedded form: a worker inside somebody's own program, such as a FastAPI application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from typing_extensions import TypedDict, Unpack

from netscript_workers.app import open_project, worker_options
from netscript_workers.domain import RuntimeName
from netscript_workers.errors import ConfigurationError, StateError, nearest
from netscript_workers.jobs import JobDefinition
from netscript_workers.registry import index_jobs
from netscript_workers.settings import Settings
from netscript_workers.shutdown import ShutdownReport
from netscript_workers.store.definitions import StoredCatalog
from netscript_workers.store.engine import Store
from netscript_workers.telemetry.metering import METERING
from netscript_workers.worker import Worker

RuntimeState: TypeAlias = Literal["new", "running", "shutting-down", "stopped"]

Jobs: TypeAlias = Mapping[str, JobDefinition[Any, Any]]


class WorkerSettings(TypedDict, total=False):
    """What an embedded worker can be given: the settings of a project, by their names."""

    project_dir: str | Path
    database_url: str
    jobs_dir: str
    concurrency: int
    runtime: RuntimeName
    kill_grace: float
    recycle_runs: int
    recycle_mib: int
    topics: str | Sequence[str]
    retention_days: float | tuple[float, float]
    idempotency_hours: float
    heartbeat_seconds: float
    lease_seconds: float
    scheduler: bool
    shutdown_timeout: float
    log_level: Literal["debug", "info", "warning", "error"]


class WorkerRuntime:
    """A worker that runs in the caller's loop. `start_workers` makes it.

    It installs no signal handlers and ends no process: the program stops it, or leaves its block.

    Example:
        async with await start_workers(database_url="sqlite:///app.db", jobs=[send_receipt]):
            ...
    """

    def __init__(self, store: Store, jobs: Jobs, settings: Settings, *, has_folder: bool) -> None:
        """Prepare a worker on a store, which is closed with it."""
        options = worker_options(settings, has_folder=has_folder)
        self._store = store
        self._worker = Worker(store, jobs, options, StoredCatalog(store, jobs))
        self._task: asyncio.Task[list[str]] | None = None

    @property
    def id(self) -> str:
        """The worker's id in the list of workers."""
        return self._worker.id

    @property
    def state(self) -> RuntimeState:
        """Where it stands."""
        if self._task is None:
            return "new"
        if self._task.done():
            return "stopped"
        return "shutting-down" if self._worker.is_leaving else "running"

    async def start(self) -> Self:
        """Start it; return when it is on the list of workers. A second call changes nothing.

        Raises:
            StateError: It was stopped: make another one.
            StoreUnavailableError: The database can't be reached.
        """
        if self.state in {"shutting-down", "stopped"}:
            raise StateError("This worker was stopped.", hint="Start another: start_workers(…).")
        if self._task is None:
            task = self._task = asyncio.create_task(self._run())
            started = asyncio.ensure_future(self._worker.started.wait())
            try:
                await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                await self.stop("cancelled")
                raise
            finally:
                started.cancel()
            if task.done():
                task.result()
        return self

    async def stop(self, reason: str | None = None) -> ShutdownReport:
        """Let what runs finish, within `shutdown_timeout`, and leave.

        Args:
            reason: Why; it stands in the log.

        Returns:
            What has stopped, failed and timed out. An execution in a thread that does not end in
            time goes on in it, and its result is refused; the report says so.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._never())
        self._worker.stop(reason)
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.exception()  # wait() raises it, and the log has it
        return self._report()

    async def wait(self) -> ShutdownReport:
        """Wait until it has stopped, for whatever reason; cancelling this stops it.

        Raises:
            WorkerFencedError: It lost its lease, and with it all that it ran.
        """
        if self._task is None:
            raise StateError("This worker was not started.", hint="Call start() first.")
        try:
            await asyncio.wait({self._task})
        except asyncio.CancelledError:
            await self.stop("cancelled")
            raise
        with contextlib.suppress(asyncio.CancelledError):
            self._task.result()
        return self._report()

    async def __aenter__(self) -> Self:
        """Start it, if that has not been done."""
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        await self.stop("the end of its block" if error is None else type(error).__name__)

    async def _run(self) -> list[str]:
        try:
            return await self._worker.run()
        finally:
            self._store.dispose()

    async def _never(self) -> list[str]:
        self._store.dispose()
        return []

    def _report(self) -> ShutdownReport:
        return self._worker.report or ShutdownReport("stopped")


async def start_workers(
    auto_start: bool = True,  # noqa: FBT001, FBT002 - its place in the signature is a promise
    *,
    jobs: Sequence[JobDefinition[Any, Any]] | None = None,
    **settings: Unpack[WorkerSettings],
) -> WorkerRuntime:
    """Run a worker in this loop, inside a program of your own.

    Settings that are not given come from the environment and the project's file, as for
    `netscript worker`.

    Args:
        auto_start: Whether to start it; else `start()` does.
        jobs: The jobs it runs; by default those of the project's folder. Without a folder jobs run
            in this process only.
        **settings: Settings by their names, such as `database_url` and `concurrency`.

    Raises:
        ConfigurationError: A setting can't be used, or there are no jobs.
        SchemaOutdatedError: The database was not migrated.
        StoreUnavailableError: It can't be reached.
    """
    given = dict[str, Any](settings)
    unknown = given.keys() - WorkerSettings.__annotations__.keys()
    if unknown:
        name = min(unknown)
        close = nearest(name, WorkerSettings.__annotations__)
        raise ConfigurationError(
            f'There is no setting "{name}".',
            hint=f'Did you mean "{close}"?' if close else None,
        )
    place = given.pop("project_dir", None)
    known = Settings.load(None if place is None else Path(place), **given)
    listed = None if jobs is None else index_jobs(jobs)
    store, found = await asyncio.to_thread(open_project, known, listed)
    METERING.settle()
    try:
        runtime = WorkerRuntime(store, found, known, has_folder=jobs is None)
    except BaseException:
        store.dispose()
        raise
    return await runtime.start() if auto_start else runtime
