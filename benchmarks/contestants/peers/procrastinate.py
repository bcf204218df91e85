"""procrastinate on psycopg: 100 jobs at a time, LISTEN/NOTIFY."""

from __future__ import annotations

import procrastinate
import psycopg

from benchmarks.contestants import kit

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=kit.URL, max_size=20))


@app.task(name="noop")
async def noop(sent: int) -> None:
    kit.ran(sent)


class Procrastinate(kit.Contestant):
    async def setup(self) -> None:
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    async def open(self) -> None:
        await app.open_async()

    async def put(self, sent: int) -> None:
        await noop.defer_async(sent=sent)

    async def fill(self, count: int) -> None:
        for start in range(0, count, kit.BATCH):
            numbers = range(start, min(start + kit.BATCH, count))
            await noop.batch_defer_async(*({"sent": number} for number in numbers))

    def settled(self) -> int:
        return self._count("SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'")

    def waiting(self) -> int:
        return self._count("SELECT count(*) FROM procrastinate_jobs")

    def _count(self, statement: str) -> int:
        with psycopg.connect(kit.URL) as conn:
            return conn.execute(statement).fetchone()[0]

    async def work(self) -> None:
        async with app.open_async():
            await app.run_worker_async(concurrency=kit.SLOTS)


if __name__ == "__main__":
    kit.main(Procrastinate())
