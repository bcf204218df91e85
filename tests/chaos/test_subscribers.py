"""A thousand subscribers while there is work and their server dies: nobody misses anything."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from netscript_triggers.store.verify import verify
from netscript_workers import configure_sqlite, enqueue, enqueue_job
from netscript_workers.store import changes, following
from netscript_workers.store.engine import Store, parse_url
from netscript_workers.store.migrations import upgrade
from tests.chaos.measures import peak
from tests.kit import rows, scalar
from tests.support import (
    ROOT,
    Process,
    clean_environment,
    eventually,
    free_port,
    wait_until_answers,
    write_project,
)

pytestmark = pytest.mark.chaos

SUBSCRIBERS = int(os.environ.get("NETSCRIPT_TEST_SUBSCRIBERS", "1000"))
RATE = int(os.environ.get("NETSCRIPT_TEST_RATE", "300"))
SECONDS = 60.0
RESTARTS = 5
UNFILTERED = 10
NAMES = 100
MOST_MIB = 250
# How long some users' transactions take; on SQLite nobody else can write meanwhile.
SLOW_SECONDS = {"sqlite": 0.1, "postgresql": 2.0}

JOBS = f"""
from netscript_workers import JobContext, define_job_handler

async def work(ctx: JobContext) -> None: ...

for number in range({NAMES}):
    globals()[f"job_{{number}}"] = define_job_handler(work, id=f"job-{{number}}")
"""


class Producer:
    """Enqueues in users' transactions, some of which are slow."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(parse_url(url), pool_size=20)
        if self._engine.dialect.name == "sqlite":
            configure_sqlite(self._engine)
        self._slow = SLOW_SECONDS[self._engine.dialect.name]
        self.made = 0

    def enqueue(self, count: int, *, seconds: float = 0.0, spread: float = 0.0) -> list[str]:
        actions = [
            enqueue_job(f"job-{random.randrange(NAMES)}", {}, delay=random.random() * spread)
            for _ in range(count)
        ]
        with self._engine.begin() as conn:
            ids = [one.execution_id for one in enqueue(conn, *actions)]
            time.sleep(seconds)
        self.made += count
        return ids

    def run(self, stopped: threading.Event) -> None:
        began, asked = time.monotonic(), 0
        slow: list[threading.Thread] = []
        while not stopped.is_set():
            due = round((time.monotonic() - began) * RATE) - asked
            if due > 0:
                asked += due
                if len([one for one in slow if one.is_alive()]) < 2:
                    options = {"seconds": self._slow}
                    slow.append(threading.Thread(target=self.enqueue, args=(due,), kwargs=options))
                    slow[-1].start()
                else:
                    self.enqueue(due)
            time.sleep(0.05)
        for one in slow:
            one.join()
        self._engine.dispose()


def test_nobody_misses_anything_whenever_the_server_dies(database_url: str, tmp_path: Path) -> None:
    upgrade(database_url)
    write_project(tmp_path, {"jobs/work.py": JOBS})
    store, port = Store(database_url), free_port()
    environment = {"NETSCRIPT_DATABASE_URL": database_url}
    run = ("-m", "netscript_triggers")
    peaks: list[float] = []
    with ExitStack() as stack:

        def start(*command: str) -> Process:
            process = Process(*run, *command, cwd=tmp_path, env=environment)
            return stack.enter_context(process)

        def serve() -> Process:
            process = start("serve", "--port", str(port), "--log-level", "warning")
            wait_until_answers(f"http://127.0.0.1:{port}")
            return process

        server, _worker = serve(), start("worker")
        producer = Producer(database_url)
        own = producer.enqueue(SUBSCRIBERS - UNFILTERED - NAMES, spread=SECONDS)
        queries = [
            *["*"] * UNFILTERED,
            *[f"job_id=job-{number}" for number in range(NAMES)],
            *[f"execution_id={id_}" for id_ in own],
        ]
        start_at = following.number(store)
        subscribers = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.subscribers", str(port), str(start_at)],
                cwd=ROOT,
                env=clean_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(subscribers.kill)
        assert subscribers.stdin is not None and subscribers.stdout is not None
        subscribers.stdin.write("\n".join([*queries, "", ""]))
        subscribers.stdin.flush()
        assert subscribers.stdout.readline() == "listening\n"
        stopped = threading.Event()
        producing = threading.Thread(target=producer.run, args=(stopped,))
        producing.start()
        began = time.monotonic()
        for number in range(1, RESTARTS + 1):
            time.sleep(max(0.0, began + number * SECONDS / (RESTARTS + 1) - time.monotonic()))
            peaks.append(peak(server.popen.pid))
            if number % 2:
                server.signal(signal.SIGKILL)
                server.popen.wait()
            else:
                assert server.terminate(60) == 0, server.output
            assert "Traceback" not in server.output, server.output[-3000:]
            server = serve()
        time.sleep(max(0.0, began + SECONDS - time.monotonic()))
        stopped.set()
        producing.join()
        took = time.monotonic() - began
        live = "SELECT count(*) FROM netscript_executions"
        eventually(lambda: scalar(store, live) == 0, 120, "the end of the work")
        newest = following.number(store)
        subscribers.stdin.write(f"{newest}\n")
        subscribers.stdin.flush()
        heard = [json.loads(line) for line in subscribers.communicate(timeout=120)[0].splitlines()]
        peaks.append(peak(server.popen.pid))
        assert server.terminate() == 0, server.output
        assert "Traceback" not in server.output, server.output[-3000:]

    report = (
        f"{len(queries)} subscribers, {producer.made / took:.0f} executions/s, "
        f"{newest} commits, {sum(one['count'] for one in heard)} events heard, "
        f"{sum(one['resumed'] for one in heard)} times resumed, server's peaks "
        f"{', '.join(f'{one:.0f}' for one in peaks)} MiB, load {os.getloadavg()[0]:.1f}"
    )
    print(report)
    _check(store, queries, heard, start_at)
    assert max(peaks) < MOST_MIB, report
    found = verify(store)
    assert not found.findings, str(found)
    store.dispose()


def _check(store: Store, queries: list[str], heard: list[dict[str, object]], start: int) -> None:
    """Each has heard exactly what there was, in the order of the commits."""
    with store.read() as conn:
        found = changes.read(conn, 0, limit=1_000_000)
    jobs = dict(rows(store, "SELECT CAST(id AS text), job_id FROM netscript_execution_history"))
    places: defaultdict[str, list[str]] = defaultdict(list)
    for change in found:
        if change.seq > start:
            for item, (id_, _) in enumerate(change.items):
                for query in ("*", f"job_id={jobs[id_]}", f"execution_id={id_}"):
                    places[query].append(f"{change.seq}:{item}")
    assert len(heard) == len(queries)
    wrong: Counter[str] = Counter()
    for query, one in zip(queries, heard, strict=True):
        ids = places[query]
        digest = hashlib.sha256("".join(f"{id_} " for id_ in ids).encode()).hexdigest()
        kind = query.partition("=")[0]
        wrong[f"{kind}: out of order or twice"] += bool(one["wrong"])
        wrong[f"{kind}: told reset"] += bool(one["resets"])
        wrong[f"{kind}: missed, {one['count']} of {len(ids)}"] += one["digest"] != digest
    assert not +wrong, +wrong
