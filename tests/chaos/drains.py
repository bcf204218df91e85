"""Many worker processes let loose on one backlog; every start is noted by the handlers."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from netscript_workers.store import topics
from netscript_workers.store.engine import Store
from netscript_workers.store.wake import make_bell
from tests.chaos.kills import project
from tests.kit import assert_slots_exact, new, put, scalar
from tests.support import Process, eventually


def drain_at_once(
    url: str, place: Path, *, executions: int, workers: int, concurrency: int = 20
) -> str:
    """Have workers wait before a paused topic, resume it, and see that each one starts once.

    A sixth of the executions share a few concurrency keys.
    """
    store, record = Store(url), place / "record"
    record.touch()
    topics.pause(store, "default")
    backlog = [
        new(
            "work",
            '{"key": null, "seconds": 0}',
            concurrency_key=f"key-{number % 12}" if number % 6 == 0 else None,
        )
        for number in range(executions)
    ]
    for start in range(0, executions, 1000):
        put(store, *backlog[start : start + 1000])
    shop = project(place / "shop")
    environment = {
        "NETSCRIPT_DATABASE_URL": url,
        "WORKERS_CONCURRENCY": str(concurrency),
        "CHAOS_RECORD": str(record),
    }
    command = ("-m", "netscript_triggers", "worker", "--log-level", "error")
    with ExitStack() as stack:
        for number in range(workers):
            log = place / f"worker-{number}.log"
            stack.enter_context(Process(*command, cwd=shop, env=environment, log=log))
        there = "SELECT count(*) FROM netscript_workers"
        eventually(lambda: scalar(store, there) == workers, 60, f"{workers} workers")
        assert record.read_text() == "", "somebody started before the topic was resumed"
        began = time.monotonic()
        topics.resume(store, "default")
        bell = make_bell(store.parsed_url)
        bell.ring()
        bell.close()
        left = "SELECT count(*) FROM netscript_executions"
        eventually(lambda: scalar(store, left) == 0, 300, "the end of the backlog")
        seconds = time.monotonic() - began
    lines = [line.split(" ") for line in record.read_text().splitlines()]
    starts = Counter(line[4] for line in lines if line[0] == "start")
    assert starts.keys() == {one.id for one in backlog}
    assert set(starts.values()) == {1}, [id_ for id_, count in starts.items() if count > 1]
    took_part = Counter(line[2] for line in lines if line[0] == "start")
    assert len(took_part) > 1, "one worker did it all"
    completed = "SELECT count(*) FROM netscript_execution_history WHERE status = 'completed'"
    assert scalar(store, completed) == executions
    assert scalar(store, "SELECT count(*) FROM netscript_concurrency_slots") == 0
    assert_slots_exact(store)
    store.dispose()
    shares = ", ".join(str(count) for _, count in took_part.most_common())
    return f"{executions} by {len(took_part)} of {workers} workers in {seconds:.1f} s: {shares}"
