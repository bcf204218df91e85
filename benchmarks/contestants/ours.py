"""netscript itself: through its public API, and its worker as the command starts it."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from benchmarks.contestants import kit
from netscript_workers import configure_sqlite, enqueue, enqueue_job
from netscript_workers.app import run_worker
from netscript_workers.registry import discover_jobs
from netscript_workers.settings import Settings
from netscript_workers.store import definitions
from netscript_workers.store.engine import Store
from netscript_workers.store.migrations import upgrade

PROJECT = Path(__file__).parents[1] / "project"


class Ours(kit.Contestant):
    """`enqueue(session, ...)`, committed; `netscript worker`."""

    def setup(self) -> None:
        upgrade(kit.URL)
        store = Store(kit.URL)
        definitions.register(store, discover_jobs(PROJECT).values())
        store.dispose()

    def open(self) -> None:
        self._noop = discover_jobs(PROJECT)["noop"]
        self._engine = create_engine(kit.URL.replace("postgresql://", "postgresql+psycopg://"))
        if self._engine.dialect.name == "sqlite":
            configure_sqlite(self._engine)

    def put(self, sent: int) -> None:
        with Session(self._engine) as session:
            enqueue(session, enqueue_job(self._noop, {"sent": sent}))
            session.commit()

    def fill(self, count: int) -> None:
        for start in range(0, count, kit.BATCH):
            numbers = range(start, min(start + kit.BATCH, count))
            with Session(self._engine) as session:
                enqueue(session, *(enqueue_job(self._noop, {"sent": n}) for n in numbers))
                session.commit()

    def settled(self) -> int:
        return self._count(
            "SELECT count(*) FROM netscript_execution_history WHERE status='completed'"
        )

    def waiting(self) -> int:
        return self._count("SELECT count(*) FROM netscript_executions")

    def _count(self, statement: str) -> int:
        if not hasattr(self, "_engine"):
            self.open()
        with self._engine.connect() as conn:
            return int(conn.execute(text(statement)).scalar_one())

    def work(self) -> None:
        run_worker(Settings.load(PROJECT, database_url=kit.URL, concurrency=kit.SLOTS))

    def pool(self, count: int) -> None:
        runtime = os.environ["BENCH_RUNTIME"]
        given = {"database_url": kit.URL, "concurrency": kit.SLOTS, "runtime": runtime}
        run_worker(Settings.load(PROJECT, **given))

    def has_settled(self, count: int) -> bool:
        return self.settled() >= count


if __name__ == "__main__":
    kit.main(Ours())
