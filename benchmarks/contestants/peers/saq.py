"""saq on Redis or PostgreSQL: 100 jobs at a time."""

from __future__ import annotations

import psycopg
import redis
from saq import Queue, Worker

from benchmarks.contestants import kit

ON_REDIS = kit.URL.startswith("redis")


async def noop(_ctx: dict[str, object], *, sent: int) -> None:
    kit.ran(sent)


class Saq(kit.Contestant):
    async def setup(self) -> None:
        queue = Queue.from_url(kit.URL)
        await queue.connect()
        await queue.disconnect()

    async def open(self) -> None:
        self._queue = Queue.from_url(kit.URL)
        await self._queue.connect()

    async def put(self, sent: int) -> None:
        await self._queue.enqueue("noop", sent=sent)

    async def fill(self, count: int) -> None:
        for number in range(count):
            await self._queue.enqueue("noop", sent=number)

    def settled(self) -> int:
        if not ON_REDIS:
            return self._count("SELECT count(*) FROM saq_jobs WHERE status = 'complete'")
        with redis.Redis.from_url(kit.URL) as conn:
            left = conn.llen("saq:default:queued") + conn.llen("saq:default:active")
        return kit.handled() - left

    def waiting(self) -> int:
        if not ON_REDIS:
            return self._count("SELECT count(*) FROM saq_jobs")
        with redis.Redis.from_url(kit.URL) as conn:
            return conn.llen("saq:default:queued")

    def _count(self, statement: str) -> int:
        with psycopg.connect(kit.URL) as conn:
            return conn.execute(statement).fetchone()[0]

    async def work(self) -> None:
        queue = Queue.from_url(kit.URL)
        await queue.connect()
        await Worker(queue, functions=[noop], concurrency=kit.SLOTS).start()


if __name__ == "__main__":
    kit.main(Saq())
