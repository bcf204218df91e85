"""taskiq on a Redis list, its quickest broker; a worker that dies loses what it had taken."""

from __future__ import annotations

import redis
from taskiq.api import run_receiver_task
from taskiq_redis import ListQueueBroker

from benchmarks.contestants import kit

broker = ListQueueBroker(kit.URL)


@broker.task(task_name="noop")
async def noop(sent: int) -> None:
    kit.ran(sent)


class Taskiq(kit.Contestant):
    async def open(self) -> None:
        await broker.startup()

    async def put(self, sent: int) -> None:
        await noop.kiq(sent)

    async def fill(self, count: int) -> None:
        for number in range(count):
            await noop.kiq(number)

    def settled(self) -> int:
        return kit.handled() - self.waiting()

    def waiting(self) -> int:
        with redis.Redis.from_url(kit.URL) as conn:
            return conn.llen("taskiq")

    async def work(self) -> None:
        broker.is_worker_process = True
        await broker.startup()
        await run_receiver_task(broker, max_async_tasks=kit.SLOTS, max_prefetch=kit.SLOTS)


if __name__ == "__main__":
    kit.main(Taskiq())
