"""chancy: its executor for async handlers, and polling again as soon as a job ends."""

from __future__ import annotations

import logging

import psycopg
from chancy import Chancy, Queue, Worker, job

from benchmarks.contestants import kit

QUIET = logging.getLogger("chancy-quiet")


@job()
async def noop(*, sent: int) -> None:
    kit.ran(sent)


class ChancyContestant(kit.Contestant):
    def _app(self) -> Chancy:
        return Chancy(kit.URL, log=QUIET)

    async def setup(self) -> None:
        async with self._app() as app:
            await app.migrate()
            await app.declare(
                Queue(
                    "default",
                    concurrency=kit.SLOTS,
                    executor=Chancy.Executor.Async,
                    polling_interval=1,
                    eager_polling=True,
                )
            )

    async def open(self) -> None:
        self._chancy = await self._app().__aenter__()

    async def put(self, sent: int) -> None:
        await self._chancy.push(noop.job.with_kwargs(sent=sent))

    async def fill(self, count: int) -> None:
        jobs = [noop.job.with_kwargs(sent=number) for number in range(count)]
        async for _ in self._chancy.push_many(jobs, batch_size=kit.BATCH):
            pass

    def settled(self) -> int:
        return self._count("SELECT count(*) FROM chancy_jobs WHERE state = 'succeeded'")

    def waiting(self) -> int:
        return self._count("SELECT count(*) FROM chancy_jobs")

    def _count(self, statement: str) -> int:
        with psycopg.connect(kit.URL) as conn:
            return conn.execute(statement).fetchone()[0]

    async def work(self) -> None:
        async with self._app() as app, Worker(app) as worker:
            await worker.wait_for_shutdown()


if __name__ == "__main__":
    # It finds a job by its importable name, which __main__ is not in the worker.
    from benchmarks.contestants.peers.chancy import ChancyContestant as Importable

    kit.main(Importable())
