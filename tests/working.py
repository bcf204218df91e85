"""A real worker in the test's own loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from netscript_workers import JobDefinition, enqueue_job
from netscript_workers.actions import Cause, EnqueueJob, resolve
from netscript_workers.assignment import WorkerOptions
from netscript_workers.domain import TriggeredBy
from netscript_workers.records import ExecutionDetail
from netscript_workers.store import cancelling
from netscript_workers.store.definitions import StoredCatalog
from netscript_workers.store.engine import Store
from netscript_workers.store.wake import make_bell
from netscript_workers.worker import Worker
from tests.kit import detail, put
from tests.support import eventually_async


class Running:
    """A worker that runs in this loop."""

    def __init__(
        self,
        store: Store,
        worker: Worker,
        task: asyncio.Task[list[str]],
        jobs: Mapping[str, JobDefinition[Any, Any]],
    ) -> None:
        self.store, self.worker, self.task, self.jobs = store, worker, task, jobs

    async def run(
        self, definition: JobDefinition[Any, Any], payload: Any = None, **options: Any
    ) -> ExecutionDetail:
        """Enqueue a job and wait for its end."""
        return await self.ended(self.enqueue(definition, payload, **options))

    def enqueue(
        self, definition: JobDefinition[Any, Any], payload: Any = None, **options: Any
    ) -> str:
        return self._put(enqueue_job(definition, payload, **options))

    def enqueue_by_name(self, job_id: str, payload: Any = None, **options: Any) -> str:
        """Enqueue one of the worker's jobs."""
        return self.enqueue(self.jobs[job_id], payload, **options)

    def _put(self, action: EnqueueJob[Any]) -> str:
        execution = resolve(action, None, Cause(triggered_by=TriggeredBy.API))
        (told,) = put(self.store, execution)
        self.ring()
        return told.execution_id

    def ring(self) -> None:
        bell = make_bell(self.store.parsed_url)
        bell.ring()
        bell.close()

    def cancel(self, execution_id: str) -> None:
        """Cancel an execution as the API does."""
        cancelling.cancel(self.store, execution_id)
        self.ring()

    async def shows_progress(self, execution_id: str, seconds: float = 10.0) -> str:
        """Wait until an execution shows progress; return its message."""

        def look() -> str | None:
            progress = detail(self.store, execution_id).execution.progress
            return progress.message if progress is not None else None

        found = await eventually_async(look, seconds, f"progress of {execution_id}")
        assert found is not None
        return found

    async def ended(
        self, execution_id: str, *statuses: str, seconds: float = 10.0
    ) -> ExecutionDetail:
        wanted = statuses or ("completed", "failed", "cancelled")

        def look() -> ExecutionDetail | None:
            found = detail(self.store, execution_id)
            return found if found.execution.status in wanted else None

        found = await eventually_async(look, seconds, f"{execution_id} being {wanted}")
        assert found is not None
        return found


@contextlib.asynccontextmanager
async def working(
    store: Store, *jobs: JobDefinition[Any, Any], **options: Any
) -> AsyncGenerator[Running]:
    known = {one.id: one for one in jobs}
    options = {"concurrency": 10, "grace": 2.0, **options}
    worker = Worker(store, known, WorkerOptions(**options), StoredCatalog(store, known))
    task = asyncio.create_task(worker.run())
    await eventually_async(worker.started.is_set)
    try:
        yield Running(store, worker, task, known)
    finally:
        worker.stop()
        await asyncio.gather(task, return_exceptions=True)
