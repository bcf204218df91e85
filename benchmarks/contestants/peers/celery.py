"""celery on Redis, in threads: in one process, as every contestant; its prefork pool is slower."""

from __future__ import annotations

import os

import celery as package
import redis

from benchmarks.contestants import kit

THREADS = os.environ.get("BENCH_THREADS", "10")

app = package.Celery("bench", broker=kit.URL, set_as_current=True)
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=10,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
)


@app.task(name="noop")
def noop(sent: int) -> None:
    kit.ran(sent)


class Celery(kit.Contestant):
    def put(self, sent: int) -> None:
        noop.delay(sent)

    def fill(self, count: int) -> None:
        for number in range(count):
            noop.delay(number)

    def settled(self) -> int:
        with redis.Redis.from_url(kit.URL) as conn:
            return kit.handled() - conn.llen("celery") - conn.hlen("unacked")

    def waiting(self) -> int:
        with redis.Redis.from_url(kit.URL) as conn:
            return conn.llen("celery")

    def work(self) -> None:
        self._start("threads", THREADS)

    def _start(self, pool: str, slots: str) -> None:
        line = ["worker", "--pool", pool, "--concurrency", slots]
        line += [
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            "--loglevel",
            "error",
        ]
        app.worker_main(line)

    def pool(self, count: int) -> None:
        self._start("prefork", str(kit.SLOTS))

    def has_settled(self, count: int) -> bool:
        with redis.Redis.from_url(kit.URL) as conn:
            return conn.llen("celery") + conn.hlen("unacked") == 0


if __name__ == "__main__":
    kit.main(Celery())
