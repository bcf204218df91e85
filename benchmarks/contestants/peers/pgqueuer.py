"""pgqueuer on asyncpg: all its tables logged, which is its default.

Batches of 100 with no limit on what runs at once: a limit costs it a third.
"""

from __future__ import annotations

import asyncio

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.contestants import kit


class Pgqueuer(kit.Contestant):
    async def setup(self) -> None:
        conn = await asyncpg.connect(kit.URL)
        await Queries.from_asyncpg_connection(conn).install()

    async def open(self) -> None:
        self._queries = Queries.from_asyncpg_connection(await asyncpg.connect(kit.URL))

    async def put(self, sent: int) -> None:
        await self._queries.enqueue("noop", str(sent).encode())

    async def fill(self, count: int) -> None:
        for start in range(0, count, kit.BATCH):
            numbers = range(start, min(start + kit.BATCH, count))
            await self._queries.enqueue(
                ["noop"] * len(numbers), [str(n).encode() for n in numbers], [0] * len(numbers)
            )

    def settled(self) -> int:
        return self._count("SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'")

    def waiting(self) -> int:
        return self._count("SELECT count(*) FROM pgqueuer")

    def _count(self, statement: str) -> int:
        async def count() -> int:
            conn = await asyncpg.connect(kit.URL)
            try:
                return await conn.fetchval(statement)
            finally:
                await conn.close()

        return asyncio.run(count())

    async def work(self) -> None:
        pool = await asyncpg.create_pool(kit.URL, min_size=2, max_size=4)
        pgq = PgQueuer.from_asyncpg_pool(pool)

        @pgq.entrypoint("noop")
        async def noop(job: Job) -> None:
            kit.ran(int(job.payload))

        await pgq.run(batch_size=kit.SLOTS)


if __name__ == "__main__":
    kit.main(Pgqueuer())
