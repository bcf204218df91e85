"""arq on Redis: 100 jobs at a time, no results kept."""

from __future__ import annotations

import redis
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker, func

from benchmarks.contestants import kit

WHERE = RedisSettings.from_dsn(kit.URL) if kit.URL else RedisSettings()


async def noop(_ctx: dict[str, object], sent: int) -> None:
    kit.ran(sent)


class Arq(kit.Contestant):
    async def open(self) -> None:
        self._pool = await create_pool(WHERE)

    async def put(self, sent: int) -> None:
        await self._pool.enqueue_job("noop", sent)

    async def fill(self, count: int) -> None:
        for number in range(count):
            await self._pool.enqueue_job("noop", number)

    def settled(self) -> int:
        return kit.handled() - self.waiting()

    def waiting(self) -> int:
        with redis.Redis.from_url(kit.URL) as conn:
            return conn.zcard("arq:queue")

    async def work(self) -> None:
        worker = Worker(
            [func(noop, name="noop", keep_result=0)],
            redis_settings=WHERE,
            max_jobs=kit.SLOTS,
            poll_delay=0.05,
            handle_signals=False,
        )
        await worker.main()


if __name__ == "__main__":
    kit.main(Arq())
