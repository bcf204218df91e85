"""absurd: its async worker with 100 slots, polling ten times a second."""

from __future__ import annotations

import psycopg
from absurd_sdk import AsyncAbsurd
from absurdctl import BUNDLED_SCHEMA_SQL

from benchmarks.contestants import kit


class Absurd(kit.Contestant):
    async def setup(self) -> None:
        with psycopg.connect(kit.URL, autocommit=True) as conn:
            conn.execute(BUNDLED_SCHEMA_SQL)
        await AsyncAbsurd(kit.URL).create_queue("default")

    async def open(self) -> None:
        self._app = AsyncAbsurd(kit.URL)

        @self._app.register_task("noop")
        async def noop(params: dict[str, int], _ctx: object) -> None:
            kit.ran(params["sent"])

    async def put(self, sent: int) -> None:
        await self._app.spawn("noop", {"sent": sent})

    async def fill(self, count: int) -> None:
        for number in range(count):
            await self.put(number)

    def settled(self) -> int:
        return self._count("SELECT count(*) FROM absurd.t_default WHERE state = 'completed'")

    def waiting(self) -> int:
        return self._count("SELECT count(*) FROM absurd.t_default")

    def _count(self, statement: str) -> int:
        with psycopg.connect(kit.URL) as conn:
            return conn.execute(statement).fetchone()[0]

    async def work(self) -> None:
        await self.open()
        await self._app.start_worker(concurrency=kit.SLOTS, poll_interval=0.1)


if __name__ == "__main__":
    kit.main(Absurd())
