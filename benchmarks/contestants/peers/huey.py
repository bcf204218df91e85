"""huey on SQLite, Redis or PostgreSQL.

On SQLite its default is what SQLite's is, synchronous=FULL, as with `fsync=True`. Its threads are
few: more of them only fight for the interpreter and for the file.
"""

from __future__ import annotations

import os

import huey as package

from benchmarks.contestants import kit

SCHEME, _, REST = kit.URL.partition("://")
THREADS = int(os.environ.get("BENCH_THREADS", "4"))

if SCHEME == "sqlite":
    fsync = os.environ.get("BENCH_FSYNC", "1") == "1"
    app = package.SqliteHuey("bench", filename=REST.removeprefix("/"), fsync=fsync)
elif SCHEME == "redis":
    app = package.RedisHuey("bench", url=kit.URL)
else:
    app = package.PostgresHuey("bench", dsn=kit.URL)


@app.task()
def noop(sent: int) -> None:
    kit.ran(sent)


class Huey(kit.Contestant):
    def put(self, sent: int) -> None:
        noop(sent)

    def fill(self, count: int) -> None:
        for number in range(count):
            noop(number)

    def settled(self) -> int:
        # What has run leaves the queue when it starts, and None is not kept as a result.
        return kit.handled() - len(app)

    def waiting(self) -> int:
        return len(app)

    def work(self) -> None:
        consumer = app.create_consumer(workers=THREADS, initial_delay=0.01, max_delay=0.1)
        consumer.run()


if __name__ == "__main__":
    kit.main(Huey())
