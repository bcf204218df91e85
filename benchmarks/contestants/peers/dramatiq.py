"""dramatiq on Redis, one process with its usual eight threads: more of them are slower here."""

from __future__ import annotations

import os
import signal

import dramatiq as package
import redis
from dramatiq import cli
from dramatiq.brokers.redis import RedisBroker

from benchmarks.contestants import kit

THREADS = int(os.environ.get("BENCH_THREADS", "8"))

broker = RedisBroker(url=kit.URL)
package.set_broker(broker)


@package.actor(actor_name="noop")
def noop(sent: int) -> None:
    kit.ran(sent)


class Dramatiq(kit.Contestant):
    def put(self, sent: int) -> None:
        noop.send(sent)

    def fill(self, count: int) -> None:
        for number in range(count):
            noop.send(number)

    def settled(self) -> int:
        return kit.handled() - self.waiting()

    def waiting(self) -> int:
        with redis.Redis.from_url(kit.URL) as conn:
            return conn.hlen("dramatiq:default.msgs")

    def work(self) -> None:
        package.Worker(broker, worker_threads=THREADS).start()
        signal.pause()

    def pool(self, count: int) -> None:
        processes = ["--processes", str(kit.SLOTS), "--threads", "1"]
        line = [*processes, "--skip-logging", "benchmarks.contestants.peers.dramatiq"]
        cli.main(cli.make_argument_parser().parse_args(line))


if __name__ == "__main__":
    kit.main(Dramatiq())
