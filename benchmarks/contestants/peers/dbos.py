"""DBOS: an async workflow on a queue that takes 100 at a time and is polled ten times a second."""

from __future__ import annotations

import asyncio

import psycopg
from dbos import DBOS, DBOSClient, DBOSConfig

from benchmarks.contestants import kit


@DBOS.workflow(name="noop")
async def noop(sent: int) -> None:
    kit.ran(sent)


def launch() -> None:
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": kit.URL,
        "log_level": "ERROR",
        "application_version": "1",
    }
    DBOS(config=config)
    DBOS.launch()


class Dbos(kit.Contestant):
    def setup(self) -> None:
        launch()
        DBOS.register_queue("bench", worker_concurrency=kit.SLOTS, polling_interval_sec=0.1)

    def open(self) -> None:
        # A process that launched DBOS would run what it enqueues.
        self._client = DBOSClient(system_database_url=kit.URL)

    def put(self, sent: int) -> None:
        self._client.enqueue(
            {"workflow_name": "noop", "queue_name": "bench", "app_version": "1"}, sent
        )

    def fill(self, count: int) -> None:
        for number in range(count):
            self.put(number)

    def settled(self) -> int:
        return self._count("SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'")

    def waiting(self) -> int:
        return self._count("SELECT count(*) FROM dbos.workflow_status")

    def _count(self, statement: str) -> int:
        with psycopg.connect(kit.URL) as conn:
            return conn.execute(statement).fetchone()[0]

    async def work(self) -> None:
        launch()
        await asyncio.Event().wait()


if __name__ == "__main__":
    kit.main(Dbos())
