"""rq on Redis, with the worker that does not fork for each job; it runs one job at a time."""

from __future__ import annotations

import logging

from redis import Redis
from rq import Queue, SimpleWorker
from rq.worker_pool import WorkerPool

from benchmarks.contestants import kit

connection = Redis.from_url(kit.URL) if kit.URL else Redis()


def noop(sent: int) -> None:
    kit.ran(sent)


class Rq(kit.Contestant):
    def open(self) -> None:
        self._queue = Queue(connection=connection)

    def put(self, sent: int) -> None:
        self._queue.enqueue("benchmarks.contestants.peers.rq.noop", sent, result_ttl=0)

    def fill(self, count: int) -> None:
        for number in range(count):
            self.put(number)

    def settled(self) -> int:
        queue = Queue(connection=connection)
        return kit.handled() - len(queue) - len(queue.started_job_registry)

    def waiting(self) -> int:
        return len(Queue(connection=connection))

    def work(self) -> None:
        SimpleWorker(["default"], connection=connection).work(logging_level=logging.ERROR)

    def pool(self, count: int) -> None:
        # Its own worker, which forks for each job.
        pool = WorkerPool(["default"], connection=connection, num_workers=kit.SLOTS)
        pool.start(logging_level="ERROR")

    def has_settled(self, count: int) -> bool:
        queue = Queue(connection=connection)
        return len(queue) + len(queue.started_job_registry) == 0


if __name__ == "__main__":
    kit.main(Rq())
