"""Claim latency: what stands in the database must not slow the claim of what is ready.

Each scene is a database of its own, with the same ready executions and something besides. The
scenes take turns claim by claim, so that all of them meet the same noise; what is printed are
medians of several such runs.

    python -m benchmarks.claim_latency [--quick] [--database sqlite|postgres|both]
"""

# ruff: noqa: S608 - it prints, and puts constants of its own together

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any, cast

import psycopg
from sqlalchemy import event, make_url, text

from netscript_workers.ids import new_id
from netscript_workers.store import leases, migrations, parking
from netscript_workers.store.engine import Store
from netscript_workers.store.leases import WorkerRecord
from netscript_workers.store.tick import Ticker, Work

ADMIN = os.environ.get(
    "NETSCRIPT_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres"
)
READY = 300
CLAIMS = 100
KEYS = 1000
BAR = 2.0

# Rows by the hundred thousand: one statement of the database's own, not one insert a row.
_SERIES = {
    "sqlite": "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < :count) "
    "SELECT n FROM s) AS s",
    "postgresql": "(SELECT n FROM generate_series(1, CAST(:count AS bigint)) AS g(n)) AS s",
}
_ID = {
    "sqlite": "printf('%08x-0000-7000-8000-%012x', :lot, n)",
    "postgresql": "CAST(lpad(to_hex(CAST(:lot AS int)), 8, '0') || '-0000-7000-8000-' "
    "|| lpad(to_hex(n), 12, '0') AS uuid)",
}
_COMMON = {
    "kind": "'job'",
    "job_id": "CAST(:job AS text)",
    "topic": "'default'",
    "status": "CAST(:status AS text)",
    "priority": "50",
    "payload": "CAST(:payload AS text)",
    "fingerprint": "'0'",
    "attempt": "1",
    "max_attempts": "3",
    "losses": "0",
    "strict_order": "false",
    "triggered_by": "'api'",
    "created_at": "CAST(:now AS bigint)",
}
_KEY_OF = "CASE WHEN CAST(:keys AS bigint) > 0 THEN 'key-' || (n % CAST(:keys AS bigint)) END"


class Scene:
    """One database: what is ready, and what stands beside it."""

    lots = 0

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.store = Store(url)
        self.mine = self.worker("work")
        self.whole: list[list[float]] = []
        self.before_commit: list[list[float]] = []
        self.claimed = 0
        self._commits_at = 0
        event.listen(self.store.engine, "commit", self._commits)

    def _commits(self, _conn: object) -> None:
        self._commits_at = time.perf_counter_ns()

    def worker(self, *jobs: str) -> Ticker:
        """Register a worker that lives through the measurement."""
        id_ = new_id()
        record = WorkerRecord(
            id=id_, version="1", concurrency=100, jobs=jobs, lifeline=Path("/nonexistent/x.lock")
        )
        leases.register(self.store, record, lease=86_400)
        return Ticker(self.store, worker_id=id_, jobs=dict.fromkeys(jobs, False))

    def live(self, count: int, job: str, status: str, **facts: Any) -> None:
        """Insert live executions in one statement."""
        told: dict[str, Any] = {"keys": 0, "run_in": 0, "sort_in": 0, "payload": "{}", **facts}
        columns = {
            "id": _ID[self.store.dialect.name],
            **_COMMON,
            "concurrency_key": _KEY_OF,
            "run_at": "CAST(:now AS bigint) + CAST(:run_in AS bigint)",
            "sort_at": "CAST(:now AS bigint) + CAST(:sort_in AS bigint) + n",
            "holds_key": "false",
            "parked": "false",
            "cancel_requested": "false",
        }
        self._insert("netscript_executions", columns, count, job=job, status=status, **told)

    def history(self, count: int) -> None:
        """Insert finished executions in one statement."""
        columns = {
            "id": _ID[self.store.dialect.name],
            **_COMMON,
            "run_at": "CAST(:now AS bigint)",
            "started_at": "CAST(:now AS bigint)",
            "finished_at": "CAST(:now AS bigint)",
            "result": "'{}'",
        }
        payload = json.dumps({"order_id": "order-000000000000", "amount_cents": 4200})
        facts = {"job": "work", "status": "completed", "payload": payload}
        self._insert("netscript_execution_history", columns, count, **facts)

    def _insert(self, table: str, columns: dict[str, str], count: int, **bound: Any) -> None:
        Scene.lots += 1
        names, values = ", ".join(columns), ", ".join(columns.values())
        sql = f"INSERT INTO {table} ({names}) SELECT {values} FROM "
        sql += _SERIES[self.store.dialect.name]
        with self.store.begin() as conn:
            now = self.store.now(conn) - 1_000_000
            told = {"count": count, "lot": Scene.lots, "now": now, **bound}
            statement = text(sql)
            named = statement.compile().params
            conn.execute(statement, {name: told[name] for name in named})

    def hold_keys(self) -> None:
        """Have somebody run the oldest blocked execution of every key."""
        holder = self.worker("keyed")
        with self.store.begin() as conn:
            conn.execute(
                text(
                    "INSERT INTO netscript_admissions (key) SELECT DISTINCT concurrency_key "
                    "FROM netscript_executions WHERE status = 'blocked'"
                )
            )
        asked = "SELECT count(*) FROM netscript_admissions"
        while True:
            holder.run(Work(slots=2 * KEYS, look=True))
            with self.store.read() as conn:
                if not conn.execute(text(asked)).scalar():
                    break
        with self.store.read() as conn:
            sql = "SELECT count(*) FROM netscript_executions WHERE status = 'queued'"
            assert conn.execute(text(sql)).scalar() == 0, "a key is free"

    def settle_down(self) -> None:
        """Leave nothing for autovacuum to do during the measurement."""
        if not self.store.is_sqlite:
            with self.store.read() as conn:
                conn.exec_driver_sql("VACUUM ANALYZE netscript_executions")
                conn.exec_driver_sql("VACUUM ANALYZE netscript_execution_history")

    def new_run(self) -> None:
        """Begin a run; its predecessors are kept."""
        self.whole.append([])
        self.before_commit.append([])

    def fill(self) -> None:
        """Make executions ready."""
        self.live(READY, "work", "queued")

    def claim(self, worker: Ticker | None = None) -> None:
        """Claim one execution and commit, with the clock running."""
        ticker = worker or self.mine
        work = Work(slots=1, look=True)
        began = time.perf_counter_ns()
        done = ticker.run(work)
        took = time.perf_counter_ns() - began
        assert len(done.claimed) == 1, f"{self.name}: nothing was claimed"
        assert done.claimed[0].job_id == "work"
        self.whole[-1].append(took / 1e6)
        self.before_commit[-1].append((self._commits_at - began) / 1e6)
        self.claimed += 1

    def explain(self) -> str:
        """Return the plan of the claim as it is sent."""
        sent: list[tuple[str, object]] = []

        def note(_c: object, _u: object, statement: str, bound: object, *_: object) -> None:
            sent.append((statement, bound))

        event.listen(self.store.engine, "before_cursor_execute", note)
        self.mine.run(Work(slots=1, look=True))
        event.remove(self.store.engine, "before_cursor_execute", note)
        statement, bound = next(one for one in sent if "SET status = 'running'" in one[0])
        asked = "EXPLAIN QUERY PLAN " if self.store.is_sqlite else "EXPLAIN (ANALYZE, BUFFERS) "
        with self.store.engine.connect() as conn:  # rolled back: ANALYZE claims
            found = conn.exec_driver_sql(asked + statement, cast("Any", bound)).all()
        return "\n".join(f"    {row[-1]}" for row in found)


def _nothing(scene: Scene) -> None:
    """The store that the others are compared with."""


def _blocked(count: int, keys: int) -> Callable[[Scene], None]:
    def load(scene: Scene) -> None:
        scene.live(count, "keyed", "blocked", keys=keys)
        scene.hold_keys()

    return load


def _strangers(count: int) -> Callable[[Scene], None]:
    def load(scene: Scene) -> None:
        scene.live(count, "nobody-knows", "queued", sort_in=-3_600_000_000)
        began = time.perf_counter()
        parked = parking.park(scene.store)  # as maintenance does within a second
        assert parked == count
        print(
            f"  {count:,} of a job nobody knows were put aside in "
            f"{time.perf_counter() - began:.1f} s"
        )

    return load


def _foreign(count: int) -> Callable[[Scene], None]:
    def load(scene: Scene) -> None:
        scene.worker("others")
        scene.live(count, "others", "queued", sort_in=-3_600_000_000)

    return load


def scenes(args: argparse.Namespace) -> dict[str, Callable[[Scene], None]]:
    """Return what each scene holds besides the ready executions."""
    blocked, history = args.blocked, args.history
    found: dict[str, Callable[[Scene], None]] = {
        "empty": _nothing,
        f"{blocked:,} blocked on one key": _blocked(blocked, 1),
        f"{blocked:,} blocked over {KEYS:,} keys": _blocked(blocked, KEYS),
        f"{blocked:,} of a job nobody knows": _strangers(blocked),
        f"{blocked:,} due later": lambda scene: scene.live(
            blocked, "work", "scheduled", run_in=86_400_000_000
        ),
        f"{history:,} finished": lambda scene: scene.history(history),
    }
    if args.foreign:
        found[f"{blocked:,} ready of a job that only another worker knows"] = _foreign(blocked)
    return found


@contextlib.contextmanager
def databases(kind: str) -> Generator[Iterator[str]]:
    """Yield migrated databases, and drop them at the end."""
    with contextlib.ExitStack() as stack:

        def sqlite() -> Iterator[str]:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netscript-")))
            for number in range(100):
                url = f"sqlite:///{place / f'{number}.db'}"
                migrations.upgrade(url)
                yield url

        def postgres() -> Iterator[str]:
            for _ in range(100):
                name = f"netscript_bench_{uuid.uuid4().hex[:12]}"
                with psycopg.connect(ADMIN, autocommit=True) as conn:
                    conn.execute(f'CREATE DATABASE "{name}"'.encode())
                stack.callback(_drop, name)
                url = make_url(ADMIN).set(database=name).render_as_string(hide_password=False)
                migrations.upgrade(url)
                yield url

        yield sqlite() if kind == "sqlite" else postgres()


def _drop(name: str) -> None:
    with psycopg.connect(ADMIN, autocommit=True) as conn:
        conn.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


@dataclass
class Table:
    """What was measured, a line a scene."""

    lines: list[str] = field(default_factory=list[str])
    held: bool = True

    def add(self, database: str, scene: Scene, empty: Scene) -> None:
        """Add a scene's line."""
        told = f"| {database} | {scene.name} "
        for mine, base in ((scene.whole, empty.whole), (scene.before_commit, empty.before_commit)):
            ratio = _p95(mine) / _p95(base)
            self.held = self.held and ratio <= BAR
            told += f"| {_p50(mine):.2f} | {_p95(mine):.2f} "
            told += f"| {_p50(mine) / _p50(base):.2f} | {ratio:.2f} "
        self.lines.append(f"{told}|")

    def __str__(self) -> str:
        head = [
            "| database | besides what is ready | claim p50 ms | p95 ms | to empty: p50 | p95 "
            "| without its commit p50 ms | p95 ms | to empty: p50 | p95 |",
            f"|{' --- |' * 10}",
        ]
        return "\n".join([*head, *self.lines])


def _take_turns(found: list[Scene], claims: int) -> None:
    for number in range(claims):
        for place in range(len(found)):
            scene = found[(number + place) % len(found)]
            if scene.claimed % (READY // 2) == READY // 2 - 1:
                scene.fill()
            scene.claim()


def _p50(runs: list[list[float]]) -> float:
    return median(median(run) for run in runs)


def _p95(runs: list[list[float]]) -> float:
    return median(quantiles(run, n=20)[-1] for run in runs)


def measure(kind: str, args: argparse.Namespace, table: Table) -> None:
    """Measure all scenes on one kind of database, in turns."""
    with databases(kind) as urls:
        found: list[Scene] = []
        for name, load in scenes(args).items():
            scene = Scene(next(urls), name)
            began = time.perf_counter()
            load(scene)
            scene.fill()
            scene.settle_down()
            print(f"  {kind}: {name}: loaded in {time.perf_counter() - began:.1f} s", flush=True)
            found.append(scene)
        gc.collect()
        gc.disable()
        for scene in found:
            scene.new_run()  # connections, plans and caches get warm
        _take_turns(found, 20)
        for scene in found:
            scene.whole.clear()
            scene.before_commit.clear()
        for _ in range(args.runs):
            for scene in found:
                scene.new_run()
            _take_turns(found, args.claims)
        gc.enable()
        for scene in found:
            table.add(kind, scene, found[0])
        for scene in found:
            print(f"\n{kind}: {scene.name}\n{scene.explain()}")
            scene.store.dispose()


def main() -> int:
    """Measure, print the table, and tell by the exit status whether the bar was held."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--history", type=int, default=1_000_000)
    parser.add_argument("--blocked", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--claims", type=int, default=CLAIMS)
    parser.add_argument(
        "--foreign",
        action="store_true",
        help="also a backlog of a job that only another live worker knows",
    )
    parser.add_argument("--database", choices=("sqlite", "postgres", "both"), default="both")
    args = parser.parse_args()
    if args.quick:
        args.history, args.blocked = args.history // 10, args.blocked // 10
    kinds = ("sqlite", "postgres") if args.database == "both" else (args.database,)
    table = Table()
    for kind in kinds:
        measure(kind, args, table)
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"\n{args.runs} runs of {args.claims} claims a scene, in turns; load {load}\n\n{table}")
    verdict = "held" if table.held else "NOT HELD"
    print(f"\np95 at most {BAR:g} times that of the empty store: {verdict}")
    return 0 if table.held else 1


if __name__ == "__main__":
    raise SystemExit(main())
